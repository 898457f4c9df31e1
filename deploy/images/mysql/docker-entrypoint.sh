#!/bin/bash
# Starts MySQL, making the database first when the data directory is empty. The environment it understands is that of the
# official image: MYSQL_ROOT_PASSWORD, MYSQL_RANDOM_ROOT_PASSWORD, MYSQL_ALLOW_EMPTY_PASSWORD, MYSQL_ONETIME_PASSWORD,
# MYSQL_ROOT_HOST, MYSQL_DATABASE, MYSQL_USER, MYSQL_PASSWORD, MYSQL_INITDB_SKIP_TZINFO; those that are a name, a host or a
# password also with _FILE behind them; and files in /docker-entrypoint-initdb.d. A first argument that starts with '-' is
# for the server.
set -Eeuo pipefail
shopt -s nullglob

say() { echo "entrypoint: $*"; }
die() { echo "entrypoint: $*" >&2; exit 1; }

# MYSQL_NAME from itself, or the content of the file that MYSQL_NAME_FILE names, or the default
setting() { # NAME [DEFAULT]
    local var=MYSQL_$1 file=MYSQL_$1_FILE value
    if [ -n "${!var:-}" ] && [ -n "${!file:-}" ]; then die "$var and $file are both set: use one"; fi
    if [ -n "${!file:-}" ]; then
        [ -r "${!file}" ] || die "$file names ${!file}, which cannot be read"
        value=$(<"${!file}")
    else
        value=${!var:-}
    fi
    unset "$file"
    export "$var=${value:-${2:-}}"
}

asks_only() { # is one of the arguments a question that the server answers and ends?
    local a
    for a; do case $a in -'?' | --help | -V | --version | --print-defaults) return 0 ;; esac; done
    return 1
}

# What the server takes for an option, by its files and arguments; OPTIONS is what it says of all of them, in a table.
server_option() { # OPTION
    awk -v option="$1" '/^-+ -+$/ { table = 1 } table && $1 == option && !found { print $2; found = 1 }' <<<"$OPTIONS"
}

# --- as root -----------------------------------------------------------------------------------------------------------
prepare_directories() {
    local d
    for d in "$DATADIR" "${SOCKET%/*}"; do
        mkdir -p "$d"
        [ "$(id -u)" != 0 ] || find "$d" \! -user mysql -exec chown mysql:mysql '{}' +
    done
}

# --- the first start ---------------------------------------------------------------------------------------------------
read_settings() {
    local name
    for name in ROOT_PASSWORD RANDOM_ROOT_PASSWORD ALLOW_EMPTY_PASSWORD ONETIME_PASSWORD DATABASE USER PASSWORD \
        INITDB_SKIP_TZINFO; do
        setting "$name"
    done
    setting ROOT_HOST %
    [ -n "$MYSQL_ROOT_PASSWORD$MYSQL_RANDOM_ROOT_PASSWORD$MYSQL_ALLOW_EMPTY_PASSWORD" ] ||
        die "the database is new and needs one of MYSQL_ROOT_PASSWORD, MYSQL_RANDOM_ROOT_PASSWORD and" \
            "MYSQL_ALLOW_EMPTY_PASSWORD"
    [ "$MYSQL_USER" != root ] || die "MYSQL_USER is root, who is there anyway"
    [ -z "$MYSQL_USER" ] || [ -n "$MYSQL_PASSWORD" ] || die "MYSQL_USER has no password"
}

# A string or name in a statement. Sessions of `process_sql` take a backslash for itself.
text() { printf "'%s'" "${1//\'/\'\'}"; }
name() { printf '`%s`' "${1//\`/\`\`}"; }

# mysql on the temporary server, as its root without a password
process_sql() {
    mysql --no-defaults --protocol=socket --socket="$SOCKET" -uroot --comments --binary-mode \
        --init-command="SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES')" "$@"
}
docker_process_sql() { # what hooks call
    MYSQL_PWD=$MYSQL_ROOT_PASSWORD mysql --no-defaults --protocol=socket --socket="$SOCKET" -uroot --comments \
        --binary-mode ${MYSQL_DATABASE:+--database="$MYSQL_DATABASE"} "$@"
}

