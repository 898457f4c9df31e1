#!/bin/sh
# Make sure that this host has what Coffer's stack runs on: a Docker Engine that answers, the compose plugin (version 2)
# and, if it can be had, buildx. Says one line per thing it does and nothing when there is nothing to do.
# As root on Debian or Ubuntu it installs and starts what is missing; anywhere else it says what is missing, why it is
# needed and how to get it, and ends with 1.
#   COFFER_DOCKER_INSTALL=no   never install or start anything, only check
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
log=/var/log/coffer-dockerd.log
plugins=/usr/local/lib/docker/cli-plugins
disk_needed_gb=10
export DEBIAN_FRONTEND=noninteractive

say() { echo "docker: $*"; }
lack() { # WHAT WHY HOW...
    {
        echo "docker: missing: $1"
        echo "    needed: $2"
        shift 2
        for line; do echo "    how to get it: $line"; done
    } >&2
    exit 1
}

os_family() {
    [ -r /etc/os-release ] || return 0
    # shellcheck disable=SC1091
    (. /etc/os-release && echo "${ID:-} ${ID_LIKE:-}")
}

is_root() { [ "$(id -u)" = 0 ]; }

may_install() {
    [ "${COFFER_DOCKER_INSTALL:-yes}" = yes ] && is_root && command -v apt-get >/dev/null 2>&1 || return 1
    case " $(os_family) " in *" debian "* | *" ubuntu "*) return 0 ;; *) return 1 ;; esac
}

apt_fresh=no
apt_update() {
    [ "$apt_fresh" = no ] || return 0
    apt-get -qq update >/dev/null 2>&1 || say "apt-get update failed; going on with the package lists that are there"
    apt_fresh=yes
}

apt_install() {
    apt_update
    say "installing $*"
    out=$(mktemp)
    if ! apt-get install -y -qq --no-install-recommends "$@" >"$out" 2>&1; then
        tail -n 20 "$out" >&2
        rm -f "$out"
        lack "the package(s) $*" "apt-get could not install them (its last lines are above)" \
            "repair apt, then run this again"
    fi
    rm -f "$out"
}

candidate() { # PACKAGE -> the version that apt would install, without epoch; nothing if there is none
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9]*:\)\{0,1\}\([0-9][^ ]*\).*/\2/p'
}

answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

ensure_client_and_engine() {
    if ! command -v docker >/dev/null 2>&1; then
        may_install || lack "the docker command" "every part of the stack runs in a container" \
            "on Debian or Ubuntu: run this as root, or: apt-get install docker.io docker-cli" \
            "elsewhere: https://docs.docker.com/engine/install/"
        apt_update
        if [ -n "$(candidate docker-cli)" ]; then apt_install docker.io docker-cli; else apt_install docker.io; fi
        hash -r
    fi
    answers && return
    if [ -n "${DOCKER_HOST:-}" ]; then
        lack "an answer from the Docker Engine at DOCKER_HOST=$DOCKER_HOST" "every part of the stack runs there" \
            "start that engine, or unset DOCKER_HOST to use one on this host"
    fi
    if ! is_root && [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
        lack "the right to use the Docker Engine on this host" "the user $(id -un) may not open /var/run/docker.sock" \
            "as root: usermod -aG docker $(id -un), then log in again; or run this as root"
    fi
    if ! command -v dockerd >/dev/null 2>&1; then
        may_install || lack "the Docker Engine (dockerd)" "there is a docker command, but no engine answers it" \
            "on Debian or Ubuntu: run this as root, or: apt-get install docker.io" \
            "elsewhere: https://docs.docker.com/engine/install/"
        apt_install docker.io
        hash -r
        answers && return
    fi
    start_engine
}

start_engine() {
    if ! is_root || [ "${COFFER_DOCKER_INSTALL:-yes}" != yes ]; then
        lack "a running Docker Engine" "it is installed, but not running" \
            "as root: systemctl start docker, or: run this as root"
    fi
    if [ -d /run/systemd/system ]; then
        say "starting the Docker Engine (systemctl start docker)"
        systemctl start docker || :
        where="journalctl -u docker"
    else
        say "starting the Docker Engine in the background; its log is $log"
        forget_dead dockerd /var/run/docker.pid
        forget_dead containerd /var/run/docker/containerd/containerd.pid
        setsid dockerd </dev/null >>"$log" 2>&1 &
        where=$log
    fi
    i=0
    until answers; do
        i=$((i + 1))
        if [ $i -ge 300 ]; then
            [ ! -r "$log" ] || tail -n 15 "$log" >&2
            lack "a running Docker Engine" "it was started, but did not answer within 60 s" "look into $where"
        fi
        sleep 0.2
    done
}

# Where /run survives a reboot, a pid file may name a process that is something else by now, and dockerd would take it
# for its own and not start.
forget_dead() { # NAME PIDFILE
    [ -e "$2" ] || return 0
    [ "$(cat "/proc/$(cat "$2")/comm" 2>/dev/null)" = "$1" ] || rm -f "$2"
}

compose_v2() {
    case $(docker compose version --short 2>/dev/null) in [2-9].* | v[2-9].* | [1-9][0-9].*) return 0 ;; *) return 1 ;; esac
}

