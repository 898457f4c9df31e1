#!/bin/sh
# Stop the stack; with --all also remove everything that carries its label: machines, volumes, networks, seeds.
set -eu
cd "$(dirname "$0")/.."
. deploy/stack.sh
if [ "${1:-}" != --all ]; then
    compose stop
    exit
fi
[ -f "$settings" ] || exit 0
compose stop --timeout 10 provisioner 2>/dev/null || :
mine() { docker "$@" --filter "label=coffer.stack=$COFFER_STACK" -q; }
for kind in container volume network; do
    [ "$kind" = container ] && list=$(mine ps -a) || list=$(mine $kind ls)
    [ -n "$list" ] || continue
    case $kind in
        container) docker rm -f -v $list > /dev/null ;;
        volume | network) docker $kind rm $list > /dev/null ;;
    esac
    printf 'removed %s %s(s)\n' "$(printf '%s\n' "$list" | wc -l)" "$kind"
done
compose down --volumes --timeout 10
rm -rf "$state" "$settings"
