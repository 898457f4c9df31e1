#!/bin/bash
# Runs Swift's servers in the foreground, logging to standard output; the container ends when one of them does.
#   /etc/coffer/users.conf   who may log in, one a line, as Swift's tempauth has it (comments begin with #):
#                            user_ACCOUNT_NAME = KEY [.admin] [.reseller_admin]
#                            (user64_ACCOUNT_NAME with both in base64 where they are not plain letters and digits)
#   /run/swift               a tmpfs: the configuration with these users in it
#   /srv/node                the volume: what is stored
set -euo pipefail
exec 2>&1
umask 077
users=/etc/coffer/users.conf here=/run/swift disk=/srv/node/d1 salt=/srv/node/salt
servers=()

die() { echo "swift: $*"; exit 1; }

check_users() {
    [ -r "$users" ] || die "$users is missing or cannot be read by uid $(id -u): it holds the users, one a line, as in" \
        "user_coffer_backup = KEY"
    local line number=0 found=0
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        case $line in '' | '#'*) continue ;; esac
        # the line itself stays out of the log
        [[ $line =~ ^user(_[A-Za-z0-9]+|64_[A-Za-z0-9+/]+)_[A-Za-z0-9+/]+\ =\ [A-Za-z0-9_-]{32,}(\ \.(admin|reseller_admin))*$ ]] ||
            die "$users, line $number: not of the form user_ACCOUNT_NAME = KEY [.admin] [.reseller_admin]," \
                "with a key of 32 or more of A-Z a-z 0-9 _ -"
        found=1
    done <"$users"
    [ $found = 1 ] || die "$users names no user"
}

# Where an object lies follows from its name and this salt, so it stays with the objects for as long as they are there.
# Drawn, not fixed: who knows it can choose names that all fall into one place.
find_salt() {
    if [ ! -s "$salt" ]; then
        [ ! -e "$disk" ] || die "there are objects in $disk, but $salt, which tells where, is gone"
        od -An -N 32 -t x1 /dev/urandom | tr -d ' \n' >"$salt.new"
        sync "$salt.new"
        mv "$salt.new" "$salt"
        sync /srv/node
    fi
}

write_configuration() {
    printf '[swift-hash]\nswift_hash_path_prefix = %.32s\nswift_hash_path_suffix = %s\n' \
        "$(<"$salt")" "$(cut -c 33- "$salt")" >"$here/swift.conf"
    cat /etc/swift/proxy-server.conf "$users" >"$here/proxy-server.conf"
}

run() {
    "$@" &
    servers+=($!)
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

wait_for() { # PORT: of the server that was started last
    until answers "$1"; do
        kill -0 "${servers[-1]}" 2>/dev/null || die "the server for port $1 did not start"
        sleep 0.1
    done
}

# Swift stores an object even when it cannot enter it in its container's listing, and leaves a note to do it later.
enter_what_is_left() {
    while sleep 15; do
        [ -z "$(find "$disk"/async_pending* -type f -print -quit 2>/dev/null)" ] ||
            swift-object-updater /etc/swift/object-server.conf --once --verbose || :
    done
}

check_users
find_salt
mkdir -p "$disk"
write_configuration
trap 'trap - TERM INT; kill "${servers[@]}" 2>/dev/null; wait; exit 0' TERM INT
run memcached -l 127.0.0.1 -U 0 -t 1 -c 64 -m 16
run swift-account-server /etc/swift/account-server.conf --verbose
run swift-container-server /etc/swift/container-server.conf --verbose
wait_for 6201
run swift-object-server /etc/swift/object-server.conf --verbose
wait_for 6200
answers 6202 || die "the account server did not start"
run swift-proxy-server "$here"/proxy-server.conf --verbose
run enter_what_is_left
wait -n || :
die "a server has ended"
