"""What guests report, honest or not."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from coffer_db import operation_views
from coffer_db.database import Database
from coffer_db.guest_events import MOST_EVENTS, GuestEvent, note_events
from coffer_db.operations import Turned, claim, save
from coffer_db.tables import OperationState
from integration.db.rows import FileOperation, MakeInstance, row


def progress(instance: str, op: str, n: int, **more: Any) -> GuestEvent:
    event: dict[str, Any] = {"instance": instance, "op": op, "n": n, "kind": "progress", "at": 1.7e9}
    return GuestEvent(**event | more)


def end(instance: str, op: str, n: int, kind: str = "done", **more: Any) -> GuestEvent:
    return progress(instance, op, n, kind=kind, **more)


async def test_a_batch_is_one_statement_and_moves_the_operation(
    db: Database, file: FileOperation, instance: str,
) -> None:
    op = await file()
    before = db.statements
    noted = await note_events(db, [
        progress(instance, op, 0, percent=10, text="pulls"), progress(instance, op, 1, percent=40, text="formats"),
    ])
    assert db.statements - before == 1
    assert noted == {(op, 0), (op, 1)}
    found = await row(db, op)
    assert (found.progress, found.progress_text, found.guest_state) == (40, "formats", "accepted")
    async with db.connect() as connection:
        stored = await operation_views.events(connection, op, limit=10)
    assert [(e.n, e.percent, e.text) for e in stored] == [(0, 10, "pulls"), (1, 40, "formats")]


async def test_the_first_terminal_event_wins_and_wakes(db: Database, file: FileOperation, instance: str) -> None:
    op = await file()
    now = await claim(db, "w", 30)
    assert now
    await save(db, op, now.token, Turned(state=OperationState.WAITING, step="a", context={}, wait=100))
    await note_events(db, [progress(instance, op, 0)])
    assert (await row(db, op)).due_in > 90
    assert await note_events(db, [end(instance, op, 1, result={"v": 17}, text="well")]) == {(op, 1)}
    found = await row(db, op)
    assert (found.guest_state, found.guest_result, found.guest_text, found.progress) == ("done", {"v": 17}, "well", 0)
    assert found.due_in <= 0
    assert await note_events(db, [end(instance, op, 2, "failed", code="engine", result={"v": 0})]) == {(op, 2)}
    found = await row(db, op)
    assert (found.guest_state, found.guest_result, found.guest_code) == ("done", {"v": 17}, "")


async def test_duplicates_are_acknowledged_and_change_nothing(
    db: Database, file: FileOperation, instance: str,
) -> None:
    op = await file()
    await note_events(db, [end(instance, op, 0, "failed", code="engine")])
    now = await claim(db, "w", 30)
    assert now
    await save(db, op, now.token, Turned(state=OperationState.WAITING, step="a", context={}, wait=100))
    again = [end(instance, op, 0, "done"), end(instance, op, 0, "done")]
    assert await note_events(db, again) == {(op, 0)}
    found = await row(db, op)
    assert (found.guest_state, found.guest_code) == ("failed", "engine")
    assert found.due_in > 90


async def test_a_late_number_never_turns_progress_back(db: Database, file: FileOperation, instance: str) -> None:
    op = await file()
    await note_events(db, [progress(instance, op, 5, percent=80, text="late")])
    await note_events(db, [progress(instance, op, 3, percent=50, text="early")])
    found = await row(db, op)
    assert (found.progress, found.progress_text) == (80, "late")


async def test_events_of_another_instance_or_of_no_operation_are_not_stored(
    db: Database, file: FileOperation, instance: str, make_instance: MakeInstance,
) -> None:
    op = await file()
    stranger = await make_instance()
    noted = await note_events(db, [
        end(stranger, op, 0), end(instance, str(uuid4()), 0), end(instance, "x' OR true", 0), progress(instance, op, 1),
    ])
    assert noted == {(op, 1)}
    assert (await row(db, op)).guest_state == "accepted"


async def test_events_after_the_end_are_kept_and_change_nothing(
    db: Database, file: FileOperation, instance: str,
) -> None:
    op = await file()
    now = await claim(db, "w", 30)
    assert now
    await save(db, op, now.token, Turned(state=OperationState.FAILED, step="a", context={}))
    assert await note_events(db, [end(instance, op, 0)]) == {(op, 0)}
    found = await row(db, op)
    assert (found.state, found.guest_state) == ("failed", "")


@pytest.mark.parametrize("poison", [
    {"n": -1}, {"n": MOST_EVENTS}, {"n": 10**30}, {"at": math.nan}, {"at": math.inf}, {"at": 1e300}, {"at": -1.0},
    {"kind": "x"}, {"op": "a\0b"}, {"op": "\ud800"},
], ids=str)
async def test_what_cannot_be_stored_spoils_nothing_else(
    db: Database, file: FileOperation, instance: str, poison: dict[str, Any],
) -> None:
    op = await file()
    bad = replace(end(instance, op, 7), **poison)
    assert await note_events(db, [bad, progress(instance, op, 1)]) == {(op, 1)}
    assert await note_events(db, [bad]) == set()


async def test_hostile_texts_and_results_are_cleaned(db: Database, file: FileOperation, instance: str) -> None:
    op = await file()
    result = {"a\0": ["b\0\ud800", {"c": math.nan}], "d": 10**40, "percent'); DROP": None}
    await note_events(db, [end(instance, op, 0, text="t\0" * 9000, code="\0" * 500, result=result, percent=10**12)])
    found = await row(db, op)
    assert found.guest_result == {"a": ["b?", {"c": None}], "d": 10**40, "percent'); DROP": None}
    assert (set(found.guest_text), len(found.guest_text), found.guest_code, found.progress) == ({"t"}, 2000, "", 99)


async def test_collectors_with_overlapping_batches_do_not_block_one_another_for_good(
    db: Database, make_instance: MakeInstance, file: FileOperation,
) -> None:
    where = [await make_instance() for _ in range(6)]
    ops = [(i, await file(instance_id=i)) for i in where]
    batches = [[progress(i, op, n, percent=n) for i, op in order for n in range(5)] for order in (ops, ops[::-1]) * 8]
    results = await asyncio.gather(*(note_events(db, batch) for batch in batches))
    assert all(len(noted) == 30 for noted in results)
    async with db.connect() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM operation_events"))).scalar_one() == 30
