#!/bin/sh
# Make the seed volume for a set of images, unless it is there; prints its name.
#   seed.sh STACK NETWORK REGISTRY IMAGE@DIGEST...
#                       e.g. seed.sh coffer coffer_management registry:5000 registry:5000/coffer/postgres@sha256:...
# A seed never changes: another set of images makes another volume, and machines keep the one they were made with.
# Its name is STACK-seed- and a digest of the set, which the label coffer.seed carries in full.
set -eu

[ $# -ge 4 ] || { sed -n 2,6p "$0" >&2; exit 2; }
stack=$1 network=$2 registry=$3
shift 3
for image; do
    case $image in *@sha256:*) ;; *) echo "seed: $image: name images by digest" >&2; exit 2 ;; esac
done
digest=$(printf '%s\n' "$@" | sort -u | sha256sum | cut -d ' ' -f 1)
volume=$stack-seed-$(echo "$digest" | cut -c 1-12)
maker=$volume-make

# the maker is removed only after it has succeeded: where it still is, the volume is not whole
if docker container inspect "$maker" >/dev/null 2>&1; then
    docker rm -f -v "$maker" >/dev/null
    docker volume rm "$volume" >/dev/null 2>&1 || :
fi
if ! docker volume inspect "$volume" >/dev/null 2>&1; then
    caps=
    for c in CHOWN DAC_OVERRIDE FOWNER FSETID MKNOD NET_ADMIN SETFCAP SYS_ADMIN SYS_CHROOT; do caps="$caps --cap-add $c"; done
    docker volume create --label coffer.stack="$stack" --label coffer.seed="$digest" "$volume" >/dev/null
    # shellcheck disable=SC2086
    docker run --name "$maker" --label coffer.stack="$stack" --network "$network" --cap-drop ALL $caps \
        --security-opt seccomp=unconfined --security-opt apparmor=unconfined --cgroupns private \
        --tmpfs /run:exec --tmpfs /tmp:exec -v "$volume":/seed --init --entrypoint coffer-seed \
        coffer/machine make /seed "$registry" "$@" >&2
    docker rm -v "$maker" >/dev/null
fi
echo "$volume"
