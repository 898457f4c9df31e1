#!/bin/bash
# Every kind of test on a stack of its own, which is removed afterwards. DEPTH=short (default) or full.
# Prints what each part took; goes on after a part that fails, and ends with 1 then.
set -u
cd "$(dirname "$0")/.."
export COFFER_STACK=${COFFER_STACK:-coffertest}
export COFFER_API_PORTS=${COFFER_API_PORTS:-18779-18780} COFFER_PROMETHEUS_PORT=${COFFER_PROMETHEUS_PORT:-19090}
export COFFER_TENANT_POOL=${COFFER_TENANT_POOL:-10.214.0.0/16} COFFER_PUBLIC_POOL=${COFFER_PUBLIC_POOL:-127.0.14.0/24}
export COFFER_SWIFT_PORT=${COFFER_SWIFT_PORT:-18781}
export COFFER_PROFILES=keystone COFFER_KEYSTONE_PORT=${COFFER_KEYSTONE_PORT:-18783}
export COFFER_KEYSTONE_API_PORT=${COFFER_KEYSTONE_API_PORT:-18782}
export COFFER_HEARTBEAT_EXPIRY=${COFFER_HEARTBEAT_EXPIRY:-25}
export DEPTH=${DEPTH:-short}
took=() others=() failed=0

part() {
    local title=$1 began=$SECONDS
    shift
    printf '\n=== %s\n' "$title"
    if "$@"; then verdict=passed; else verdict=FAILED failed=1; fi
    took+=("$(printf '%-44s %5d s  %s' "$title" $((SECONDS - began)) "$verdict")")
}
beside() { # like part, in the background: what it prints is kept until `joined`
    local log
    log=$(mktemp)
    (
        began=$SECONDS
        if "${@:2}" > "$log" 2>&1; then verdict=passed; else verdict=FAILED; fi
        printf '%-44s %5d s  %s' "$1 (beside the next)" $((SECONDS - began)) "$verdict" > "$log.verdict"
    ) &
    others+=("$!" "$log")
}
joined() {
    local n
    for ((n = 0; n < ${#others[@]}; n += 2)); do
        wait "${others[n]}"
        cat "${others[n + 1]}"
        took+=("$(cat "${others[n + 1]}.verdict")")
        case ${took[-1]} in *FAILED) failed=1 ;; esac
        rm -f "${others[n + 1]}" "${others[n + 1]}.verdict"
    done
    others=()
}
tests() { .venv/bin/pytest -q -p no:cacheprovider "$@"; }
finish() {
    deploy/down.sh --all > /dev/null 2>&1
    printf '\n=== what it took (load %s)\n' "$(cut -d' ' -f1-3 /proc/loadavg)"
    printf '    %s\n' "${took[@]}"
    [ $failed = 0 ] && echo "All parts passed." || echo "Some parts FAILED."
}
trap 'finish; exit $failed' EXIT
trap 'exit 130' INT TERM

beside "Docker and the images" sh -c 'deploy/host/docker.sh && deploy/images/build.sh'
part "linters, types, import rules" make -s check
part "unit" tests tests/unit
joined
beside "integration: guests in Docker" tests tests/integration/guest
part "integration: the API" tests -n 3 --dist loadfile tests/integration/api
joined
part "integration: the rest" tests -n 3 --dist loadfile tests/integration/{collector,db,manage,nats,provisioner}
part "the stack comes up" deploy/up.sh
beside "existing clients" tests tests/clients
part "end to end" tests tests/e2e
joined
# The faults are mostly waited for, so this is work for meanwhile.
beside "contracts" tests tests/contract
part "chaos" tests tests/chaos
joined
