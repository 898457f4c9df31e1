"""Storing what guests report of their commands. The values come from machines that may be hostile.

One statement a batch, whatever its size. An event that cannot be stored (a number out of range, an operation of another
instance) is left out and never spoils the rest of its batch.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from coffer_db.database import Database

MOST_EVENTS = 100_000
"""Events of one operation; more are refused."""
MOST_TEXT = 2_000
TERMINAL = ("done", "failed", "cancelled")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestEvent:
    """An opened event. `instance` is from the subject it came on, never from its content."""

    instance: str
    op: str
    n: int
    kind: str
    """progress, done, failed or cancelled"""
    at: float
    percent: int = 0
    text: str = ""
    code: str = ""
    result: dict[str, Any] = field(default_factory=dict)


async def note_events(db: Database, events: Sequence[GuestEvent]) -> set[tuple[str, int]]:
    """Store a batch; the (op, n) of those that are stored now, duplicates included: these can be acknowledged.

    New events move the operation's progress; the first terminal one fixes what the guest said and wakes the operation.
    Events of an operation that has ended are kept and change nothing.
    """
    rows: dict[tuple[str, str, int], dict[str, Any]] = {}
    for event in events:
        if _storable(event):
            rows.setdefault((event.instance, event.op, event.n), _row(event))
    if not rows:
        return set()
    async with db.connect() as connection:
        noted = await connection.execute(_NOTE, {"events": json.dumps(list(rows.values()))})
        return {(row.op, row.n) for row in noted}


def _storable(event: GuestEvent) -> bool:
    return (
        0 <= event.n < MOST_EVENTS
        and (event.kind == "progress" or event.kind in TERMINAL)
        and math.isfinite(event.at)
        and 0 <= event.at < 2**33
        and _UUID.fullmatch(event.op) is not None
    )


def _row(event: GuestEvent) -> dict[str, Any]:
    return {
        "instance": event.instance, "op": event.op, "n": event.n, "kind": event.kind, "at": event.at,
        "percent": min(max(int(event.percent), 0), 100), "text": _clean(event.text)[:MOST_TEXT],
        "code": _clean(event.code)[:100], "result": _clean(event.result),
    }


def _clean(value: Any) -> Any:
    """The value without what PostgreSQL cannot hold: NUL, halves of characters, and numbers that are none."""
    if isinstance(value, str):
        return value.replace("\0", "").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_clean(str(key)): _clean(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# Rows are locked in the order of their ids, so that two collectors never wait for one another in a circle.
_NOTE = text("""
    WITH given AS (
        SELECT * FROM jsonb_to_recordset(CAST(:events AS jsonb)) AS given(
            instance text, op text, n int, kind text, at float8, percent int, text text, code text, result jsonb)
    ), held AS (
        SELECT o.id, o.instance_id FROM operations AS o
        WHERE o.id IN (SELECT op FROM given)
        ORDER BY o.id FOR NO KEY UPDATE
    ), known AS (
        SELECT given.* FROM given JOIN held ON held.id = given.op AND held.instance_id = given.instance
    ), stored AS (
        INSERT INTO operation_events (operation_id, n, kind, percent, text, at)
        SELECT op, n, kind, percent, text, to_timestamp(at) FROM known ORDER BY op, n
        ON CONFLICT DO NOTHING
        RETURNING operation_id, n
    ), fresh AS (
        SELECT known.* FROM known JOIN stored ON stored.operation_id = known.op AND stored.n = known.n
    ), newest AS (
        SELECT DISTINCT ON (op) op, n, text, max(percent) OVER (PARTITION BY op) AS percent
        FROM fresh ORDER BY op, n DESC
    ), ending AS (
        SELECT DISTINCT ON (op) op, kind, code, text, result
        FROM fresh WHERE kind <> 'progress' ORDER BY op, n
    ), changed AS (
        UPDATE operations AS o
        SET progress = greatest(o.progress, least(newest.percent, 99)),
            progress_text = CASE
                WHEN newest.n > coalesce((SELECT max(n) FROM operation_events WHERE operation_id = o.id), -1)
                    AND newest.text <> '' THEN newest.text
                ELSE o.progress_text END,
            guest_state = CASE
                WHEN o.guest_state IN ('done', 'failed', 'cancelled') THEN o.guest_state
                ELSE coalesce(ending.kind, 'accepted') END,
            guest_result = CASE
                WHEN ending.op IS NULL OR o.guest_state IN ('done', 'failed', 'cancelled') THEN o.guest_result
                ELSE coalesce(ending.result, '{}'::jsonb) END,
            guest_code = CASE
                WHEN ending.op IS NULL OR o.guest_state IN ('done', 'failed', 'cancelled') THEN o.guest_code
                ELSE ending.code END,
            guest_text = CASE
                WHEN ending.op IS NULL OR o.guest_state IN ('done', 'failed', 'cancelled') THEN o.guest_text
                ELSE ending.text END,
            wake_at = CASE WHEN ending.op IS NULL THEN o.wake_at ELSE clock_timestamp() END,
            updated_at = now()
        FROM newest LEFT JOIN ending ON ending.op = newest.op
        WHERE o.id = newest.op AND o.state IN ('pending', 'running', 'waiting', 'undoing')
    )
    SELECT op, n FROM known
""")
