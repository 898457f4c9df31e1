#!/bin/bash
# Starts MariaDB, making the database first when the data directory is empty. The environment it understands is that of the
# official image: MARIADB_ROOT_PASSWORD[_HASH], MARIADB_RANDOM_ROOT_PASSWORD, MARIADB_ALLOW_EMPTY_ROOT_PASSWORD,
# MARIADB_ROOT_HOST, MARIADB_DATABASE, MARIADB_USER, MARIADB_PASSWORD[_HASH], MARIADB_INITDB_SKIP_TZINFO, each also with
# _FILE behind it or MYSQL_ for MARIADB_; and files in /docker-entrypoint-initdb.d. A first argument that starts with '-' is
# for the server.
set -Eeuo pipefail
shopt -s nullglob

say() { echo "entrypoint: $*"; }
die() { echo "entrypoint: $*" >&2; exit 1; }

# MARIADB_NAME from itself, or MYSQL_NAME, or the content of the file that either with _FILE names, or the default
setting() { # NAME [DEFAULT]
    local var=MARIADB_$1 old=MYSQL_$1 from found='' value=''
    for from in "$var" "$old"; do
        local file=${from}_FILE
        if [ -n "${!from:-}" ] && [ -n "${!file:-}" ]; then die "$from and $file are both set: use one"; fi
        [ -z "$found" ] || continue
        if [ -n "${!file:-}" ]; then
            [ -r "${!file}" ] || die "$file names ${!file}, which cannot be read"
            value=$(<"${!file}") found=yes
        elif [ -n "${!from:-}" ]; then
            value=${!from} found=yes
        fi
    done
    unset "${var}_FILE" "$old" "${old}_FILE"
    export "$var=${value:-${2:-}}"
}

asks_only() { # is one of the arguments a question that the server answers and ends?
    local a
    for a; do case $a in -'?' | --help | -V | --version | --print-defaults) return 0 ;; esac; done
    return 1
}

# What the server takes for an option, by its files and arguments; OPTIONS is what it says of all of them.
server_option() { # OPTION
    awk -v option="$1" 'NF > 1 && $1 == option && !found { print $2; found = 1 }' <<<"$OPTIONS"
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
    for name in ROOT_PASSWORD ROOT_PASSWORD_HASH RANDOM_ROOT_PASSWORD ALLOW_EMPTY_ROOT_PASSWORD DATABASE USER PASSWORD \
        PASSWORD_HASH INITDB_SKIP_TZINFO; do
        setting "$name"
    done
    : "${MARIADB_ALLOW_EMPTY_ROOT_PASSWORD:=${MYSQL_ALLOW_EMPTY_PASSWORD:-}}"
    setting ROOT_HOST %
    [ -n "$MARIADB_ROOT_PASSWORD$MARIADB_ROOT_PASSWORD_HASH$MARIADB_RANDOM_ROOT_PASSWORD" ] ||
        [ -n "$MARIADB_ALLOW_EMPTY_ROOT_PASSWORD" ] ||
        die "the database is new and needs one of MARIADB_ROOT_PASSWORD, MARIADB_ROOT_PASSWORD_HASH," \
            "MARIADB_RANDOM_ROOT_PASSWORD and MARIADB_ALLOW_EMPTY_ROOT_PASSWORD"
    [ "$MARIADB_USER" != root ] || die "MARIADB_USER is root, who is there anyway"
    [ -z "$MARIADB_USER" ] || [ -n "$MARIADB_PASSWORD$MARIADB_PASSWORD_HASH" ] || die "MARIADB_USER has no password"
}

# A string or name in a statement. Sessions of `process_sql` take a backslash for itself.
text() { printf "'%s'" "${1//\'/\'\'}"; }
name() { printf '`%s`' "${1//\`/\`\`}"; }
proof() { # PASSWORD HASH
    if [ -n "$2" ]; then printf 'PASSWORD %s' "$(text "$2")"; else text "$1"; fi
}

# mariadb on the temporary server, as root
process_sql() {
    mariadb --no-defaults --protocol=socket --socket="$SOCKET" -uroot --comments --binary-mode \
        --init-command="SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES'), SESSION sql_log_bin = 0" "$@"
}
docker_process_sql() { # what hooks call
    MYSQL_PWD=$MARIADB_ROOT_PASSWORD mariadb --no-defaults --protocol=socket --socket="$SOCKET" -uroot --comments \
        --binary-mode ${MARIADB_DATABASE:+--database="$MARIADB_DATABASE"} "$@"
}

