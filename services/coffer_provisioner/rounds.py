"""The keeper's rounds: one replica at a time compares the cloud with the database and acts on what `keeper` decides."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from coffer_db import operations, orphans
from coffer_db.backup_tables import NEEDS_VOLUME
from coffer_db.database import Database
from coffer_provisioner.cloud.interface import Cloud, Resource
from coffer_provisioner.keeper import Ended, Kept, Verdict, to_recover, verdict
from coffer_shared import log
from coffer_shared.errors import CofferError

_log = log.get(__name__)
_LOCK = 0x636F66666572  # any number that no other part of Coffer locks
GRACE = timedelta(seconds=60)
RECOVER_WITHIN = timedelta(minutes=10)


class Rounds:
    def __init__(self, db: Database, cloud: Cloud, *, every: float, filed: Any, patience: float = 1.0) -> None:
        """`filed` is called after an operation was filed here, whose time is multiplied by `patience`."""
        self._recover_within = RECOVER_WITHIN * patience
        self._db = db
        self._cloud = cloud
        self._every = every
        self._filed = filed
        self._reported: set[str] = set()
        self.counts = {"recovered": 0, "swept": 0, "dropped": 0}

    @property
    def unknown(self) -> int:
        """Resources with Coffer's tag whose operation this database lacks, as of the last round made here."""
        return len(self._reported)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            try:
                await self._with_lock()
            except CofferError as error:
                _log.warning("round put off", reason=str(error))
            except Exception:  # noqa: BLE001
                # The next round is the remedy; the service has other work that must not end with this.
                _log.exception("round failed")

    async def once(self) -> None:
        await self._recover()
        await self._sweep()

    async def _with_lock(self) -> None:
        connection = await self._db.connect_alone()
        try:
            if await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
                await self.once()
        finally:
            await connection.close()

    async def _recover(self) -> None:
        stopped = to_recover(await self._db.read(_kept), await self._cloud.machines())
        for kept in stopped:
            new = operations.NewOperation(
                instance_id=kept.instance, project_id=kept.project, kind="recover_instance",
                within=self._recover_within,
            )
            try:
                async with self._db.begin() as session:
                    await operations.file(session, new, None)
            except operations.Busy:
                continue
            _log.warning("machine is down; starting it", instance=kept.instance)
            self.counts["recovered"] += 1
        if stopped:
            self._filed()

    async def _sweep(self) -> None:
        resources = await self._cloud.resources()
        ended = await self._ended(sorted({r.operation for r in resources}))
        now = datetime.now(UTC)
        marked = {r.instance for r in resources if r.kind == "volume-held"}
        unknown = []
        for resource in resources:
            found = verdict(resource, ended, now, GRACE, marked=resource.instance in marked)
            if found is Verdict.DROP:
                self.counts["swept"] += await self._drop(resource, "sweeping")
            elif found is Verdict.UNKNOWN:
                unknown.append(resource)
        self._report(unknown)
        await self._note(unknown, marked, resources)

    async def _note(self, unknown: list[Resource], marked: set[str], resources: list[Resource]) -> None:
        """In the table of orphans, and drop those of them that an operator does not want to keep.

        The mark of a volume goes after the volume: without it nothing would tell what that has held."""
        found = [
            orphans.Found(
                r.kind, r.id, r.instance, r.operation,
                held_data=r.kind == "snapshot" or (r.kind.startswith("volume") and r.instance in marked),
            )
            for r in unknown
        ]
        wanted = await orphans.note(self._db, found)
        with_volume = {r.instance for r in resources if r.kind == "volume"}
        for resource in unknown:
            if (resource.kind, resource.id) not in wanted:
                continue
            if resource.kind == "volume-held" and resource.instance in with_volume:
                continue
            if await self._drop(resource, "dropping what an operator does not want"):
                self.counts["dropped"] += 1

    async def _drop(self, resource: Resource, why: str) -> bool:
        """Whether it is gone. If not, the others may go, and this one in a later round."""
        _log.warning(why, kind=resource.kind, resource=resource.id, instance=resource.instance)
        try:
            await self._cloud.drop_resource(resource)
        except CofferError as error:
            _log.warning("not dropped", kind=resource.kind, resource=resource.id, reason=str(error))
            return False
        return True

    def _report(self, unknown: list[Resource]) -> None:
        for resource in unknown:
            if resource.id not in self._reported:
                _log.warning(
                    "resource of an unknown operation is left alone", kind=resource.kind, resource=resource.id,
                    instance=resource.instance, operation=resource.operation,
                )
        self._reported = {resource.id for resource in unknown}

    async def _ended(self, ids: list[str]) -> dict[str, Ended]:
        async def look(connection: AsyncConnection) -> dict[str, Ended]:
            rows = (await connection.execute(_ENDED, {"ids": ids})).mappings()
            return {row["operation"]: Ended(**row) for row in rows}

        return await self._db.read(look) if ids else {}


async def _kept(connection: AsyncConnection) -> list[Kept]:
    return [Kept(row.instance, row.project) for row in await connection.execute(_KEPT)]


_OPEN = "('pending', 'running', 'waiting', 'undoing')"
_CLOUDLESS = "(o.beside AND NOT o.lifecycle)"
"""Such as a backup's deletion: it touches nothing of the instance, and a store that is away may keep it open long."""
_SNAPSHOTS = f"SELECT FROM (SELECT * FROM backups WHERE {NEEDS_VOLUME}) b WHERE b.instance_id = i.id"  # noqa: S608
_KEPT = text(f"""
    SELECT i.id AS instance, i.project_id AS project FROM instances i
    WHERE i.deleted_at IS NULL AND i.started_once AND NOT i.failed
      AND NOT EXISTS (SELECT FROM operations o WHERE o.instance_id = i.id AND o.state IN {_OPEN} AND NOT {_CLOUDLESS})
""")  # noqa: S608 - a constant
_ENDED = text(f"""
    SELECT o.id AS operation, o.instance_id AS instance, o.state IN {_OPEN} AS open,
           i.deleted_at IS NOT NULL AS instance_deleted,
           EXISTS (
               SELECT FROM operations o WHERE o.instance_id = i.id AND o.state IN {_OPEN} AND NOT {_CLOUDLESS}
           ) AS instance_busy,
           o.kind = 'create_instance' AND o.state IN ('failed', 'cancelled') AS failed_create,
           i.started_once OR (o.kind = 'create_instance' AND o.guest_state = 'done') AS held_a_database, o.finished_at,
           EXISTS ({_SNAPSHOTS} AND b.operation_id = o.id) AS keeps_snapshot, EXISTS ({_SNAPSHOTS}) AS has_snapshots
    FROM operations o JOIN instances i ON i.id = o.instance_id WHERE o.id = ANY(:ids)
""")  # noqa: S608 - a constant
