#!/bin/sh
# Make coffer/base:trixie, the one image that every image of the stack starts from: a minimal Debian trixie that trusts
# what this host trusts and installs packages from where this host does.
#   mkbase.sh            does nothing when the image is there and was made by this script from the same settings
# It starts from debian:trixie-slim where a registry offers that, else from debootstrap (as root, with a Debian mirror).
#   COFFER_BASE_IMAGE                this image instead of either of them
#   COFFER_DEBIAN_MIRROR             the mirror; else the host's own, read from its apt sources; else debootstrap's own
#   COFFER_DEBIAN_SECURITY_MIRROR    the same for security updates
#   SSL_CERT_FILE                    the CA bundle to trust besides Debian's; else /etc/ssl/certs/ca-certificates.crt
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
suite=trixie
image=coffer/base:$suite
bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
ring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { echo "base: $*"; }
die() { echo "base: $*" >&2; exit 1; }

found=$("$here/../../host/debian-mirror.sh")
mirror=${COFFER_DEBIAN_MIRROR:-$(echo "$found" | sed -n 's/^main=//p')}
security=${COFFER_DEBIAN_SECURITY_MIRROR:-$(echo "$found" | sed -n 's/^security=//p')}

hash_of() { sha256sum | cut -c 1-16; }
bare_key=$({ cat "$0"; echo "${COFFER_BASE_IMAGE:-} $mirror"; } | hash_of)
key=$({ echo "$bare_key $security"; cat "$here/Dockerfile" "$here/debian.dpkg" "$here/debian.apt"; cat "$bundle" 2>/dev/null || :; } | hash_of)
label() { docker image inspect -f '{{index .Config.Labels "coffer.base"}}' "$1" 2>/dev/null || :; }

[ "$(label $image)" != "$key" ] || exit 0
docker version >/dev/null 2>&1 || die "no Docker Engine answers; deploy/host/docker.sh tells how to get one"

work=$(mktemp -d)
clean() {
    ! mountpoint -q "$work/root" || umount "$work/root"
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 1' HUP INT TERM

# --- the system itself -------------------------------------------------------------------------------------------------
bare() {
    if [ -n "${COFFER_BASE_IMAGE:-}" ]; then
        from=$COFFER_BASE_IMAGE
        docker image inspect "$from" >/dev/null 2>&1 && return
        say "pulling $from"
        docker pull -q "$from" >/dev/null || die "COFFER_BASE_IMAGE=$from is not here and cannot be pulled"
        return
    fi
    from=debian:$suite-slim
    docker image inspect "$from" >/dev/null 2>&1 && return
    ! timeout 30 docker pull -q "$from" >/dev/null 2>&1 || { say "pulled $from"; return; }
    from=coffer/base:bare
    [ "$(label $from)" = "$bare_key" ] || bootstrap
}

bootstrap() {
    if ! command -v debootstrap >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
        die "no registry offers debian:$suite-slim here, and making it takes debootstrap and root:" \
            "apt-get install debootstrap and run this as root, or name an image in COFFER_BASE_IMAGE"
    fi
    say "no registry offers debian:$suite-slim; making it with debootstrap (about a minute)"
    mkdir "$work/root"
    # in memory if there is enough: dpkg syncs each file, which is most of the time on a disk
    if [ "$(awk '/^MemAvailable/ {print int($2 / 1048576)}' /proc/meminfo)" -ge 3 ]; then
        mount -t tmpfs -o mode=755,size=1500m coffer-base "$work/root" 2>/dev/null || :
    fi
    if [ -z "${http_proxy:-}" ]; then
        proxy=$(apt-config shell P Acquire::http::Proxy 2>/dev/null | sed -n "s/^P='\(.*\)'$/\1/p")
        case $proxy in '' | DIRECT) ;; *) export http_proxy="$proxy" ;; esac
    fi
    set -- --variant=minbase --include=ca-certificates
    [ ! -r $ring ] || set -- "$@" --keyring="$ring"
    # shellcheck disable=SC2086
    debootstrap "$@" "$suite" "$work/root" $mirror >"$work/log" 2>&1 || {
        tail -n 15 "$work/log" >&2
        die "debootstrap failed (its last lines are above)"
    }
    rm -rf "$work/root"/var/cache/apt/archives/*.deb "$work/root"/var/cache/apt/*.bin "$work/root"/var/lib/apt/lists/* \
        "$work/root"/var/log/bootstrap.log "$work/root"/var/log/dpkg.log "$work/root"/var/cache/debconf/*-old
    tar -C "$work/root" --exclude='./usr/share/doc/*/*[!t]' --exclude='./usr/share/man/*' --exclude='./usr/share/info/*' \
        --exclude='./usr/share/locale/*' --exclude='./usr/share/lintian/*' --exclude='./dev/*' --exclude='./proc/*' \
        --exclude='./sys/*' -cf - . |
        docker import --change "LABEL coffer.base=$bare_key" --change 'CMD ["bash"]' - "$from" >/dev/null
}

# --- its trust and its sources -----------------------------------------------------------------------------------------
# One file per certificate of the host's bundle that Debian's own does not have: update-ca-certificates wants it so.
extra_certs() { # DIR
    [ -r "$bundle" ] || return 0
    docker run --rm "$from" cat /etc/ssl/certs/ca-certificates.crt 2>/dev/null | one_line | sort >"$work/has" || :
    one_line <"$bundle" | sort -u | grep -Fvx -f "$work/has" >"$work/extra" || :
    n=0
    while read -r body; do
        n=$((n + 1))
        { echo '-----BEGIN CERTIFICATE-----'; echo "$body" | fold -w 64; echo '-----END CERTIFICATE-----'; } >"$1/host-$n.crt"
    done <"$work/extra"
}
one_line() { awk '/BEGIN CERT/ {b = ""; on = 1; next} /END CERT/ {print b; on = 0} on {gsub(/[ \r]/, ""); b = b $0}'; }

has_suite() { # MIRROR SUITE
    /usr/lib/apt/apt-helper download-file "$1/dists/$2/InRelease" "$work/probe" >/dev/null 2>&1
}

sources() {
    [ -n "$mirror" ] || return 0
    suites=$suite
    ! has_suite "$mirror" $suite-updates || suites="$suites $suite-updates"
    stanza "$mirror" "$suites"
    [ -z "$security" ] || ! has_suite "$security" $suite-security || { echo; stanza "$security" $suite-security; }
}
stanza() { printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$1" "$2" $ring; }

bare
mkdir -p "$work/context/ca"
cp "$here/Dockerfile" "$here/debian.dpkg" "$here/debian.apt" "$work/context/"
extra_certs "$work/context/ca"
sources >"$work/context/debian.sources"
# a host whose clock or mirror is off says so in its apt settings: the image has the same clock and mirror
apt-config dump 2>/dev/null | grep -E '^Acquire::Check-(Valid-Until|Date) ' >>"$work/context/debian.apt" || :
touch "$work/context/ca/none.crt"

say "making $image from $from"
docker build -q -t $image --build-arg "FROM=$from" --label "coffer.base=$key" "$work/context" >"$work/log" 2>&1 || {
    tail -n 30 "$work/log" >&2
    die "docker build failed (its last lines are above)"
}