make_database() { # the server's command line
    # the server gets the same arguments as later, so its files' places and page sizes are those it will look for
    mariadb-install-db --datadir="$DATADIR" --rpm --auth-root-authentication-method=normal --skip-test-db \
        --old-mode='UTF8_IS_UTF8MB3' --default-time-zone=SYSTEM --enforce-storage-engine= --skip-log-bin \
        --expire-logs-days=0 --loose-innodb_buffer_pool_load_at_startup=0 --loose-innodb_buffer_pool_dump_at_shutdown=0 \
        "${@:2}" >/dev/null
}

make_accounts() {
    if [ -n "$MARIADB_RANDOM_ROOT_PASSWORD" ]; then
        MARIADB_ROOT_PASSWORD=$(head -c 24 /dev/urandom | base64)
        say "the password of root is $MARIADB_ROOT_PASSWORD"
    fi
    local by
    by=$(proof "$MARIADB_ROOT_PASSWORD" "$MARIADB_ROOT_PASSWORD_HASH")
    {
        # the new database lets in a root without a password from several names of this machine, and perhaps anybody
        echo "DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost');"
        echo "DELETE FROM mysql.proxies_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost');"
        echo "FLUSH PRIVILEGES;"
        if [ -n "$MARIADB_DATABASE" ]; then echo "CREATE DATABASE IF NOT EXISTS $(name "$MARIADB_DATABASE");"; fi
        if [ -n "$MARIADB_USER" ]; then
            echo "CREATE USER $(text "$MARIADB_USER")@'%' IDENTIFIED BY $(proof "$MARIADB_PASSWORD" "$MARIADB_PASSWORD_HASH");"
            if [ -n "$MARIADB_DATABASE" ]; then
                local pattern=${MARIADB_DATABASE//_/\\_}
                echo "GRANT ALL ON $(name "${pattern//%/\\%}").* TO $(text "$MARIADB_USER")@'%';"
            fi
        fi
        if [ -n "$MARIADB_ROOT_HOST" ] && [ "$MARIADB_ROOT_HOST" != localhost ]; then
            echo "CREATE USER root@$(text "$MARIADB_ROOT_HOST") IDENTIFIED BY $by;"
            echo "GRANT ALL ON *.* TO root@$(text "$MARIADB_ROOT_HOST") WITH GRANT OPTION;"
            echo "GRANT PROXY ON ''@'%' TO root@$(text "$MARIADB_ROOT_HOST") WITH GRANT OPTION;"
        fi
        echo "SET PASSWORD FOR root@localhost = $(root_secret);"
    } | process_sql
}

root_secret() {
    if [ -n "$MARIADB_ROOT_PASSWORD_HASH" ]; then
        text "$MARIADB_ROOT_PASSWORD_HASH"
    else
        printf 'PASSWORD(%s)' "$(text "$MARIADB_ROOT_PASSWORD")"
    fi
}

load_time_zones() {
    [ -z "$MARIADB_INITDB_SKIP_TZINFO" ] || return 0
    {
        echo 'SET @@SESSION.SQL_LOG_BIN = 0;'
        mariadb-tzinfo-to-sql --skip-write-binlog /usr/share/zoneinfo 2>/dev/null
    } | process_sql --database=mysql
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
            *.sql.gz) gunzip -c "$f" | docker_process_sql ;;
            *.sql.xz) xzcat "$f" | docker_process_sql ;;
            *.sql.zst) zstd -dc "$f" | docker_process_sql ;;
            *) say "not a kind of file that is run: $f" ;;
        esac
    done
}

# A server that only this container's socket reaches: a health check over 127.0.0.1 stays red until the real one runs.
start_temporary_server() { # the server's command line
    "$@" --skip-networking --socket="$SOCKET" --skip-log-bin --loose-innodb_buffer_pool_load_at_startup=0 &
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
    make_database "$@"
    start_temporary_server "$@"
    load_time_zones
    make_accounts
    run_hooks
    stop_temporary_server
    say "the database is ready; starting the server"
}

main() {
    case ${1:-} in '' | -*) set -- mariadbd "$@" ;; esac
    case $1 in mariadbd | mysqld) ;; *) exec "$@" ;; esac
    if asks_only "$@"; then exec "$@"; fi
    OPTIONS=$("$@" --verbose --help) || die "the server does not accept its settings"
    DATADIR=$(server_option datadir) SOCKET=$(server_option socket)
    prepare_directories
    if [ "$(id -u)" = 0 ]; then
        exec setpriv --reuid mysql --regid mysql --init-groups "$0" "$@"
    fi
    if [ ! -d "$DATADIR/mysql" ]; then first_start "$@"; fi
    unset MARIADB_ROOT_PASSWORD MARIADB_PASSWORD MYSQL_ROOT_PASSWORD MYSQL_PASSWORD
    exec "$@"
}

main "$@"
