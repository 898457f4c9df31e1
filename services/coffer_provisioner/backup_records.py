"""The rows of backups and of their keys: `Backups` for plans (see `reach`), and what renewing a grant needs beside.

A backup's state only goes forward, and what may still be written is decided under the lock of its row: a worker that
was frozen and wakes up late can neither open a closed backup nor complete one that is being taken back.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession

from coffer_db import operations
from coffer_db.backup_tables import NEEDS_VOLUME, BackupState
from coffer_db.database import Database
from coffer_db.operations import NewOperation
from coffer_db.secrets import BadSecret, MasterKey, ProjectKey, container_context
from coffer_provisioner.storage.interface import Container
from coffer_shared import log
from coffer_shared.backups import CINDER, KEY_BYTES, BackedUp
from coffer_shared.errors import GiveUp, Unavailable

_log = log.get(__name__)

_LIVING = [state.value for state in BackupState if state is not BackupState.DELETED]
_BEFORE: Mapping[str, list[str]] = {
    BackupState.BUILDING: [BackupState.NEW, BackupState.BUILDING],
    BackupState.SAVING: [BackupState.NEW, BackupState.BUILDING, BackupState.SAVING],
    BackupState.DELETING: _LIVING,
}
"""From which states each may be reached by `set_state`."""


_CLEAR_WITHIN = timedelta(minutes=10)


class PostgresBackups:
    """Each call is one short transaction of its own."""

    def __init__(self, db: Database, master: MasterKey, *, patience: float = 1.0) -> None:
        """`patience` multiplies the time of what is filed here."""
        self._db = db
        self._master = master
        self._clear_within = _CLEAR_WITHIN * patience

    async def backup(self, backup: str) -> dict[str, Any]:
        async with self._db.begin() as session:
            row = (await session.execute(_BACKUP, {"backup": backup})).mappings().first()
        if row is None:
            raise GiveUp("backup_gone", "the backup is gone")
        return dict(row)

    async def set_state(self, backup: str, state: str) -> None:
        async with self._db.begin() as session:
            await session.execute(_STATE, {"backup": backup, "state": str(state), "before": _BEFORE[state]})

    async def fail(self, backup: str, text: str) -> None:
        async with self._db.begin() as session:
            failed = (await session.execute(_FAIL, {"backup": backup, "failure": text})).mappings().first()
            if failed is None or not failed["let_in"]:
                return
            clearing = NewOperation(
                instance_id=failed["instance_id"], project_id=failed["project_id"], kind="clear_backup",
                within=self._clear_within, lifecycle=False, beside=True, args={"backup": backup},
            )
            await operations.file(session, clearing, None)

    async def container(self, backup: dict[str, Any]) -> Container:
        project, storage, name = backup["project_id"], backup["storage"], backup["container"]
        context = container_context(project, storage, name)
        place = {"project": project, "storage": storage, "name": name}
        async with self._db.begin() as session:
            sealed = (await session.execute(_CONTAINER, place)).scalar_one_or_none()
            if sealed is None:
                drawn = self._master.public.wrap(context, {"keys": [secrets.token_hex(32), secrets.token_hex(32)]})
                await session.execute(_NEW_CONTAINER, {**place, "keys": drawn})
                sealed = (await session.execute(_CONTAINER, place)).scalar_one()
        with _opening():
            first, second = self._master.unwrap(context, sealed)["keys"]
        return Container(project, name, (first, second))

    async def note_closed(self, backup: Mapping[str, Any]) -> None:
        place = {name: backup[column] for name, column in _PLACE.items()}
        async with self._db.begin() as session:
            await session.execute(_CLOSED, place)

    async def data_key(self, backup: dict[str, Any]) -> bytes:
        identity, project = backup["id"], backup["project_id"]
        context = f"backup/{identity}"
        async with self._db.begin() as session:
            key = await self._project_key(session, project)
            wrapped = (await session.execute(_DATA_KEY, {"backup": identity})).scalar_one_or_none()
            if wrapped is None:
                drawn = key.wrap(context, secrets.token_bytes(KEY_BYTES))
                await session.execute(_NEW_DATA_KEY, {"backup": identity, "key": drawn})
                wrapped = (await session.execute(_DATA_KEY, {"backup": identity})).scalar_one_or_none()
        if wrapped is None:
            raise GiveUp("backup_gone", "the backup has no key any more")
        with _opening():
            return key.unwrap(context, wrapped)

    async def note_grant(self, backup: str, until: float) -> None:
        values = {"backup": backup, "until": datetime.fromtimestamp(until, UTC)}
        async with self._db.begin() as session:
            if (await session.execute(_GRANT, values)).first() is None:
                raise GiveUp("backup_closed", "nothing may be written to this backup any more")

    async def complete(self, backup: str, found: BackedUp, location: str) -> None:
        values = {
            "backup": backup, "location": location, "sha256": found.manifest_sha256, "raw": found.raw_bytes,
            "stored": found.stored_bytes, "segments": found.segments, "position": found.position, "tools": found.tools,
        }
        async with self._db.begin() as session:
            if (await session.execute(_COMPLETE, values)).first() is None:
                raise GiveUp("backup_closed", "the backup is not being made any more")

    async def complete_snapshot(self, backup: str, snapshot: str, *, gib: int, used_bytes: int) -> None:
        values = {"backup": backup, "location": f"{CINDER}://{snapshot}", "gib": gib, "used": used_bytes}
        async with self._db.begin() as session:
            if (await session.execute(_COMPLETE_SNAPSHOT, values)).first() is None:
                raise GiveUp("backup_closed", "the backup is not being made any more")

    async def has_snapshots(self, instance: str) -> bool:
        async with self._db.begin() as session:
            return (await session.execute(_SNAPSHOTS, {"instance": instance})).first() is not None

    async def frozen(self, instance: str, operation: str) -> tuple[bool, bool] | None:
        """The guest's volume stands still for that operation: whether the snapshot is there, and whether that it stands
        still is news. None if the instance has no such operation that still goes forward."""
        async with self._db.begin() as session:
            found = (await session.execute(_FROZEN, {"instance": instance, "id": operation})).first()
        return (found.done, found.news) if found is not None else None

    async def forget(self, backup: str) -> None:
        async with self._db.begin() as session:
            await session.execute(_FORGET, {"backup": backup})

    async def asking(self, instance: str, operation: str) -> dict[str, Any] | None:
        """What decides on a grant that the guest of `instance` asks for; None if it has no such operation."""
        async with self._db.begin() as session:
            row = (await session.execute(_ASKING, {"instance": instance, "id": operation})).mappings().first()
        return dict(row) if row is not None else None

    async def _project_key(self, session: AsyncSession, project: str) -> ProjectKey:
        wrapped = (await session.execute(_PROJECT_KEY, {"project": project})).scalar_one_or_none()
        if wrapped is None:
            drawn = ProjectKey.new(project, self._master.public)
            await session.execute(_NEW_PROJECT_KEY, {"project": project, "key": drawn})
            wrapped = (await session.execute(_PROJECT_KEY, {"project": project})).scalar_one()
        with _opening():
            return ProjectKey.opened(project, wrapped, self._master)


@contextlib.contextmanager
def _opening() -> Iterator[None]:
    """With another master key than it was sealed under nothing is lost: it is tried again until the right one is."""
    try:
        yield
    except BadSecret as why:
        _log.error("a backup's keys do not open: is this the right master key?", why=str(why))
        raise Unavailable("the keys of the backup do not open") from None


_BACKUP = text("""
    SELECT b.*, v.manager, v.version, v.backup_image, v.backup_image_digest
    FROM backups b JOIN datastore_versions v ON v.id = b.datastore_version_id
    WHERE b.id = :backup AND b.deleted_at IS NULL AND b.state <> 'DELETED'
