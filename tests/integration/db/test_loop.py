"""Loops that compete, lose leases, are woken and are stopped."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest
import structlog.testing

from coffer_db import operations
from coffer_db.database import Database
from coffer_db.operations import wake
from coffer_db.secrets import MasterKey
from coffer_provisioner.loop import Loop
from coffer_provisioner.plan import Done, Job, Outcome, Plan, Wait
from coffer_provisioner.reach import Reach
from coffer_shared.errors import Unavailable
from integration.db.rows import KEY, FileOperation, MakeInstance, end_leases, end_waits, instance_row, row, run
from integration.db.toy import REACH, Death, World, ending
from support.postgres import Server

Run = Callable[..., AbstractAsyncContextManager[Loop]]


@pytest.fixture
def running(db: Database) -> Run:
    """A loop that runs within the block and is stopped, not cancelled, at its end."""

    @contextlib.asynccontextmanager
    async def running(plan: Plan, **more: Any) -> AsyncIterator[Loop]:
        key = more.pop("key", KEY)
        settings: dict[str, Any] = {"sweep": 0.02, "ending": ending}
        loop = Loop(more.pop("db", db), {plan.kind: plan}, REACH, key, **settings | more)
        task = asyncio.create_task(loop.run())
        try:
            yield loop
            loop.stop()
            async with asyncio.timeout(5):
                await task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    return running


async def until(db: Database, op: str, *states: str) -> Any:
    async with asyncio.timeout(10):
        while (found := await row(db, op)).state not in states:
            await asyncio.sleep(0.01)
    return found


class Gate:
    """A plan of one step that starts, says so, and ends when it is let."""

    def __init__(self, **more: Any) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.ended: list[str] = []
        self.starts = 0

        async def step(job: Job, to: Reach) -> Outcome:
            self.starts += 1
            self.entered.set()
            try:
                await self.open.wait()
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
            self.ended.append("done")
            return Done()

        async def last(job: Job, to: Reach) -> Outcome:
            return Done()

        self.plan = Plan("toy", steps=(step, last), **more)


async def test_steps_that_are_done_follow_one_another_without_a_new_claim(
    db: Database, file: FileOperation, running: Run,
) -> None:
    world = World(Death(), wait=3600)
    op = await file(secret_args={"password": "s3cret"})
    before = db.statements
    async with running(world.plan(), sweep=3600) as loop:
        found = await until(db, op, "waiting")
        assert (found.step, found.progress, found.progress_text) == ("ensure_machine", 33, "it boots")
        await end_waits(db)
        loop.wake()
        await until(db, op, "succeeded")
    assert db.statements - before < 40
    assert (await row(db, op)).progress == 100


async def test_two_loops_end_many_operations_each_once(
    db: Database, postgres: Server, empty_database: str, make_instance: MakeInstance, file: FileOperation, running: Run,
) -> None:
    ran: list[str] = []

    async def one(job: Job, to: Reach) -> Outcome:
        ran.append(job.id)
        await asyncio.sleep(0.001)
        return Done()

    where = [await make_instance() for _ in range(8)]
    ops = [await file(instance_id=i, lifecycle=False) for _ in range(5) for i in where]
    other = Database(postgres.settings(empty_database), name="other")
    plan = Plan("toy", steps=(one,))
    async with running(plan, worker="a", concurrency=3), running(plan, db=other, worker="b", concurrency=3):
        async with asyncio.timeout(20):
            for op in ops:
                await until(db, op, "succeeded")
    await other.close()
    assert sorted(ran) == sorted(ops)
    for place in range(8):
        mine = ops[place::8]
        assert [op for op in ran if op in mine] == mine


async def test_no_more_than_the_limit_run_at_once(
    db: Database, make_instance: MakeInstance, file: FileOperation, running: Run,
) -> None:
    gate = Gate()
    ops = [await file(instance_id=await make_instance()) for _ in range(5)]
    async with running(gate.plan, concurrency=2) as loop:
        await gate.entered.wait()
        await asyncio.sleep(0.1)
        assert (gate.starts, loop.busy) == (2, 2)
        gate.open.set()
        for op in ops:
            await until(db, op, "succeeded")
    assert gate.starts == 5


async def test_a_running_step_keeps_its_lease(db: Database, file: FileOperation, running: Run) -> None:
    gate = Gate()
    op = await file()
    async with running(gate.plan, lease=1.5), running(gate.plan, lease=1.5):
        await gate.entered.wait()
        first = (await row(db, op)).lease_until
        async with asyncio.timeout(10):
            while (await row(db, op)).lease_until < first + timedelta(seconds=0.8):
                await asyncio.sleep(0.05)
        gate.open.set()
        await until(db, op, "succeeded")
    assert (gate.starts, gate.ended) == (1, ["done"])


async def test_a_lost_lease_ends_the_step_and_drops_its_result(
    db: Database, file: FileOperation, running: Run,
) -> None:
    gate = Gate()
    op = await file()
    async with running(gate.plan, lease=1.0, worker="a") as loop:
        await gate.entered.wait()
        await run(db, "UPDATE operations SET lease_token = 'thief', lease_until = now() + interval '1 hour'")
        async with asyncio.timeout(10):
            while loop.busy:
                await asyncio.sleep(0.01)
    assert gate.ended == ["cancelled"]
    found = await row(db, op)
    assert (found.state, found.lease_token, found.step) == ("running", "thief", "")


async def test_a_result_saved_too_late_is_dropped_and_nothing_follows_it(
    db: Database, file: FileOperation, running: Run,
) -> None:
    gate = Gate()
    op = await file()
    with structlog.testing.capture_logs() as lines:
        async with running(gate.plan) as loop:
            await gate.entered.wait()
            await run(db, "UPDATE operations SET lease_token = 'thief', lease_until = now() + interval '1 hour'")
            gate.open.set()
            async with asyncio.timeout(10):
                while loop.busy:
                    await asyncio.sleep(0.01)
    assert [line["event"] for line in lines] == ["the lease was lost; the result is dropped"]
    found = await row(db, op)
    assert (gate.ended, found.lease_token, found.step) == (["done"], "thief", "")


async def test_a_step_is_ended_when_its_lease_cannot_be_lengthened(
    db: Database, file: FileOperation, running: Run, monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: Any) -> bool:
        raise Unavailable("away")

    gate = Gate()
    await file()
    async with running(gate.plan, lease=0.5) as loop:
        await gate.entered.wait()
        monkeypatch.setattr(operations, "extend", away)
        loop.stop()
        async with asyncio.timeout(10):
            while loop.busy:
                await asyncio.sleep(0.01)
    assert gate.ended == ["cancelled"]


async def test_a_save_is_repeated_until_the_database_is_back(
    db: Database, file: FileOperation, running: Run, postgres: Server,
) -> None:
    gate = Gate()
    op = await file()
    async with running(gate.plan):
        await gate.entered.wait()
        postgres.restart()
        gate.open.set()
        await until(db, op, "succeeded")
    assert gate.ended == ["done"]


async def test_stopping_ends_the_turn_and_frees_the_operation(db: Database, file: FileOperation, running: Run) -> None:
    gate = Gate()
    op = await file()
    async with running(gate.plan) as loop:
        await gate.entered.wait()
        loop.stop()
        await asyncio.sleep(0.05)
        assert gate.ended == []
        gate.open.set()
    found = await row(db, op)
    assert (found.state, found.step, found.lease_token) == ("waiting", "last", None)
    assert found.due_in <= 0
    async with running(gate.plan):
        await until(db, op, "succeeded")
    assert gate.starts == 1


async def test_a_wake_during_a_step_that_then_waits_is_not_lost(
    db: Database, file: FileOperation, running: Run,
) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()
    looks: list[int] = []

    async def step(job: Job, to: Reach) -> Outcome:
        looks.append(len(looks))
        if len(looks) > 1:
            return Done()
        entered.set()
        await go_on.wait()
        return Wait(3600)

    op = await file()
    async with running(Plan("toy", steps=(step,))):
        await entered.wait()
        await wake(db, op)
        go_on.set()
        await until(db, op, "succeeded")
    assert looks == [0, 1]


async def test_cancelling_while_it_runs_undoes_after_the_step(db: Database, file: FileOperation, running: Run) -> None:
    gate = Gate(cancellable=True)
    op, follower = await file(), await file(lifecycle=False)
    async with running(gate.plan):
        await gate.entered.wait()
        async with db.begin() as session:
            assert await operations.request_cancel(session, op)
        gate.open.set()
        found = await until(db, op, "cancelled")
        assert (found.failure_code, found.failure_step) == ("cancelled", "last")
        await until(db, follower, "succeeded")


async def test_a_wrong_master_key_waits_for_the_right_one_and_ends_at_the_deadline(
    db: Database, file: FileOperation, running: Run, instance: str,
) -> None:
    gate = Gate()
    gate.open.set()
    op = await file(secret_args={"password": "x"})
    async with running(gate.plan, key=MasterKey.generate()):
        assert (await until(db, op, "waiting")).attempts >= 1
        assert gate.starts == 0
        await run(db, "UPDATE operations SET deadline = now(), wake_at = now()")
        found = await until(db, op, "failed")
    assert (found.failure_code, found.secret_args) == ("deadline", None)
    assert (await instance_row(db, instance)).fault_message == "deadline"


async def test_an_unknown_kind_is_left_for_another_release_and_ends_at_its_deadline(
    db: Database, file: FileOperation, running: Run, instance: str,
) -> None:
    gate = Gate()
    op = await file(kind="other", within=timedelta(seconds=60))
    async with running(gate.plan):
        assert (await until(db, op, "waiting")).due_in > 1
        await run(db, "UPDATE operations SET deadline = now(), wake_at = now()")
        assert (await until(db, op, "failed")).failure_code == "unknown_kind"
    assert (await instance_row(db, instance)).fault_message == "unknown_kind"


async def test_an_ending_that_fails_leaves_the_operation_open_and_the_loop_alive(
    db: Database, file: FileOperation, running: Run, make_instance: MakeInstance,
) -> None:
    broken = True

    def hook(job: Job, state: object) -> dict[str, Any]:
        if broken:
            raise ZeroDivisionError
        return {}

    gate = Gate()
    gate.open.set()
    op = await file()
    async with running(gate.plan, ending=hook):
        await until(db, op, "running")
        async with asyncio.timeout(5):
            while (await row(db, op)).step != "last":
                await asyncio.sleep(0.01)
        broken = False
        other = await file(instance_id=await make_instance())
        await until(db, other, "succeeded")
        await end_leases(db)
        await until(db, op, "succeeded")


async def test_the_loop_outlives_a_database_that_is_away(
    db: Database, file: FileOperation, running: Run, postgres: Server,
) -> None:
    gate = Gate()
    gate.open.set()
    async with running(gate.plan) as loop:
        for _ in range(3):
            postgres.restart()
            loop.wake()
            await asyncio.sleep(0.05)
        assert await db.ready()
        op = await file()
        await until(db, op, "succeeded")