ensure_compose() {
    compose_v2 && return
    how="on Debian 13 and later: apt-get install docker-compose; on Ubuntu: apt-get install docker-compose-v2"
    may_install || lack "docker compose, version 2" "the stack is described in docker-compose.yml" "$how" \
        "elsewhere: https://docs.docker.com/compose/install/linux/"
    apt_update
    for p in docker-compose-plugin docker-compose-v2 docker-compose; do
        case $(candidate "$p") in [2-9].* | [1-9][0-9].*) ;; *) continue ;; esac
        apt_install "$p"
        compose_v2 && return
    done
    plugin_from_trixie docker-compose || :
    compose_v2 || lack "docker compose, version 2" "this release has only version 1, and trixie's could not be fetched" \
        "$how" "or put the plugin's binary into $plugins/docker-compose"
}

ensure_buildx() { # nice to have: without it images are built by the engine's older builder, one after the other
    docker buildx version >/dev/null 2>&1 && return
    may_install || return 0
    apt_update
    for p in docker-buildx docker-buildx-plugin; do
        [ -z "$(candidate "$p")" ] || { apt_install "$p"; return; }
    done
    plugin_from_trixie docker-buildx || say "no buildx; images will be built with the engine's older builder"
}

# Debian 12 has no version 2 of compose and no buildx, but trixie's binaries run there. Only the one binary is taken.
plugin_from_trixie() { # PACKAGE, whose plugin has the same name
    mirror=$("$here/debian-mirror.sh" | sed -n 's/^main=//p')
    [ -n "$mirror" ] || return 1
    say "fetching $1 from trixie (this release has none that fits)"
    dir=$(mktemp -d)
    rc=0
    fetch_plugin "$1" "$mirror" "$dir" >"$dir/log" 2>&1 || rc=1
    [ $rc = 0 ] || tail -n 5 "$dir/log" >&2
    rm -rf "$dir"
    return $rc
}

fetch_plugin() { # PACKAGE MIRROR DIR
    ring=/usr/share/keyrings/debian-archive-keyring.gpg signed=
    [ ! -r $ring ] || signed="[signed-by=$ring]"
    mkdir -p "$3/lists/partial" "$3/cache/archives/partial" "$3/root"
    echo "deb $signed $2 trixie main" >"$3/sources.list"
    : >"$3/status"
    cat >"$3/apt.conf" <<EOF
Dir::Etc::sourcelist "$3/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
Dir::State::status "$3/status";
Dir::State::lists "$3/lists";
Dir::Cache "$3/cache";
Acquire::Languages "none";
APT::Sandbox::User "root";
EOF
    APT_CONFIG=$3/apt.conf apt-get -qq update || return 1
    (cd "$3" && APT_CONFIG=$3/apt.conf apt-get -qq download "$1") || return 1
    dpkg-deb -x "$3/$1"_*.deb "$3/root" || return 1
    bin=$(find "$3/root" -type f -path "*/cli-plugins/$1" | head -n 1)
    [ -n "$bin" ] || return 1
    install -D -m 755 "$bin" "$plugins/$1"
}

ensure_debootstrap() { # the base image is made with it where no registry can be reached
    command -v debootstrap >/dev/null 2>&1 || ! may_install || apt_install debootstrap
}

check_disk() {
    root=$(docker info --format '{{.DockerRootDir}}' 2>/dev/null)
    [ -d "${root:-}" ] || return 0
    free=$(df -Pk "$root" | awk 'NR == 2 {print int($4 / 1048576)}')
    [ "$free" -ge $disk_needed_gb ] || lack "disk space: $free GB free at $root" \
        "images, volumes and backups of the stack take about $disk_needed_gb GB" \
        "free some (docker system df shows what Docker holds)"
}

# Each database instance runs an engine of its own, which watches files; the usual 128 watchers last for a dozen.
raise_inotify() {
    f=/proc/sys/fs/inotify/max_user_instances
    [ -w $f ] && [ "$(cat $f)" -lt 1024 ] || return 0
    if { echo 1024 >$f; } 2>/dev/null; then say "raised fs.inotify.max_user_instances to 1024"; fi
}

ensure_client_and_engine
ensure_compose
ensure_buildx
ensure_debootstrap
check_disk
raise_inotify
