"""Resources in the cloud that this database knows nothing of: as the keeper finds them, and what an operator wants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text

from coffer_db.database import Database
from coffer_shared.errors import Refused


@dataclass(frozen=True, slots=True)
class Found:
    """As a round found it."""

    kind: str
    id: str
    instance: str
    operation: str
    held_data: bool
    """It is of a volume that has held a started database."""


@dataclass(frozen=True, slots=True)
class Known:
    """As an operator is shown it."""

    kind: str
    id: str
    instance_id: str
    first_seen_at: datetime
    last_seen_at: datetime
    held_data: bool
    drop_requested: bool
    instance_lives: bool
    """Its instance is known and not deleted: that one's deletion takes it along."""


async def note(db: Database, found: Sequence[Found]) -> set[tuple[str, str]]:
    """Make the table say what a round found, and nothing else; kind and id of what is to be dropped now.

    A request is for the very thing that the operator saw: names such as those of addresses are used again."""
    columns = {
        name: [getattr(one, name) for one in found] for name in ("kind", "id", "instance", "operation", "held_data")
    }
    async with db.begin() as session:
        rows = await session.execute(_NOTE, columns)
        return {(row.kind, row.id) for row in rows if row.wanted}


async def known(db: Database) -> list[Known]:
    """In the order of their instances."""
    async with db.begin() as session:
        return [Known(*row) for row in await session.execute(_KNOWN)]


async def request_drop(db: Database, kind: str, identity: str, *, with_data: bool) -> None:
    """For the keeper's next round. Refused if it is not there, belongs to a living instance, or holds data that are not
    meant."""
    async with db.begin() as session:
        row = (await session.execute(_ONE, {"kind": kind, "id": identity})).first()
        if row is None:
            raise Refused("no_orphan", f"no orphan {kind} {identity} is known")
        if row.instance_lives:
            raise Refused(
                "instance_lives", f"the instance {row.instance_id} is known and not deleted: delete the instance",
            )
        if row.held_data and not with_data:
            raise Refused(
                "held_data", "it is of a volume that has held a database: --with-data says that the data are to go",
            )
        await session.execute(_REQUEST, {"kind": kind, "id": identity, "data": with_data})


_LIVES = "EXISTS (SELECT FROM instances i WHERE i.id = o.instance_id AND i.deleted_at IS NULL)"
_SAME = "(o.instance_id, o.operation_id) = (excluded.instance_id, excluded.operation_id)"
_NOTE = text(f"""
    WITH seen AS (
        SELECT DISTINCT ON (kind, id) * FROM unnest(
            CAST(:kind AS text[]), CAST(:id AS text[]), CAST(:instance AS text[]), CAST(:operation AS text[]),
            CAST(:held_data AS boolean[])
        ) AS given (kind, id, instance_id, operation_id, held_data)
        ORDER BY kind, id
    ), gone AS (
        DELETE FROM orphans o WHERE NOT EXISTS (SELECT FROM seen WHERE seen.kind = o.kind AND seen.id = o.id)
    )
    INSERT INTO orphans AS o (kind, id, instance_id, operation_id, held_data)
    SELECT kind, id, instance_id, operation_id, held_data FROM seen
    ON CONFLICT (kind, id) DO UPDATE SET
        last_seen_at = now(), held_data = excluded.held_data,
        instance_id = excluded.instance_id, operation_id = excluded.operation_id,
        first_seen_at = CASE WHEN {_SAME} THEN o.first_seen_at ELSE now() END,
        drop_requested = o.drop_requested AND {_SAME}, drop_data = o.drop_data AND {_SAME}
    RETURNING kind, id, drop_requested AND (drop_data OR NOT held_data) AND NOT {_LIVES} AS wanted
""")  # noqa: S608 - constants
_KNOWN = text(f"""
    SELECT kind, id, instance_id, first_seen_at, last_seen_at, held_data, drop_requested, {_LIVES}
    FROM orphans o ORDER BY instance_id, kind, id
""")  # noqa: S608 - constants
_ONE = text(f"""
    SELECT instance_id, held_data, {_LIVES} AS instance_lives FROM orphans o WHERE kind = :kind AND id = :id FOR UPDATE
""")  # noqa: S608 - constants
_REQUEST = text("UPDATE orphans SET drop_requested = true, drop_data = :data WHERE kind = :kind AND id = :id")
