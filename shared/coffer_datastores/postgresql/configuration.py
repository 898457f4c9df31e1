"""The server's configuration files. Every setting is in them and none on the command line."""

from __future__ import annotations

from coffer_datastores.postgresql import template
from coffer_datastores.postgresql.session import BACKUP_USER, SUPERUSER
from coffer_datastores.postgresql.spec import SOCKET
from coffer_shared.datastore import EngineError, File, Order, Setting
from coffer_shared.messages import Failure

# The map lets the machine's root (the agent) and the container's own user be the superuser, and the latter the backup
# user, over the local socket only. Nobody is ever trusted, and neither of the two ever comes in over TCP. The backup
# user gets no session in any database: "replication" there means a connection that knows no SQL.
_HBA = f"""\
local all         {SUPERUSER} peer map=coffer
local replication {SUPERUSER} peer map=coffer
local replication {BACKUP_USER} peer map=coffer
local all         all         reject
host  all         {SUPERUSER} all reject
host  all         {BACKUP_USER} all reject
host  replication all         all reject
host  all         all         all scram-sha-256
"""
_IDENT = f"""\
coffer root     {SUPERUSER}
coffer postgres {SUPERUSER}
coffer postgres {BACKUP_USER}
"""


def files(order: Order, inside: str) -> tuple[File, ...]:
    """`inside` is where the container sees `order.config`."""
    settings = "".join(f"{name} = {value}\n" for name, value in _settings(order, inside).items())
    return (
        File(f"{order.config}/postgresql.conf", settings),
        File(f"{order.config}/pg_hba.conf", _HBA),
        File(f"{order.config}/pg_ident.conf", _IDENT),
    )


def _settings(order: Order, inside: str) -> dict[str, str]:
    own: dict[str, Setting] = {
        "hba_file": f"{inside}/pg_hba.conf",
        "ident_file": f"{inside}/pg_ident.conf",
        "allow_alter_system": False,  # it would outlive and contradict what is written here
        "listen_addresses": ",".join(("127.0.0.1", *order.listen)),
        "port": order.port,
        "unix_socket_directories": SOCKET,
    }
    settings = {**template.defaults(order.sizes), **order.settings, **own}
    return {name: _written(value) for name, value in settings.items()}


def _written(value: Setting) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    text = str(value)
    if not text.isprintable():
        raise EngineError(Failure.INVALID, "a setting has characters that cannot be printed")
    return text if text.isascii() and text.isalnum() else "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
