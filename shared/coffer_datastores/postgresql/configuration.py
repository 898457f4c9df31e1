"""The server's configuration files. Every setting is in them and none on the command line."""

from __future__ import annotations

from coffer_datastores.postgresql.session import BACKUP_USER, SUPERUSER
from coffer_datastores.postgresql.spec import SOCKET
from coffer_shared.datastore import File, Order

_MIB = 1024 * 1024
_MAX_CONNECTIONS = 100

_LEAST_SLOT_MIB = 1024
_SLOT_PART = 4

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
    mib = order.memory_bytes // _MIB
    workers = max(2, round(order.vcpus))
    return {
        "hba_file": _quoted(f"{inside}/pg_hba.conf"),
        "ident_file": _quoted(f"{inside}/pg_ident.conf"),
        "allow_alter_system": "off",  # it would outlive and contradict what is written here
        "listen_addresses": _quoted(",".join(("127.0.0.1", *order.listen))),
        "port": str(order.port),
        "max_connections": str(_MAX_CONNECTIONS),
        "unix_socket_directories": _quoted(SOCKET),
        "password_encryption": "'scram-sha-256'",
        # The container sees the host's memory, not its own: sizes come from the flavor.
        "shared_buffers": f"{max(32, mib // 4)}MB",
        "effective_cache_size": f"{max(64, mib // 2)}MB",
        "work_mem": f"{min(64, max(4, mib // (4 * _MAX_CONNECTIONS)))}MB",
        "maintenance_work_mem": f"{min(1024, max(32, mib // 16))}MB",
        "huge_pages": "off",
        "jit": "off",
        "max_worker_processes": str(max(8, workers)),
        "max_parallel_workers": str(workers),
        "max_parallel_workers_per_gather": str(max(1, workers // 2)),
        "wal_level": "replica",
        "max_wal_size": "512MB",
        "max_wal_senders": "10",
        "max_replication_slots": "10",
        # A slot that nobody gives back must not fill the volume: past this it is worth nothing any more.
        "max_slot_wal_keep_size": f"{_slot_mib(order)}MB",
        "log_destination": "'stderr'",
        "logging_collector": "off",
        "log_line_prefix": "'%m [%p] %q%u@%d '",
        "log_timezone": "'UTC'",
        "timezone": "'UTC'",
    }


def _slot_mib(order: Order) -> int:
    return order.volume_bytes // _SLOT_PART // _MIB if order.volume_bytes else _LEAST_SLOT_MIB


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
