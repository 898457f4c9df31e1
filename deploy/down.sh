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
if grep -qx COFFER_CLOUD=openstack "$settings" && [ "${COFFER_FORGET_INSTANCES:-}" != yes ]; then
    left=$(compose exec -T postgres psql -XAtq -U postgres -d coffer \
        -c 'SELECT count(*) FROM instances WHERE deleted_at IS NULL' 2> /dev/null) || left='an unknown number of'
    [ "$left" = 0 ] || {
        echo "There are $left instances, whose machines would stay in the cloud without anybody knowing of them: delete them" \
            "first, or say COFFER_FORGET_INSTANCES=yes" >&2
        exit 1
    }
fi
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
