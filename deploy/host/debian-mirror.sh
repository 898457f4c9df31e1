#!/bin/sh
# Where this host gets its Debian packages from, read from its own apt sources (both formats: apt itself parses them).
#   debian-mirror.sh           prints  main=URI  and, when there is one,  security=URI
# Prints nothing where there is no apt or the host is not Debian: its mirror has no Debian suites then.
set -eu

command -v apt-get >/dev/null 2>&1 || exit 0
[ -r /etc/os-release ] || exit 0
# shellcheck disable=SC1091
[ "$(. /etc/os-release && echo "${ID:-}")" = debian ] || exit 0

# each line: 'URI/dists/SUITE/InRelease' name size
apt-get update --print-uris 2>/dev/null | sed -n "s#^'\(https\{0,1\}://.*\)/dists/\(.*\)/\(In\)\{0,1\}Release'.*#\2 \1#p" |
while read -r suite uri; do
    case $suite in
        *-updates | *-backports | *-backports-sloppy | *-debug) ;;
        *-security | */updates) echo "security=$uri" ;;
        buster | bullseye | bookworm | trixie | forky | sid | unstable | testing | stable | oldstable | oldoldstable)
            echo "main=$uri" ;;
    esac
done | sort -u -t = -k 1,1
