"""A new instance from a backup: whether that backup can be restored, and that it stays until it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from coffer_api import backup_rows
from coffer_api.bodies import DatastoreSpec
from coffer_api.problems import Problem, bad_request, not_found
from coffer_db.backup_tables import BackupState
from coffer_shared.backups import CINDER
from coffer_shared.datastore import Datastore, Feature

GIB = 1024**3
_HOLD = text("SELECT state FROM backups WHERE id = :id FOR SHARE")


async def hold(session: AsyncSession, backup: str) -> None:
    """Lock it against deletion until the transaction ends; from then on the operation that it filed stands in the
    way."""
    need_completed(backup, (await session.execute(_HOLD, {"id": backup})).scalar_one())


def need_completed(backup: str, state: str) -> None:
    if state == BackupState.DELETED:
        raise backup_rows.missing(backup)
    if state != BackupState.COMPLETED:
        raise Problem(
            409,
            f"Unable to create instance because backup {backup} is not completed. Actual state: {state}.",
        )


def version(rows: Sequence[asyncpg.Record], asked: DatastoreSpec | None, backup: asyncpg.Record) -> asyncpg.Record:
    """That of the backup, which is the only one whose engine understands these files; 400 if another was asked for."""
    own = next(row for row in rows if row["id"] == backup["version_id"])
    asked = asked or DatastoreSpec()
    if asked.type is not None and asked.type not in {own["datastore"], own["datastore_id"]}:
        other = next((row["datastore"] for row in rows if asked.type in {row["datastore"], row["datastore_id"]}), None)
        if other is None:
            raise not_found(f"Datastore '{asked.type}' cannot be found.")
        raise bad_request(
            f"The datastore from which the backup was taken, {own['datastore']}, does not match the destination "
            f"datastore of {other}.",
        )
    named = asked.version is None or asked.version in {own["name"], own["id"]}
    if not named or (asked.version_number is not None and asked.version_number != own["version"]):
        raise bad_request(
            f"Backup {backup['id']} is of version '{own['name']}' ({own['version']}) of datastore {own['datastore']} "
            "and can be restored to that version only.",
        )
    whole = backup["storage"] == CINDER or (own["backup_image"] and own["backup_image_digest"])
    if not own["active"] or not whole:
        raise bad_request(
            f"Version '{own['name']}' ({own['version']}) of datastore {own['datastore']}, which backup {backup['id']} "
            "is of, is not available.",
        )
    return own


def need_feature(datastore: Datastore, backup: asyncpg.Record) -> None:
    feature = Feature.SNAPSHOT if backup["storage"] == CINDER else Feature.BACKUP
    if feature not in datastore.features:
        raise bad_request(f"The 'restore' operation is not supported for the '{datastore.name}' datastore.")


def need_room(backup: asyncpg.Record, volume_gib: int) -> None:
    """A copy of a volume cannot be smaller than that was."""
    needed = (backup["volume_gib"] or 0) * GIB or backup["raw_bytes"] or 0
    if needed > volume_gib * GIB:
        size = round(needed / GIB, 2)
        raise Problem(
            403,
            f"Backup is too large for given flavor or volume. Backup size: {size} GBs. "
            f"Available size: {volume_gib} GBs.",
        )


def columns(backup: asyncpg.Record | None) -> dict[str, Any]:
    """Of the new instance's row, where its volume is not to be a new one."""
    if backup is None or backup["storage"] != CINDER:
        return {}
    return {"fs_uuid": backup["fs_uuid"], "formatted": True}


def arguments(backup: asyncpg.Record | None) -> dict[str, Any]:
    """What the operation is told."""
    return {} if backup is None else {"restore": backup["id"]}
