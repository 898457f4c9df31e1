#!/bin/bash
# Everything that needs a real OpenStack. Which one, the environment says:
#   COFFER_TEST_CLOUDS_FILE     a clouds.yaml, and in it
#   COFFER_TEST_CLOUD           the service's user and project (docs/OPENSTACK.md has the roles)
#   COFFER_TEST_ADMIN_CLOUD     an administrator, for the catalogue and to look behind
#   COFFER_TEST_TENANT_CLOUD    a member of an ordinary project
#   COFFER_SITE_ADDRESS         an address of this host that machines reach through the external network
#   COFFER_OPENSTACK_PUBLIC_NETWORK   the external network with floating addresses
#   COFFER_TEST_FLAVOR, COFFER_TEST_OTHER_FLAVOR   names; 1 GiB and 4 GiB of disk at least, and another one
#   COFFER_TEST_GUESTS=none     without machines that really run (Nova's fake driver): the driver's suites alone; they
#                               take the cloud's first image and its three smallest flavors
#   COFFER_TEST_PATIENCE, COFFER_PATIENCE   factors of every time that is waited for (3 for emulated processors)
set -eu
cd "$(dirname "$0")/../.."
missing=
for name in TEST_CLOUDS_FILE TEST_CLOUD TEST_ADMIN_CLOUD TEST_TENANT_CLOUD OPENSTACK_PUBLIC_NETWORK; do
    value=COFFER_$name
    [ -n "${!value:-}" ] || missing="$missing COFFER_$name"
done
guests=${COFFER_TEST_GUESTS:-real}
[ "$guests" = none ] || for name in SITE_ADDRESS TEST_FLAVOR TEST_OTHER_FLAVOR; do
    value=COFFER_$name
    [ -n "${!value:-}" ] || missing="$missing COFFER_$name"
done
[ -z "$missing" ] || { echo "Not set:$missing" >&2; sed -n 2,14p "$0" >&2; exit 2; }
tests() { .venv/bin/pytest -v -s -p no:cacheprovider "$@"; }

if [ "$guests" = none ]; then
    export COFFER_TEST_PUBLIC_NETWORK=$COFFER_OPENSTACK_PUBLIC_NETWORK
    tests tests/contract/cloud -k "openstack and not double"
    tests tests/contract/cloud_openstack -k real
    tests tests/on_openstack/tenant
    exit
fi

export COFFER_STACK=${COFFER_STACK:-cofferopenstack} COFFER_CLOUD=openstack COFFER_PROFILES=''
export COFFER_API_PORTS=${COFFER_API_PORTS:-28779-28780} COFFER_PROMETHEUS_PORT=${COFFER_PROMETHEUS_PORT:-29090}
export COFFER_CLOUDS_FILE=$COFFER_TEST_CLOUDS_FILE COFFER_OPENSTACK_CLOUD=$COFFER_TEST_CLOUD
export COFFER_OPENSTACK_MANAGEMENT_NETWORKS=coffer-management COFFER_OPENSTACK_MANAGEMENT_SECURITY_GROUPS=coffer-management
export COFFER_TEST_CLIENT_CIDR=${COFFER_TEST_CLIENT_CIDR:-$COFFER_SITE_ADDRESS/32}
export OS_CLIENT_CONFIG_FILE=$COFFER_TEST_CLOUDS_FILE OPENSTACK=$PWD/.venv/bin/openstack
trap 'deploy/down.sh --all' EXIT

began=$SECONDS
deploy/openstack/prepare.sh "$COFFER_TEST_ADMIN_CLOUD" "$COFFER_TEST_CLOUD" "$COFFER_OPENSTACK_PUBLIC_NETWORK" \
    "http://127.0.0.1:${COFFER_API_PORTS%%-*}"
COFFER_OPENSTACK_REGION=$("$OPENSTACK" --os-cloud "$COFFER_TEST_CLOUD" configuration show -f value -c region_name)
export COFFER_OPENSTACK_REGION
deploy/guest-image/build.sh
tests tests/integration/guest/test_guest_image.py
deploy/up.sh
deploy/openstack/upload-image.sh
echo "The site is ready after $((SECONDS - began)) s."
tests tests/on_openstack/story