""")
_STATE = text("""
    UPDATE backups SET state = :state, updated_at = now()
    WHERE id = :backup AND deleted_at IS NULL AND state = ANY(:before)
""")
_FAIL = text("""
    UPDATE backups SET state = 'FAILED', failure_text = :failure, updated_at = now()
    WHERE id = :backup AND deleted_at IS NULL AND state <> 'FAILED'
    RETURNING instance_id, project_id, grant_until IS NOT NULL AS let_in
""")
_CONTAINER = text(
    "SELECT keys FROM backup_containers WHERE project_id = :project AND storage = :storage AND name = :name",
)
_CLOSED = text("""
    UPDATE backup_containers SET opened_at = NULL
    WHERE project_id = :project AND storage = :storage AND name = :name AND opened_at IS NOT NULL
""")
_PLACE = {"project": "project_id", "storage": "storage", "name": "container"}
_NEW_CONTAINER = text("""
    INSERT INTO backup_containers (project_id, storage, name, keys)
    VALUES (:project, :storage, :name, :keys) ON CONFLICT DO NOTHING
""")
_PROJECT_KEY = text("SELECT wrapped FROM project_keys WHERE project_id = :project")
_NEW_PROJECT_KEY = text(
    "INSERT INTO project_keys (project_id, wrapped) VALUES (:project, :key) ON CONFLICT DO NOTHING",
)
_DATA_KEY = text("SELECT data_key FROM backups WHERE id = :backup AND deleted_at IS NULL")
_NEW_DATA_KEY = text("""
    UPDATE backups SET data_key = :key
    WHERE id = :backup AND data_key IS NULL AND deleted_at IS NULL AND state IN ('NEW', 'BUILDING')
