#!/bin/bash
# Runs Keystone in the foreground, logging to standard output. It answers once everything that is to be there is there.
#   /etc/coffer/keystone.json   the users, their passwords, projects and roles (seed.py says how)
#   /var/lib/keystone           the volume: database and keys
#   COFFER_IDENTITY_URL, COFFER_DATABASE_URL   the addresses for the catalogue
set -euo pipefail
exec 2>&1
umask 077
users=/etc/coffer/keystone.json here=/var/lib/keystone

die() { echo "keystone: $*"; exit 1; }

# A key for the tokens of now and the one that comes after it, as `keystone-manage fernet_setup` would draw them.
make_keys() {
    [ ! -d $here/fernet-keys ] || return 0
    mkdir -p $here/new-keys
    for name in 0 1; do
        head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '\n' >$here/new-keys/$name
    done
    sync $here/new-keys/*
    mv $here/new-keys $here/fernet-keys
}

# Of this release of Keystone, with its roles, its admin and itself in the catalogue. Noted at the end, so that a start
# that was broken off begins again.
make_database() {
    local release
    release=$(dpkg-query -W -f '${Version}' python3-keystone)
    [ "$(cat $here/release 2>/dev/null)" != "$release" ] || return 0
    if [ -s $here/keystone.db ]; then
        keystone-manage db_sync
    else
        cp /usr/share/keystone/empty.db $here/keystone.db.new
        sync $here/keystone.db.new
        mv $here/keystone.db.new $here/keystone.db
    fi
    OS_BOOTSTRAP_PASSWORD=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["admin_password"])' $users) \
        keystone-manage bootstrap --bootstrap-region-id RegionOne --bootstrap-public-url "$COFFER_IDENTITY_URL" \
        --bootstrap-internal-url "$COFFER_IDENTITY_URL" --bootstrap-admin-url "$COFFER_IDENTITY_URL"
    echo "$release" >$here/release
}

[ -r $users ] || die "$users is missing or cannot be read by uid $(id -u)"
[ -w $here ] || die "$here cannot be written by uid $(id -u)"
: "${COFFER_IDENTITY_URL:?is not set}" "${COFFER_DATABASE_URL:?is not set}"
make_keys
make_database
cd /etc/keystone
exec gunicorn