make_accounts() {
    if [ -n "$MYSQL_RANDOM_ROOT_PASSWORD" ]; then
        MYSQL_ROOT_PASSWORD=$(head -c 24 /dev/urandom | base64)
        say "the password of root is $MYSQL_ROOT_PASSWORD"
    fi
    {
        if [ -n "$MYSQL_DATABASE" ]; then echo "CREATE DATABASE IF NOT EXISTS $(name "$MYSQL_DATABASE");"; fi
        if [ -n "$MYSQL_USER" ]; then
            echo "CREATE USER $(text "$MYSQL_USER")@'%' IDENTIFIED BY $(text "$MYSQL_PASSWORD");"
            if [ -n "$MYSQL_DATABASE" ]; then
                local pattern=${MYSQL_DATABASE//_/\\_}
                echo "GRANT ALL ON $(name "${pattern//%/\\%}").* TO $(text "$MYSQL_USER")@'%';"
            fi
        fi
        if [ -n "$MYSQL_ROOT_HOST" ] && [ "$MYSQL_ROOT_HOST" != localhost ]; then
            echo "CREATE USER root@$(text "$MYSQL_ROOT_HOST") IDENTIFIED BY $(text "$MYSQL_ROOT_PASSWORD");"
            echo "GRANT ALL ON *.* TO root@$(text "$MYSQL_ROOT_HOST") WITH GRANT OPTION;"
        fi
        echo "ALTER USER root@localhost IDENTIFIED BY $(text "$MYSQL_ROOT_PASSWORD");"
    } | process_sql
}

# After the hooks: nobody does anything with such a password before it is changed.
expire_password() {
    [ -n "$MYSQL_ONETIME_PASSWORD" ] || return 0
    local host
    for host in localhost "$MYSQL_ROOT_HOST"; do
        echo "ALTER USER IF EXISTS root@$(text "$host") PASSWORD EXPIRE;"
    done | MYSQL_PWD=$MYSQL_ROOT_PASSWORD process_sql
}

load_time_zones() {
    [ -z "$MYSQL_INITDB_SKIP_TZINFO" ] || return 0
    mysql_tzinfo_to_sql /usr/share/zoneinfo 2>/dev/null | process_sql --database=mysql
}

run_hooks() {
    local f
    for f in /docker-entrypoint-initdb.d/*; do
        say "running $f"
        case $f in
            *.sh)
                # shellcheck disable=SC1090
                if [ -x "$f" ]; then "$f"; else . "$f"; fi ;;
            *.sql) docker_process_sql <"$f" ;;
            *.sql.bz2) bzip2 -dc "$f" | docker_process_sql ;;
            *.sql.gz) gunzip -c "$f" | docker_process_sql ;;
            *.sql.xz) xzcat "$f" | docker_process_sql ;;
            *.sql.zst) zstd -dc "$f" | docker_process_sql ;;
            *) say "not a kind of file that is run: $f" ;;
        esac
    done
}

# A server that only this container's socket reaches: a health check over 127.0.0.1 stays red until the real one runs.
start_temporary_server() { # the server's command line
    "$@" --skip-networking --mysqlx=OFF --socket="$SOCKET" &
    TEMPORARY=$!
    for _ in $(seq 600); do
        kill -0 "$TEMPORARY" 2>/dev/null || die "the server ended before it was ready"
        ! process_sql -e 'SELECT 1' >/dev/null 2>&1 || return 0
        sleep 0.1
    done
    die "the server does not become ready"
}
stop_temporary_server() {
    kill "$TEMPORARY"
    wait "$TEMPORARY" || die "the server did not end well"
}

first_start() { # the server's command line
    read_settings
    # what is to be run at a start is for a server that has its plugins, which this one has not
    "$@" --initialize-insecure --init-file=/dev/null --skip-log-bin
    start_temporary_server "$@"
    load_time_zones
    make_accounts
    run_hooks
    expire_password
    stop_temporary_server
    say "the database is ready; starting the server"
}

main() {
    case ${1:-} in '' | -*) set -- mysqld "$@" ;; esac
    [ "$1" = mysqld ] || exec "$@"
    if asks_only "$@"; then exec "$@"; fi
    OPTIONS=$("$@" --verbose --help 2>/dev/null) || {
        "$@" --verbose --help >/dev/null || :
        die "the server does not accept its settings"
    }
    DATADIR=$(server_option datadir) SOCKET=$(server_option socket)
    prepare_directories
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid mysql --regid mysql --init-groups "$0" "$@"
    fi
    if [ ! -d "$DATADIR/mysql" ]; then first_start "$@"; fi
    unset MYSQL_ROOT_PASSWORD MYSQL_PASSWORD
    exec "$@"
}

main "$@"
