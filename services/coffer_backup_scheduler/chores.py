"""Housekeeping of the database: rows that nothing will ask for again are removed, a batch at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import asyncpg

from coffer_backup_scheduler.due import Rhythm

BATCH = 1_000
EVENTS_KEPT_DAYS = 30

Connection: TypeAlias = "asyncpg.Connection[Any]"


@dataclass(frozen=True, slots=True)
class Chore:
    """`batch` removes up to BATCH rows and says how many; it is called until there are none."""

    rhythm: Rhythm
    batch: Callable[[Connection], Awaitable[int]]

    @property
    def name(self) -> str:
        return self.rhythm.name


async def prune_revocations(connection: Connection) -> int:
    """Of users whose last JWT has expired: they could not connect anyway. A day later, whatever the clocks say."""
    return _count(await connection.execute(_REVOCATIONS, BATCH))


async def prune_operation_events(connection: Connection) -> int:
    """Of operations that ended long ago. The operations themselves stay."""
    return _count(await connection.execute(_EVENTS, EVENTS_KEPT_DAYS, BATCH))


def _count(status: str) -> int:
    """Of a command tag such as "DELETE 12"."""
    return int(status.rsplit(" ", 1)[1])


CHORES = (
    Chore(Rhythm("prune_revocations", 3600.0), prune_revocations),
    Chore(Rhythm("prune_operation_events", 3600.0), prune_operation_events),
)

_REVOCATIONS = """
DELETE FROM revocations WHERE nkey IN (
    SELECT nkey FROM revocations WHERE expires_at < now() - interval '1 day'
    LIMIT $1 FOR UPDATE SKIP LOCKED
)
"""
_EVENTS = """
DELETE FROM operation_events WHERE (operation_id, n) IN (
    SELECT events.operation_id, events.n
    FROM operation_events AS events JOIN operations ON operations.id = events.operation_id
    WHERE operations.finished_at < now() - make_interval(days => $1)
    LIMIT $2 FOR UPDATE OF events SKIP LOCKED
)
"""
