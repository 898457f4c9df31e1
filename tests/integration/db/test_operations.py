"""Filing, claiming, saving and waking, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from coffer_db import operations
from coffer_db.database import Database
from coffer_db.operations import (
    NOW,
    Busy,
    Claimed,
    KeyReused,
    NewOperation,
    Replayed,
    Turned,
    claim,
    extend,
    save,
    wake,
)
from coffer_db.tables import OperationState
from integration.db.rows import KEY, FileOperation, MakeInstance, end_leases, end_waits, instance_row, row


async def claimed(db: Database) -> Claimed:
    found = await claim(db, "w", 30)
    assert found is not None
    return found


def turned(state: OperationState, **more: Any) -> Turned:
    return Turned(**{"state": state, "step": "a", "context": {}} | more)


async def test_filing_stores_a_pending_operation_with_its_secrets_sealed(db: Database, file: FileOperation) -> None:
    operation = await file(args={"a": 1}, secret_args={"password": "s3cret"})
    found = await row(db, operation)
    assert (found.state, found.args, found.lifecycle, found.seq) == ("pending", {"a": 1}, True, found.seq)
    assert b"s3cret" not in found.secret_args
    assert KEY.unwrap(operations.secret_context(operation), found.secret_args) == {"password": "s3cret"}


async def test_a_second_lifecycle_operation_is_busy_and_the_transaction_goes_on(
    db: Database, file: FileOperation, instance: str, make_instance: MakeInstance,
) -> None:
    await file(kind="resize")
    other = await make_instance()
    async with db.begin() as session:
        new = NewOperation(instance_id=instance, project_id="p", kind="toy", within=timedelta(minutes=1))
        with pytest.raises(Busy) as busy:
            await operations.file(session, new, None)
        assert busy.value.kind == "resize"
        new = NewOperation(instance_id=other, project_id="p", kind="toy", within=timedelta(minutes=1))
        operation = await operations.file(session, new, None)
    assert (await row(db, operation)).instance_id == other


async def test_only_one_of_many_concurrent_lifecycle_filings_goes_through(db: Database, file: FileOperation) -> None:
    results = await asyncio.gather(*(file() for _ in range(8)), return_exceptions=True)
    assert sorted(type(r).__name__ for r in results) == ["Busy"] * 7 + ["str"]


async def test_operations_that_are_not_lifecycle_queue_behind_it(db: Database, file: FileOperation) -> None:
    first = await file()
    second = await file(lifecycle=False)
    third = await file(lifecycle=False)
    for expected in (first, second, third):
        now = await claimed(db)
        assert now.id == expected
        assert await claim(db, "other", 30) is None
        assert await save(db, now.id, now.token, turned(OperationState.SUCCEEDED))
    assert await claim(db, "w", 30) is None


async def test_nothing_waits_for_one_that_runs_beside(db: Database, file: FileOperation) -> None:
    """A backup waits for what was filed before it; users that are made afterwards do not wait for the backup."""
    before = await file(kind="create_users", lifecycle=False)
    backup = await file(kind="create_backup", beside=True)
    after = await file(kind="create_users", lifecycle=False)
    first = await claimed(db)
    assert first.id == before
    assert await claim(db, "w", 30) is None
    await save(db, first.id, first.token, turned(OperationState.SUCCEEDED))
    assert [(await claimed(db)).id, (await claimed(db)).id] == [backup, after]
    assert await claim(db, "w", 30) is None
    with pytest.raises(Busy):
        await file(kind="restart_instance")


async def test_the_same_idempotency_key_replays_or_is_refused(db: Database, file: FileOperation, instance: str) -> None:
    operation = await file(idempotency_key="k", request_hash="h")
    with pytest.raises(Replayed) as replayed:
        await file(idempotency_key="k", request_hash="h")
    assert (replayed.value.operation_id, replayed.value.instance_id) == (operation, instance)
    with pytest.raises(KeyReused):
        await file(idempotency_key="k", request_hash="other")
    assert await file(idempotency_key="k", request_hash="h", project_id="q", lifecycle=False) != operation


async def test_many_concurrent_requests_under_one_key_file_one_operation(db: Database, file: FileOperation) -> None:
    results = await asyncio.gather(
        *(file(idempotency_key="k", request_hash="h", lifecycle=n % 2 == 0) for n in range(8)), return_exceptions=True,
    )
    filed = [r for r in results if isinstance(r, str)]
    assert len(filed) == 1
    assert {r.operation_id for r in results if isinstance(r, Replayed)} == set(filed)
    assert sum(isinstance(r, Replayed) for r in results) == 7


async def test_a_number_is_never_seen_after_a_later_one_of_the_same_instance(
    db: Database, file: FileOperation, instance: str,
) -> None:
    new = NewOperation(instance_id=instance, project_id="p", kind="toy", within=timedelta(minutes=1), lifecycle=False)
    async with db.begin() as session:
        first = await operations.file(session, new, None)
        second = asyncio.create_task(file(lifecycle=False))
        await asyncio.sleep(0.2)
        assert not second.done()
    assert (await row(db, await second)).seq > (await row(db, first)).seq


async def test_claiming_is_one_statement_and_gives_all_the_loop_needs(
    db: Database, file: FileOperation, instance: str,
) -> None:
    operation = await file(args={"a": 1}, secret_args={"b": 2}, user_id="u", request_id="r", trace="t")
    before = db.statements
    now = await claimed(db)
    assert db.statements - before == 1
    assert (now.id, now.instance_id, now.kind, now.args, now.step, now.context) == (
        operation, instance, "toy", {"a": 1}, "", {})
    assert (now.user_id, now.request_id, now.trace, now.undoing) == ("u", "r", "t", False)
    assert 290 < now.seconds_left <= 300
    assert now.secret_args is not None
    assert now.token not in repr(now)
    assert str(now.secret_args) not in repr(now)
    found = await row(db, operation)
    assert (found.state, found.lease_token, found.wake_at) == ("running", now.token, found.lease_until)


async def test_a_lease_keeps_others_out_until_it_ends(db: Database, file: FileOperation) -> None:
    await file()
    first = await claimed(db)
    assert await claim(db, "other", 30) is None
    await wake(db, first.id)
    assert await claim(db, "other", 30) is None
    await end_leases(db)
    second = await claimed(db)
    assert (second.id, second.token == first.token) == (first.id, False)
    assert not await extend(db, first.id, first.token, 30)
    assert await extend(db, second.id, second.token, 30)


async def test_claiming_keeps_undoing(db: Database, file: FileOperation) -> None:
    await file()
    first = await claimed(db)
    failed = turned(OperationState.UNDOING, step="z", failure_code="c", failure_text="t", failure_step="a",
                    new_deadline=timedelta(minutes=20))
    assert await save(db, first.id, first.token, failed)
    again = await claimed(db)
    assert (again.undoing, again.step, again.failure_code, again.failure_step) == (True, "z", "c", "a")
    assert again.seconds_left > 1000


async def test_many_workers_never_claim_one_operation_twice(db: Database, make_instance: MakeInstance) -> None:
    for _ in range(12):
        async with db.begin() as session:
            new = NewOperation(
                instance_id=await make_instance(), project_id="p", kind="toy", within=timedelta(minutes=1))
            await operations.file(session, new, None)
    found = [c for c in await asyncio.gather(*(claim(db, "w", 30) for _ in range(30))) if c]
    assert len(found) == len({c.id for c in found}) == 12


async def test_a_save_without_the_lease_writes_nothing(db: Database, file: FileOperation, instance: str) -> None:
    await file()
    first = await claimed(db)
    await end_leases(db)
    second = await claimed(db)
    late = turned(OperationState.SUCCEEDED, context={"late": True}, instance_changes={"failed": True})
    assert await save(db, first.id, first.token, late) is None
    found = await row(db, first.id)
    assert (found.state, found.context, found.lease_token) == ("running", {}, second.token)
    assert (await instance_row(db, instance)).failed is False


async def test_the_end_erases_secrets_changes_the_instance_and_is_one_statement(
    db: Database, file: FileOperation, instance: str,
) -> None:
    operation = await file(secret_args={"password": "x"})
    now = await claimed(db)
    before = db.statements
    changes = {"failed": True, "fault_message": "no", "deleted_at": NOW}
    assert await save(db, operation, now.token, turned(OperationState.FAILED, instance_changes=changes))
    assert db.statements - before == 1
    found, changed = await row(db, operation), await instance_row(db, instance)
    assert (found.state, found.secret_args, found.lease_token, found.lease_until) == ("failed", None, None, None)
    assert found.finished_at is not None
    assert (changed.failed, changed.fault_message, changed.deleted_at) == (True, "no", changed.updated_at)
    assert await claim(db, "w", 30) is None


async def test_unknown_columns_of_the_instance_are_refused_before_anything_is_written(
    db: Database, file: FileOperation,
) -> None:
    operation = await file()
    now = await claimed(db)
    with pytest.raises(ValueError, match="nonsense"):
        await save(db, operation, now.token, turned(OperationState.FAILED, instance_changes={"nonsense": 1}))
    assert (await row(db, operation)).state == "running"


async def test_a_turn_that_goes_on_keeps_the_lease_and_hears_of_a_cancellation(
    db: Database, file: FileOperation,
) -> None:
    operation = await file()
    now = await claimed(db)
    on = turned(OperationState.RUNNING, step="b", context={"x": 1}, goes_on=True, progress=40)
    saved = await save(db, operation, now.token, on)
    assert saved is not None
    assert not saved.cancel_requested
    async with db.begin() as session:
        assert await operations.request_cancel(session, operation)
    saved = await save(db, operation, now.token, turned(OperationState.RUNNING, step="c", goes_on=True, progress=10))
    assert saved is not None
    assert saved.cancel_requested
    found = await row(db, operation)
    assert (found.state, found.step, found.progress, found.lease_token) == ("running", "c", 40, now.token)
    assert await claim(db, "other", 30) is None


async def test_waiting_sleeps_until_its_time(db: Database, file: FileOperation) -> None:
    operation = await file()
    now = await claimed(db)
    assert await save(db, operation, now.token, turned(OperationState.WAITING, wait=20, progress_text="for it"))
    found = await row(db, operation)
    assert (found.state, found.progress_text, found.lease_token) == ("waiting", "for it", None)
    assert 18 < found.due_in <= 20
    assert await claim(db, "w", 30) is None
    await end_waits(db)
    assert (await claimed(db)).id == operation


async def test_a_wake_while_waiting_makes_it_due(db: Database, file: FileOperation) -> None:
    operation = await file()
    now = await claimed(db)
    await save(db, operation, now.token, turned(OperationState.WAITING, wait=20))
    await wake(db, operation)
    assert (await claimed(db)).id == operation


@pytest.mark.parametrize("extended", [False, True])
async def test_a_wake_while_running_is_not_lost(db: Database, file: FileOperation, extended: bool) -> None:
    operation = await file()
    now = await claimed(db)
    await wake(db, operation)
    if extended:
        assert await extend(db, operation, now.token, 60)
    await save(db, operation, now.token, turned(OperationState.WAITING, wait=20))
    assert (await claimed(db)).id == operation


async def test_extending_alone_is_no_wake(db: Database, file: FileOperation) -> None:
    operation = await file()
    now = await claimed(db)
    assert await extend(db, operation, now.token, 60)
    await save(db, operation, now.token, turned(OperationState.WAITING, wait=20))
    assert (await row(db, operation)).due_in > 18


async def test_the_ended_are_neither_woken_nor_cancelled(db: Database, file: FileOperation) -> None:
    operation = await file()
    now = await claimed(db)
    await save(db, operation, now.token, turned(OperationState.SUCCEEDED))
    await wake(db, operation)
    async with db.begin() as session:
        assert not await operations.request_cancel(session, operation)
    assert await claim(db, "w", 30) is None
    assert (await row(db, operation)).cancel_requested is False


# --- for many instances at once ---


def queued(instance: str, **more: Any) -> NewOperation:
    return NewOperation(**{
        "instance_id": instance, "project_id": "p", "kind": "toy", "within": timedelta(minutes=1), "lifecycle": False,
        **more,
    })


async def test_one_is_filed_for_each_of_many(db: Database, make_instance: MakeInstance, file: FileOperation) -> None:
    instances = [await make_instance() for _ in range(5)]
    await file(instance_id=instances[0])
    async with db.begin() as session:
        filed = await operations.file_for_each(session, [queued(each, args={"of": each}) for each in instances])
        assert await operations.file_for_each(session, []) == []
    assert sorted(instance for instance, _ in filed) == sorted(instances)
    for instance, operation in filed:
        found = await row(db, operation)
        assert (found.instance_id, found.args, found.state, found.lifecycle) == (
            instance, {"of": instance}, "pending", False,
        )


async def test_two_who_file_for_the_same_ones_do_not_wait_for_ever(db: Database, make_instance: MakeInstance) -> None:
    instances = [await make_instance() for _ in range(30)]

    async def file_all(order: list[str]) -> None:
        async with db.begin() as session:
            await operations.file_for_each(session, [queued(each) for each in order])

    async with asyncio.timeout(20):
        for _ in range(5):
            await asyncio.gather(file_all(instances), file_all(instances[::-1]), file_all(instances[::2]))


@pytest.mark.parametrize("more", [{"lifecycle": True}, {"idempotency_key": "k"}, {"secret_args": {"a": 1}}], ids=str)
async def test_what_may_be_in_the_way_of_something_is_not_filed_for_many(
    db: Database, instance: str, more: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match="at once"):
        async with db.begin() as session:
            await operations.file_for_each(session, [queued(instance, **more)])
