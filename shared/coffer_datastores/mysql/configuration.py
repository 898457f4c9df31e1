"""The server's configuration files. Every setting is in them and none on the command line."""

from __future__ import annotations

from coffer_datastores.mysql import template
from coffer_datastores.mysql_containers import CONFIG, DATA, SOCKETS, VOLUME
from coffer_datastores.mysql_session import AGENT, SOCKET_NAME
from coffer_datastores.mysql_settings import written
from coffer_shared.datastore import File, Order, Setting

_OPTIONS = {"time_zone": "default_time_zone"}
"""Variables that have another name in a file."""
_LINES = {
    # by this alone, or a file of that name is written
    "log_bin": "skip_log_bin",
}
"""Variables that have a line of another form."""
_OF_THE_AGENT = f"'{AGENT}'@'localhost' IDENTIFIED WITH auth_socket AS 'root'"
_UNLIMITED = (
    "REQUIRE NONE WITH MAX_QUERIES_PER_HOUR 0 MAX_UPDATES_PER_HOUR 0 MAX_CONNECTIONS_PER_HOUR 0 "
    "MAX_USER_CONNECTIONS 0 PASSWORD EXPIRE NEVER ACCOUNT UNLOCK"
)

OF_THE_AGENT = (
    # Made if it is not there, and as it should be: it comes in over the socket only, as whom the socket says it is on
    # the machine, and has no password.
    f"CREATE USER IF NOT EXISTS {_OF_THE_AGENT}",
    f"ALTER USER {_OF_THE_AGENT} {_UNLIMITED}",
    f"GRANT ALL PRIVILEGES ON *.* TO '{AGENT}'@'localhost' WITH GRANT OPTION",
)


def files(order: Order) -> tuple[File, ...]:
    lines = "".join(f"{_line(name, value)}\n" for name, value in settings(order).items())
    # The server runs these at every start, before anybody comes in, and stops at the first that fails: whatever a
    # tenant with root did to Coffer's account, a restart makes it what it should be.
    accounts = "".join(f"{statement};\n" for statement in OF_THE_AGENT)
    return (
        File(f"{order.config}/coffer.cnf", f"[mysqld]\n{lines}"),
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
        "pid_file": f"{SOCKETS}/mysqld.pid",
        "bind_address": ",".join(("127.0.0.1", *order.listen)),
        "port": order.port,
        "init_file": f"{CONFIG}/accounts.sql",
        # not added to a list: the image has the server read its files twice, which would then load it twice
        "plugin_load": "auth_socket.so",
        # neither root nor a user it made reads or writes files of the server's
        "secure_file_priv": "NULL",
        # what root tells the server to remember would go before these files, and could keep it from starting
        "persisted_globals_load": False,
        # the second protocol, at a port of its own
        "mysqlx": False,
        # whoever greets it without logging in, as the agent does, must not be shut out for it
        "host_cache_size": 0,
        "log_bin": False,
    }


def _line(name: str, value: Setting) -> str:
    return _LINES.get(name) or f"{_OPTIONS.get(name, name)} = {written(value)}"
