"""How the API waits for operations and shows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from coffer_db import operation_views
from coffer_db.database import Database
from coffer_db.operation_views import list_for_instance, list_for_project
from coffer_db.operations import Turned, claim, save
from coffer_db.tables import OperationState
from coffer_db.waiting import Waiter
from integration.db.rows import FileOperation, MakeInstance, run


async def finish(db: Database, **more: Any) -> None:
    now = await claim(db, "w", 30)
    assert now
    state = OperationState.FAILED if more else OperationState.SUCCEEDED
    assert await save(db, now.id, now.token, Turned(state=state, step="a", context={}, **more))


@pytest.fixture
async def waiter(db: Database) -> AsyncIterator[Waiter]:
    waiter = Waiter(db, look_every=3600)
    await waiter.start()
    yield waiter
    await waiter.stop()


async def test_many_waiters_are_told_at_once(db: Database, file: FileOperation, waiter: Waiter) -> None:
    op = await file()
    waits = [asyncio.create_task(waiter.until_finished(op, 10)) for _ in range(20)]
    await asyncio.sleep(0.05)
    before = db.statements
    await finish(db, failure_code="c", failure_text="t", failure_step="s")
    async with asyncio.timeout(2):
        ends = await asyncio.gather(*waits)
    assert db.statements - before == 3  # claim, save, and one look for all of them
    assert {(e.id, e.state, e.failure_code, e.failure_text, e.failure_step) for e in ends if e} == {
        (op, OperationState.FAILED, "c", "t", "s"),
    }


async def test_what_ended_before_is_seen_at_once(db: Database, file: FileOperation) -> None:
    op = await file()
    await finish(db)
    waiter = Waiter(db, look_every=3600)
    await waiter.start()
    async with asyncio.timeout(2):
        end = await waiter.until_finished(op, 10)
    await waiter.stop()
    assert end is not None
    assert end.state == OperationState.SUCCEEDED


async def test_waiting_ends_after_its_time(db: Database, file: FileOperation, waiter: Waiter) -> None:
    assert await waiter.until_finished(await file(), 0.05) is None
    assert not waiter._waiting


async def test_without_any_notification_the_look_finds_it(db: Database, file: FileOperation) -> None:
    waiter = Waiter(db, look_every=0.05)
    await waiter.start()
    op = await file()
    wait = asyncio.create_task(waiter.until_finished(op, 10))
    await asyncio.sleep(0.02)
    await run(db, "UPDATE operations SET state = 'succeeded'")
    async with asyncio.timeout(2):
        assert await wait is not None
    await waiter.stop()


async def test_an_end_while_the_listening_connection_was_lost_is_not_missed(
    db: Database, file: FileOperation, waiter: Waiter,
) -> None:
    op = await file()
    wait = asyncio.create_task(waiter.until_finished(op, 10))
    await asyncio.sleep(0.05)
    await run(db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test-alone'")
    await finish(db)
    async with asyncio.timeout(5):
        assert await wait is not None


async def test_lists_are_newest_first_by_page_and_by_project(
    db: Database, file: FileOperation, make_instance: MakeInstance, instance: str,
) -> None:
    ids = [await file(lifecycle=False, secret_args={"x": "y"}) for _ in range(5)]
    other = await make_instance()
    theirs = await file(instance_id=other, project_id="q")
    async with db.connect() as conn:
        first = await list_for_project(conn, "p", limit=3)
        rest = await list_for_project(conn, "p", limit=3, marker=first[-1].id)
        assert [o.id for o in first + rest] == ids[::-1]
        assert await list_for_project(conn, "p", limit=3, marker=theirs) == []
        assert {o.id for o in await list_for_project(conn, None, limit=100)} == {*ids, theirs}
        assert [o.id for o in await list_for_instance(conn, "p", instance, limit=2)] == ids[:-3:-1]
        assert await list_for_instance(conn, "p", other, limit=2) == []
        assert await operation_views.get(conn, "p", theirs) is None
        seen = await operation_views.get(conn, None, theirs)
    assert seen is not None
    assert (seen.id, seen.state, seen.project_id) == (theirs, OperationState.PENDING, "q")
    assert "secret_args" not in operation_views.OperationView.__dataclass_fields__