""")
_FORGET = text("""
    UPDATE backups SET state = 'DELETED', data_key = NULL, updated_at = now(), deleted_at = now()
    WHERE id = :backup AND deleted_at IS NULL
""")
_SNAPSHOTS = text(f"SELECT 1 FROM backups WHERE instance_id = :instance AND {NEEDS_VOLUME} LIMIT 1")  # noqa: S608
# A frozen guest asks several times a second: only the first time is anything written.
_FROZEN = text("""
    WITH asking AS (
        SELECT o.id, o.guest_state, b.state IN ('SAVING', 'COMPLETED') AS done
        FROM operations o JOIN backups b ON b.id = o.args ->> 'backup' AND b.operation_id = o.id
        WHERE o.id = :id AND o.instance_id = :instance AND o.kind = 'create_snapshot' AND NOT o.cancel_requested
          AND o.state IN ('pending', 'running', 'waiting') AND o.guest_state IN ('', 'accepted', 'frozen')
    ), noted AS (
        UPDATE operations o SET guest_state = 'frozen', updated_at = now()
        FROM asking WHERE o.id = asking.id AND o.guest_state IN ('', 'accepted')
    )
    SELECT done, guest_state <> 'frozen' AS news FROM asking
""")
_ASKING = text("""
    SELECT project_id, kind, args, state, cancel_requested, guest_state FROM operations
    WHERE id = :id AND instance_id = :instance
""")

# The operation's row is locked too: once its undo or its end is stored, nothing more is granted or completed.
_MAKING = """
    WITH making AS (
        SELECT o.id FROM operations o
        WHERE o.id = (SELECT operation_id FROM backups WHERE id = :backup)
          AND o.state IN ('pending', 'running', 'waiting')
        FOR SHARE
    )
"""
_GRANT = text(f"""
    {_MAKING}
    UPDATE backups b SET grant_until = greatest(b.grant_until, :until) FROM making
    WHERE b.id = :backup AND b.operation_id = making.id AND b.state = 'BUILDING' AND b.deleted_at IS NULL
    RETURNING b.id
""")  # noqa: S608 - a constant
_COMPLETE = text(f"""
    {_MAKING}
    UPDATE backups b SET state = 'COMPLETED', location = :location, manifest_sha256 = :sha256, raw_bytes = :raw,
        stored_bytes = :stored, segments = :segments, position = :position, tools = :tools, updated_at = now(),
        completed_at = coalesce(b.completed_at, now())
    FROM making
    WHERE b.id = :backup AND b.operation_id = making.id AND b.state IN ('SAVING', 'COMPLETED')
      AND b.deleted_at IS NULL
    RETURNING b.id
""").bindparams(bindparam("position", type_=JSONB), bindparam("tools", type_=JSONB))  # noqa: S608 - a constant
_COMPLETE_SNAPSHOT = text(f"""
    {_MAKING}
    UPDATE backups b SET state = 'COMPLETED', location = :location, raw_bytes = :used, volume_gib = :gib,
        fs_uuid = i.fs_uuid, updated_at = now(), completed_at = coalesce(b.completed_at, now())
    FROM making, instances i
    WHERE b.id = :backup AND b.operation_id = making.id AND b.state IN ('SAVING', 'COMPLETED')
      AND b.deleted_at IS NULL AND i.id = b.instance_id
    RETURNING b.id
""")  # noqa: S608 - a constant
