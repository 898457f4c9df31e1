#!/bin/sh
# Push local images into the stack's registry; prints a line "IMAGE DIGEST" for each, the digest being what a datastore
# version records. An image that is there already is not sent again.
#   push.sh NETWORK REGISTRY IMAGE...     e.g. push.sh coffer_control registry-rw:5000 coffer/postgres:17
# The engine of this host need not reach the registry: a container on NETWORK does.
set -eu

[ $# -ge 3 ] || { sed -n 2,5p "$0" >&2; exit 2; }
network=$1 registry=$2
shift 2
tool() { docker run --rm -i --network "$network" --entrypoint coffer-push coffer/registry "$@"; }

for image; do
    id=$(docker image inspect -f '{{.Id}}' "$image")
    digest=$(tool --check "$registry/$image" "$id" </dev/null) || digest=$(docker save "$image" | tool "$registry/$image")
    case $digest in sha256:*) echo "$image $digest" ;; *) echo "push: $image could not be pushed" >&2; exit 1 ;; esac
done
