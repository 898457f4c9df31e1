#!/bin/sh
# Build the guest image: build/guest/coffer-guest-VERSION.qcow2, for `coffer-manage image upload`.
#   build.sh             does nothing when it is there, made from the same files
#   build.sh --fresh     with the Debian packages of today, also if it is there
# It needs Docker (deploy/host/docker.sh) and what deploy/images/build.sh needs, and no registry, virtualization, loop
# device or mount.
#   COFFER_BUILD_LOGS=DIR    where each build's output goes
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
export COFFER_BUILD_LOGS="${COFFER_BUILD_LOGS:-${TMPDIR:-/tmp}/coffer-build-$(id -u)}"
log=$COFFER_BUILD_LOGS/guest-image.log
out=$root/build/guest
begin=$(date +%s)

say() { echo "guest image: $*"; }
die() {
    echo "guest image: $*" >&2
    [ ! -s "$log" ] || tail -n 30 "$log" >&2
    exit 1
}

# Of all that the image is made of, without what Debian has today.
inputs() {
    cd "$root"
    find deploy/guest-image/Dockerfile deploy/guest-image/*.sh deploy/guest-image/files deploy/images/machine/Dockerfile \
        deploy/images/machine/containerd.toml deploy/images/base requirements/guest.txt shared guest \
        -type f ! -path '*/__pycache__/*' ! -path '*.egg-info/*' ! -path '*_cache/*' | LC_ALL=C sort | xargs sha256sum |
        sha256sum | cut -c 1-10
}

fresh=''
case ${1:-} in
    '') ;;
    --fresh) fresh=--no-cache ;;
    *) sed -n 2,7p "$0" >&2; exit 2 ;;
esac
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/guest/pyproject.toml")-$(inputs)
image=$out/coffer-guest-$version.qcow2
if [ -s "$image" ] && [ -z "$fresh" ]; then
    say "$image is there"
    exit 0
fi
mkdir -p "$out" "$COFFER_BUILD_LOGS"
: >"$log"
"$root/deploy/host/docker.sh"

# mkbase.sh, the agent and its tools; then what makes a machine of it
COFFER_BUILD_FRESH=$fresh "$root/deploy/images/build.sh" machine=
set --
for v in http_proxy https_proxy no_proxy; do ! printenv $v >/dev/null || set -- "$@" --build-arg $v; done
for stage in guest disk; do
    step=$(date +%s)
    docker build $fresh "$@" -t "coffer/guest-image:$stage" --target $stage "$here" >>"$log" 2>&1 ||
        die "docker build failed; the end of $log:"
    say "stage $stage ($(($(date +%s) - step)) s)"
done

step=$(date +%s)
container=$(docker create coffer/guest-image:guest)
trap 'docker rm -f "$container" >/dev/null 2>&1; rm -f "$image.new"' EXIT
trap 'exit 1' HUP INT TERM
docker export "$container" | docker run --rm -i --network none coffer/guest-image:disk "$version" >"$image.new" 2>>"$log" ||
    die "making the disk failed; the end of $log:"
[ -s "$image.new" ] || die "making the disk failed; the end of $log:"
mv "$image.new" "$image"
say "disk ($(($(date +%s) - step)) s)"
say "$image, $(($(stat -c %s "$image") / 1048576)) MiB, $(($(date +%s) - begin)) s"
