"""The server's configuration files. Every setting is in them and none on the command line."""

from __future__ import annotations

from coffer_datastores.mariadb import template
from coffer_datastores.mysql_containers import CONFIG, DATA, SOCKETS, VOLUME
from coffer_datastores.mysql_session import AGENT, BACKUP_USER, SOCKET_NAME
from coffer_datastores.mysql_settings import written
from coffer_shared.datastore import File, Order, Setting

NOWHERE = "/docker-entrypoint-initdb.d"
"""A directory of every image of this engine, empty and on its read-only root."""
_BACKUP_RIGHTS = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, REPLICA MONITOR, CONNECTION ADMIN"
_OPTIONS = {"time_zone": "default_time_zone"}
"""Variables that have another name in a file."""
_UNLIMITED = (
    "REQUIRE NONE WITH MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0 "
    "MAX_USER_CONNECTIONS 0 MAX_STATEMENT_TIME 0 PASSWORD EXPIRE NEVER ACCOUNT UNLOCK"
)


def _account(name: str, uid_name: str) -> tuple[str, str]:
    """Made if it is not there, and as it should be: it comes in over the socket only, as whom the socket says it is on
    the machine, and has no password."""
    by = f"'{name}'@'localhost' IDENTIFIED VIA unix_socket AS '{uid_name}'"
    return f"CREATE USER IF NOT EXISTS {by}", f"ALTER USER {by} {_UNLIMITED}"


OF_THE_AGENT = (
    *_account(AGENT, "root"),
    f"GRANT ALL PRIVILEGES ON *.* TO '{AGENT}'@'localhost' WITH GRANT OPTION",
)
OF_BACKUPS = (
    *_account(BACKUP_USER, "mysql"),
    f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM '{BACKUP_USER}'@'localhost'",
    f"GRANT {_BACKUP_RIGHTS} ON *.* TO '{BACKUP_USER}'@'localhost'",
)


def files(order: Order) -> tuple[File, ...]:
    lines = "".join(f"{_OPTIONS.get(name, name)} = {written(value)}\n" for name, value in settings(order).items())
    # The server runs these at every start, before anybody comes in, and stops at the first that fails: whatever a
    # tenant with root did to Coffer's accounts, a restart makes them what they should be.
    accounts = "".join(f"{statement};\n" for statement in (*OF_THE_AGENT, *OF_BACKUPS))
    return (
        File(f"{order.config}/coffer.cnf", f"[mariadbd]\n{lines}"),
        File(f"{order.config}/accounts.sql", accounts),
    )


def settings(order: Order) -> dict[str, Setting]:
    """By the names of the server's variables."""
    return {**template.defaults(order.sizes), **order.settings, **own_settings(order)}


def own_settings(order: Order) -> dict[str, Setting]:
    return {
        "datadir": DATA,
        # beside the data: the container's /tmp is memory
        "tmpdir": VOLUME,
        "socket": f"{SOCKETS}/{SOCKET_NAME}",
        "pid_file": f"{SOCKETS}/mariadbd.pid",
        "bind_address": ",".join(("127.0.0.1", *order.listen)),
        "port": order.port,
        "init_file": f"{CONFIG}/accounts.sql",
        # neither root nor a user it made reads or writes files of the server's
        "secure_file_priv": NOWHERE,
        # a table is where all others are, or a backup would look for it in vain
        "symbolic_links": False,
    }
