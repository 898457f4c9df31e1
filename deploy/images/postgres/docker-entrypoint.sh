#!/bin/bash
# Starts PostgreSQL, making the cluster first when PGDATA is empty. The environment it understands is that of the official
# image: POSTGRES_{PASSWORD,USER,DB,INITDB_ARGS}[_FILE], POSTGRES_INITDB_WALDIR, POSTGRES_HOST_AUTH_METHOD, PGDATA, and
# files in /docker-entrypoint-initdb.d. A first argument that starts with '-' is for the server.
set -Eeuo pipefail

say() { echo "entrypoint: $*"; }
die() { echo "entrypoint: $*" >&2; exit 1; }

# VAR, or the content of the file that VAR_FILE names, or the default
setting() { # VAR [DEFAULT]
    local var=$1 file=$1_FILE
    if [ -n "${!var:-}" ] && [ -n "${!file:-}" ]; then die "$var and $file are both set: use one"; fi
    if [ -n "${!file:-}" ]; then
        [ -r "${!file}" ] || die "$file names ${!file}, which cannot be read"
        export "$var=$(<"${!file}")"
    elif [ -z "${!var:-}" ]; then
        export "$var=${2:-}"
    fi
    unset "$file"
}

asks_only() { # is one of the arguments a question that the server answers and ends?
    local a
    for a; do case $a in -'?' | --help | --describe-config | -V | --version | -C) return 0 ;; esac; done
    return 1
}

# --- as root -----------------------------------------------------------------------------------------------------------
prepare_directories() {
    local d
    mkdir -p "$PGDATA" /var/run/postgresql 2>/dev/null || :
    chmod 0700 "$PGDATA" 2>/dev/null || :
    chmod 3777 /var/run/postgresql 2>/dev/null || :
    if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then
        mkdir -p "$POSTGRES_INITDB_WALDIR"
        chmod 0700 "$POSTGRES_INITDB_WALDIR"
    fi
    [ "$(id -u)" = 0 ] || return 0
    for d in "$PGDATA" /var/run/postgresql ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"}; do
        find "$d" \! -user postgres -exec chown postgres:postgres '{}' +
    done
}

# --- the first start ---------------------------------------------------------------------------------------------------
check_settings() {
    [ "$POSTGRES_HOST_AUTH_METHOD" = trust ] || [ -n "$POSTGRES_PASSWORD" ] ||
        die "the cluster is new and needs POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE" \
            "(or POSTGRES_HOST_AUTH_METHOD=trust, which lets everyone in)"
    [ "$POSTGRES_HOST_AUTH_METHOD" != trust ] ||
        say "WARNING: POSTGRES_HOST_AUTH_METHOD=trust: whoever reaches the port is superuser" >&2
}

make_cluster() {
    local args=()
    eval "args=($POSTGRES_INITDB_ARGS)" # quoted words stay whole, as they do with the official image
    [ -z "${POSTGRES_INITDB_WALDIR:-}" ] || args+=(--waldir "$POSTGRES_INITDB_WALDIR")
    initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") "${args[@]}"
    local method=$POSTGRES_HOST_AUTH_METHOD
    [ -n "$method" ] || method=$(postgres -C password_encryption "$@")
    printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

# psql on the temporary server, as the superuser
docker_process_sql() {
    local where=()
    [ -z "$POSTGRES_DB" ] || where=(--dbname "$POSTGRES_DB")
    PGHOST='' PGHOSTADDR='' PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD} \
        psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --no-password --no-psqlrc "${where[@]}" "$@"
}

make_database() {
    [ "$POSTGRES_DB" != postgres ] || return 0
    docker_process_sql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
}

run_hooks() {
    local f
    for f in /docker-entrypoint-initdb.d/*; do
        [ -e "$f" ] || continue
        say "running $f"
        case $f in
            *.sh)
                # shellcheck disable=SC1090
                if [ -x "$f" ]; then "$f"; else . "$f"; fi ;;
            *.sql) docker_process_sql -f "$f" ;;
            *.sql.gz) gunzip -c "$f" | docker_process_sql ;;
            *.sql.xz) xzcat "$f" | docker_process_sql ;;
            *.sql.zst) zstd -dc "$f" | docker_process_sql ;;
            *) say "not a kind of file that is run: $f" ;;
        esac
    done
}

# A server that only this container's socket reaches: a health check over 127.0.0.1 stays red until the real one runs.
temporary_server() { # start|stop [ARGS]
    local action=$1
    shift
    if [ "$action" = stop ]; then
        PGUSER=${PGUSER:-postgres} pg_ctl -D "$PGDATA" -m fast -w stop >/dev/null
    else
        [ "${1:-}" != postgres ] || shift
        NOTIFY_SOCKET='' PGUSER=${PGUSER:-$POSTGRES_USER} pg_ctl -D "$PGDATA" -w start \
            -o "$(printf '%q ' "$@" -c listen_addresses= -p "${PGPORT:-5432}")" >/dev/null
    fi
}

first_start() { # the server's command line
    check_settings
    make_cluster "${@:2}"
    temporary_server start "$@"
    make_database
    run_hooks
    temporary_server stop
    unset PGPASSWORD
    say "the cluster is ready; starting the server"
}

main() {
    case ${1:-} in '' | -*) set -- postgres "$@" ;; esac
    if [ "$1" != postgres ] || asks_only "$@"; then exec "$@"; fi
    prepare_directories
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
    fi
    if [ ! -s "$PGDATA/PG_VERSION" ]; then
        setting POSTGRES_PASSWORD
        setting POSTGRES_USER postgres
        setting POSTGRES_DB "$POSTGRES_USER"
        setting POSTGRES_INITDB_ARGS
        : "${POSTGRES_HOST_AUTH_METHOD:=}"
        first_start "$@"
    fi
    unset POSTGRES_PASSWORD
    exec "$@"
}

main "$@"
