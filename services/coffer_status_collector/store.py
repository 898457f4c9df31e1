"""What the collector reads and writes of heartbeats, in SQL, on connections of its own.

Heartbeats do not go through SQLAlchemy: at thousands a second its bookkeeping would cost more than the rest.
Ages count by the database's clock, so that two collectors and every reader agree.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import asyncpg

from coffer_db.database import Database
from coffer_db.listening import LOST
from coffer_shared.errors import Unavailable

Row: TypeAlias = Any
"""asyncpg.Record, of which nothing is known before it is read."""


class BadRow(Exception):
    """The database cannot hold a value in this batch."""


class Beat(NamedTuple):
    """One heartbeat to be stored. A tuple, because a thousand are made and taken apart each second."""

    instance: str
    seq: int
    received: float
    """By the loop's clock."""
    engine: str
    facts: str
    """JSON"""


@dataclass(frozen=True, slots=True)
class Turn:
    """An instance whose engine state is another than before, or that was heard for the first time."""

    instance: str
    operation: str | None
    """The oldest open operation of the instance."""


@dataclass(frozen=True, slots=True)
class Written:
    stored: int
    gone: int
    """Given for instances that are deleted or unknown."""
    turns: tuple[Turn, ...]


class OwnConnection:
    """One connection outside the pool, made again after it was lost. One statement at a time."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._connection: asyncpg.Connection[Any] | None = None
        self._turn = asyncio.Lock()
        self.made = 0
        """How often it was made: what belongs to a session, such as a lock, is gone when this changes."""

    async def fetch(self, statement: str, *values: Any) -> list[Row]:
        """Unavailable when the database cannot be reached; the statement may have been carried out."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._db.connect_alone()
                self.made += 1
            try:
                return list(await self._connection.fetch(statement, *values))
            except asyncpg.DataError as error:
                raise BadRow(str(error)) from error
            except LOST as error:
                self._connection.terminate()
                self._connection = None
                raise Unavailable(f"PostgreSQL: {type(error).__name__}") from error

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def write_beats(connection: OwnConnection, beats: Sequence[Beat], now: float) -> Written:
    """Of instances that have been heard before. An older heartbeat never overwrites a newer one."""
    rows = await connection.fetch(_WRITE, *_columns(beats, now))
    return Written(stored=rows[0]["stored"], gone=0, turns=())


async def write_news(connection: OwnConnection, beats: Sequence[Beat], now: float) -> Written:
    """As `write_beats`, for what may be the first of an instance or say that its engine changed.

    It looks at more: deleted instances get no row, and it says whose state is another than before. With two collectors
    only the database can tell, because each of them hears a part.
    """
    rows = await connection.fetch(_WRITE_NEWS, *_columns(beats, now))
    total = rows[0]
    turns = tuple(Turn(row["instance_id"], row["operation_id"]) for row in rows[1:])
    return Written(stored=total["stored"], gone=len(beats) - total["live"], turns=turns)


def _columns(beats: Sequence[Beat], now: float) -> tuple[list[Any], ...]:
    instances, seqs, received, engines, facts = zip(*beats, strict=True)
    return list(instances), list(seqs), [now - at for at in received], list(engines), list(facts)


async def read_engines(connection: OwnConnection) -> dict[str, str]:
    return {row[0]: row[1] for row in await connection.fetch("SELECT instance_id, engine FROM heartbeats")}


# Rows are written in the order of their ids, so that two collectors never wait for one another in a circle.
_GIVEN = """
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::float8[], $4::text[], $5::text[])
        AS given(instance_id, seq, age, engine, facts)
"""
_INSERT = """
    INSERT INTO heartbeats (instance_id, seq, received_at, engine, facts)
    SELECT instance_id, seq, clock_timestamp() - make_interval(secs => age), engine, facts::jsonb
    FROM {source} ORDER BY instance_id
    ON CONFLICT (instance_id) DO UPDATE
    SET seq = excluded.seq, received_at = excluded.received_at, engine = excluded.engine, facts = excluded.facts
    WHERE heartbeats.seq < excluded.seq
    RETURNING instance_id
"""
_WRITE = f"""
WITH given AS ({_GIVEN}), written AS ({_INSERT.format(source="given")})
SELECT count(*) AS stored FROM written
"""  # noqa: S608  nothing but the constants above is put in
# All parts of the statement see the rows as they were before it, so `before` is what the last heartbeat said.
_WRITE_NEWS = f"""
WITH given AS ({_GIVEN}), live AS (
    SELECT given.*, before.engine AS was
    FROM given
    JOIN instances ON instances.id = given.instance_id AND instances.deleted_at IS NULL
    LEFT JOIN heartbeats AS before ON before.instance_id = given.instance_id
), written AS ({_INSERT.format(source="live")}), turned AS (
    SELECT live.instance_id FROM live JOIN written USING (instance_id) WHERE live.was IS DISTINCT FROM live.engine
)
SELECT NULL AS instance_id, NULL AS operation_id,
    (SELECT count(*) FROM written) AS stored, (SELECT count(*) FROM live) AS live
UNION ALL
SELECT turned.instance_id, (
    SELECT id FROM operations
    WHERE operations.instance_id = turned.instance_id AND state IN ('pending', 'running', 'waiting', 'undoing')
    ORDER BY seq LIMIT 1
), 0, 0
FROM turned
"""  # noqa: S608  as above
