#!/bin/sh
# Upload the guest image that deploy/guest-image/build.sh made (or FILE) to the cloud of a stack that is up. New machines
# start from it at once; what runs stays as it is until it is rebuilt. Repeating it does nothing.
#   upload-image.sh [FILE]
set -eu
cd "$(dirname "$0")/../.."
. deploy/stack.sh
image=${1:-$(ls -t build/guest/coffer-guest-*.qcow2 2> /dev/null | head -n 1)}
[ -s "$image" ] || { echo "There is no image: run deploy/guest-image/build.sh" >&2; exit 2; }
name=$(basename "$image")
compose run --rm -T --no-deps -v "$(realpath "$image"):/image/$name:ro" -e OS_CLIENT_CONFIG_FILE=/run/openstack/clouds.yaml \
    migrate coffer-manage image upload "/image/$name" --cloud "$(sed -n 's/^COFFER_OPENSTACK_CLOUD=//p' "$settings")"
