#!/bin/sh
# Build the stack's images: the base first, then each folder here that has a Dockerfile, or only the ones named. Keystone
# is left out unless it is named or COFFER_PROFILES has it.
#   build.sh [NAME...]             e.g. build.sh services machine; "machine=": those of its images that are stages
#   build.sh --engines             only prints the images of engines and their backups, which machines pull
#   COFFER_BUILD_JOBS=2            how many at a time
#   COFFER_BUILD_FRESH=yes         from nothing, with the packages of today
#   COFFER_BUILD_LOGS=DIR          where each build's output goes (a folder of its own under TMPDIR by default)
# Works with BuildKit and with the engine's older builder (DOCKER_BUILDKIT=0). Where this host's pip has an index of its
# own, the builds use it; so with http_proxy and the like.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
export COFFER_BUILD_LOGS="${COFFER_BUILD_LOGS:-${TMPDIR:-/tmp}/coffer-build-$(id -u)}"

# images: what the folder makes, in the order to build it in; IMAGE=STAGE where it is a stage of the Dockerfile.
# tree: what of the repository is the build's context, if it is not the folder alone.
# A folder with a file `versions` is an engine's: an image of the server and one for its backups, for each version. The
# latter take the program of backup-program over, which is therefore made before them.
plan() {
    images=coffer/$1 tree=''
    if [ -f "$here/$1/versions" ]; then
        images=
        for version in $(cat "$here/$1/versions"); do
            images="$images coffer/$1:$version=server coffer/$1-backup:$version=backup"
        done
    fi
    case $1 in
        backup-program) tree="requirements shared guest" ;;
        services) tree="requirements shared services" ;;
        machine)
            images="coffer/machine-agent=agent coffer/machine-tools=tools coffer/machine"
            tree="requirements shared guest" ;;
    esac
}

# NAME=VALUE for each setting of pip that a container can use too; a file:// index is of this host alone
pip_settings() {
    for pair in PIP_INDEX_URL=global.index-url PIP_EXTRA_INDEX_URL=global.extra-index-url \
        PIP_TRUSTED_HOST=global.trusted-host; do
        name=${pair%%=*}
        value=$(printenv "$name" || python3 -m pip config get "${pair#*=}" 2>/dev/null || :)
        case $value in *file:* | '') ;; *) printf '%s=%s\n' "$name" "$(echo "$value" | tr '\n' ' ')" ;; esac
    done
}

# The context goes through a pipe, so that neither builder ever looks at the rest of the checkout.
build() { # NAME TREE, with the arguments of docker build in $@ after them
    name=$1 tree=$2
    shift 2
    if [ -z "$tree" ]; then
        docker build "$@" "$here/$name"
    else
        # shellcheck disable=SC2086
        tar -C "$root" --exclude=__pycache__ --exclude='.*_cache' --exclude='*.egg-info' -cf - $tree "deploy/images/$name" |
            docker build -f "deploy/images/$name/Dockerfile" "$@" -
    fi
}

# One folder: its images one after the other, so that layers in common are made once.
build_one() { # NAME
    name=${1%%=*} only=${1#"${1%%=*}"}
    plan "$name"
    shift
    [ -z "${COFFER_BUILD_FRESH:-}" ] || set -- "$@" --no-cache
    for v in http_proxy https_proxy no_proxy; do ! printenv $v >/dev/null || set -- "$@" --build-arg $v; done
    while IFS= read -r setting; do
        [ -z "$setting" ] || set -- "$@" --build-arg "$setting"
    done <<EOF
$COFFER_BUILD_PIP
EOF
    for item in $images; do
        case $item in *"$only"*) ;; *) continue ;; esac
        image=${item%%=*} log=$COFFER_BUILD_LOGS/$(echo "${item%%=*}" | tr '/:' '--').log
        start=$(date +%s)
        target=${item#"$image"}
        if build "$name" "$tree" -t "$image" ${target:+--target "${target#=}"} "$@" >"$log" 2>&1; then
            echo "image: $image ($(($(date +%s) - start)) s)"
        else
            echo "image: $image FAILED; the end of $log:" >&2
            tail -n 30 "$log" >&2
            return 1
        fi
    done
}

case ${1:-} in
    --one)
        build_one "$2"
        exit ;;
    --engines)
        for file in "$here"/*/versions; do
            file=${file%/versions}
            plan "${file##*/}"
            for item in $images; do echo "${item%%=*}"; done
        done
        exit ;;
esac
if [ $# = 0 ]; then
    for file in "$here"/*/Dockerfile; do
        name=${file%/*}
        name=${name##*/}
        case $name,${COFFER_PROFILES:-} in base,* | backup-program,* | keystone,) continue ;; esac
        set -- "$@" "$name"
    done
fi
for name; do
    if [ ! -f "$here/${name%%=*}/Dockerfile" ] || [ "$name" = base ]; then
        echo "image: there is no $name here" >&2
        exit 2
    fi
done
mkdir -p "$COFFER_BUILD_LOGS"
COFFER_BUILD_PIP=$(pip_settings)
export COFFER_BUILD_PIP
"$here/base/mkbase.sh"
engines=no
for name; do [ ! -f "$here/$name/versions" ] || engines=yes; done
[ $engines = no ] || "$0" --one backup-program
printf '%s\n' "$@" | xargs -P "${COFFER_BUILD_JOBS:-2}" -n 1 "$0" --one
