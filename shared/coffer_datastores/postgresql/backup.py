"""What the agent does for a backup of PostgreSQL, and the containers that do the rest. Their programs are in `tool`.

pg_basebackup takes the write-ahead log last, so a physical slot of the backup's own keeps it from the beginning. The
container comes in over the server's socket, by peer authentication of the server's own uid, as a role that can
replicate and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from coffer_datastores.postgresql.reloading import reload
from coffer_datastores.postgresql.session import BACKUP_USER, identifier, literal
from coffer_datastores.postgresql.spec import SOCKET, UID
from coffer_shared.datastore import ContainerSpec, Engine, EngineError, Order, Session
from coffer_shared.messages import Failure

_SLOT_PREFIX = "coffer_backup_"
_CONNECT_SECONDS = "10"
_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1"


class Backups:
    """Implements HasBackup."""

    def backup_container(self, order: Order, image: str) -> ContainerSpec:
        return _container(
            image,
            binds=((order.run, SOCKET, "ro"),),
            environment={
                "PGHOST": SOCKET,
                "PGPORT": str(order.port),
                "PGUSER": BACKUP_USER,
                "PGCONNECT_TIMEOUT": _CONNECT_SECONDS,
            },
        )

    async def before_backup(self, engine: Engine, backup: str) -> None:
        slot = _slot(backup)
        async with engine.session() as session:
            await _ensure_role(session)
            await reload(session)
            if not await _keeps_only(session, slot):
                await session.fetch("SELECT pg_create_physical_replication_slot($1, true)", slot)

    async def after_backup(self, engine: Engine, backup: str) -> None:
        """The role stays: nobody but the container can be it."""
        slot = _slot(backup)
        async with engine.session() as session:
            await session.fetch(_END_SESSIONS, BACKUP_USER)
            if any(found["slot_name"] == slot for found in await _slots(session)):
                await session.fetch("SELECT pg_drop_replication_slot($1)", slot)

    def restore_container(self, order: Order, image: str, target: str) -> ContainerSpec:
        del order
        return _container(image, binds=((target, target, "rw"),), environment={})


def _container(image: str, *, binds: tuple[tuple[str, str, str], ...], environment: dict[str, str]) -> ContainerSpec:
    return ContainerSpec(
        image=image,
        command=(),
        environment={"LC_ALL": "C", **environment},
        binds=binds,
        tmpfs=("/tmp",),  # noqa: S108 - the container's own
        uid=UID,
        gid=UID,
        stop_signal="SIGTERM",
        stop_seconds=5,
    )


def _slot(backup: str) -> str:
    """EngineError if no slot can be named after that."""
    name = _SLOT_PREFIX + backup.replace("-", "_")
    if not re.fullmatch(r"[a-z0-9_]{1,63}", name) or name == _SLOT_PREFIX:
        raise EngineError(Failure.INVALID, f"not a possible id of a backup: {backup!r}")
    return name


async def _ensure_role(session: Session) -> None:
    """As it should be, also where a tenant with root has changed it."""
    role = identifier(BACKUP_USER)
    if not await session.fetch("SELECT FROM pg_roles WHERE rolname = $1", BACKUP_USER):
        await session.execute(f"CREATE ROLE {role}")
    await session.execute(
        f"ALTER ROLE {role} LOGIN REPLICATION NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS CONNECTION LIMIT -1 "
        f"PASSWORD NULL VALID UNTIL {literal('infinity')}"
    )
    await session.execute(f"ALTER ROLE {role} RESET ALL")


async def drop_slots(session: Session) -> None:
    """Those of all backups that do not run."""
    for found in await _slots(session):
        if not found["active"]:
            await session.fetch("SELECT pg_drop_replication_slot($1)", found["slot_name"])


async def _keeps_only(session: Session, slot: str) -> bool:
    """Drop what earlier backups left. Whether that slot is there, and still keeps what it should."""
    there = False
    for found in await _slots(session):
        if found["slot_name"] == slot and found["wal_status"] != "lost":
            there = True
        elif not found["active"]:
            await session.fetch("SELECT pg_drop_replication_slot($1)", found["slot_name"])
    return there


async def _slots(session: Session) -> Sequence[Mapping[str, Any]]:
    """Those of backups."""
    return await session.fetch(
        "SELECT slot_name, active, wal_status FROM pg_replication_slots WHERE starts_with(slot_name, $1)", _SLOT_PREFIX
    )
