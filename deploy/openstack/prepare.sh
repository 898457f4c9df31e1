#!/bin/sh
# What Coffer needs in a cloud and does not make itself: the management network with a way to this host, a security group
# for it, and the catalogue's entry. Makes what is missing and leaves alone what is there; needs the openstack command.
#   prepare.sh ADMIN_CLOUD SERVICE_CLOUD EXTERNAL_NETWORK API_URL     both clouds as clouds.yaml names them
#   OPENSTACK            the command, if it is not `openstack`
#   COFFER_MANAGEMENT_CIDR   the management network's range (172.30.0.0/22); no tenant's network should overlap it
# docs/OPENSTACK.md tells what each part is for, and which roles the two users need.
set -eu
[ $# = 4 ] || { sed -n 2,8p "$0" >&2; exit 2; }
admin=$1 service=$2 external=$3 api=$4
network=coffer-management range=${COFFER_MANAGEMENT_CIDR:-172.30.0.0/22}
openstack=${OPENSTACK:-openstack}

as() { cloud=$1; shift; "$openstack" --os-cloud "$cloud" "$@"; }
have() { # KIND NAME: by that name, in the service's own project
    as "$service" "$1" list --project "$project" -f value -c Name | grep -qx "$2"
}
say() { echo "prepare: $*"; }

project=$(as "$service" token issue -f value -c project_id)

have network $network || {
    say "the management network $network, $range"
    as "$service" network create --internal --no-share $network -f value -c id > /dev/null
}
have subnet $network || as "$service" subnet create --network $network --subnet-range "$range" $network -f value -c id > /dev/null
have router $network || {
    say "its router, out through $external"
    as "$service" router create --external-gateway "$external" $network -f value -c id > /dev/null
    as "$service" router add subnet $network $network
}
# Nothing comes in: the agent asks, and is never asked.
have "security group" $network || {
    say "its security group, which lets nothing in"
    as "$service" security group create --description "Agents of database machines: nothing comes in" $network \
        -f value -c id > /dev/null
}

as "$admin" service list -f value -c Type | grep -qx database || {
    say "the catalogue's entry: database at $api"
    as "$admin" service create --name coffer --description "Databases" database -f value -c id > /dev/null
}
region=$(as "$service" configuration show -f value -c region_name)
for interface in public internal admin; do
    as "$admin" endpoint list --service database --interface $interface --region "$region" -f value -c URL | grep -q . ||
        as "$admin" endpoint create --region "$region" database $interface "$api/v1.0/%(tenant_id)s" -f value -c id > /dev/null
done
say "ready: COFFER_OPENSTACK_MANAGEMENT_NETWORKS=$network COFFER_OPENSTACK_MANAGEMENT_SECURITY_GROUPS=$network COFFER_OPENSTACK_REGION=$region"
