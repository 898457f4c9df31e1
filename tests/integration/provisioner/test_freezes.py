"""What a guest asks whose volume stands still, over NATS, and what is recorded of its snapshot."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from coffer_db.backup_tables import BackupState
from coffer_db.tables import OperationState
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Copied, Denied, Frozen
from integration.provisioner.actors import execute

NOBODY = "66666666-6666-4666-8666-666666666666"


@pytest.fixture
async def still(instance, enrolled_guest, make_backup, db):
    """A guest whose volume stands still for the backup that is being made of it."""
    guest = await enrolled_guest(instance)
    guest.backup = await make_backup(
        instance, "create_snapshot", storage="cinder", container="", prefix="", state="BUILDING",
    )
    async with db.connect() as connection:
        found = await connection.execute(text("SELECT operation_id FROM backups WHERE id = :b"), {"b": guest.backup})
        guest.op = found.scalar_one()
    return guest


async def operation(db):
    async with db.connect() as connection:
        return (await connection.execute(text("SELECT * FROM operations WHERE kind = 'create_snapshot'"))).one()


async def test_the_first_time_it_asks_its_operation_goes_on(db, still, provisioner):
    provisioner.enrolled.clear()
    before = await operation(db)
    assert await still.ask(Frozen(op=still.op)) == Copied(done=False)
    after = await operation(db)
    assert (before.guest_state, after.guest_state) == ("", "frozen")
    assert provisioner.enrolled == [still.instance]
    assert await still.ask(Frozen(op=still.op)) == Copied(done=False)
    assert provisioner.enrolled == [still.instance]
    assert (await operation(db)).updated_at == after.updated_at


@pytest.mark.parametrize("state", [BackupState.SAVING, BackupState.COMPLETED])
async def test_once_the_snapshot_is_there_it_is_told(db, still, state):
    await execute(db, "UPDATE backups SET state = :s", s=state.value)
    assert await still.ask(Frozen(op=still.op)) == Copied(done=True)


@pytest.mark.parametrize("change", [
    "cancel_requested = true", "state = 'undoing'", "state = 'failed'", "guest_state = 'done'",
    "guest_state = 'failed'", "kind = 'create_backup'", "args = '{}'",
])
async def test_for_an_operation_that_wants_no_snapshot_it_is_denied(db, still, change):
    await execute(db, f"UPDATE operations SET {change}")
    answer = await still.ask(Frozen(op=still.op))
    assert isinstance(answer, Denied)
    assert answer.code == "forbidden"


async def test_nobody_asks_for_another_guests_operation(db, still, make_instance, enrolled_guest):
    other = await enrolled_guest(await make_instance())
    for asked in (still.op, NOBODY, "no id"):
        assert isinstance(await other.ask(Frozen(op=asked)), Denied)
    assert (await operation(db)).guest_state == ""


# --- what is recorded ---


async def test_a_completed_snapshot_has_its_facts(db, still, backups):
    await execute(db, "UPDATE backups SET state = 'SAVING'")
    for _ in range(2):
        await backups.complete_snapshot(still.backup, "snap", gib=5, used_bytes=123_456_789)
        row = await backups.backup(still.backup)
        assert (row["state"], row["location"], row["volume_gib"]) == ("COMPLETED", "cinder://snap", 5)
        assert (row["raw_bytes"], row["stored_bytes"]) == (123_456_789, None)
    async with db.connect() as connection:
        wanted = (await connection.execute(text("SELECT fs_uuid FROM instances"))).scalar_one()
    assert row["fs_uuid"] == wanted


@pytest.mark.parametrize("state", [OperationState.UNDOING, OperationState.CANCELLED, OperationState.FAILED])
async def test_one_that_is_taken_back_is_not_completed(db, still, backups, state):
    await execute(db, "UPDATE backups SET state = 'SAVING'")
    await execute(db, "UPDATE operations SET state = :s", s=state.value)
    with pytest.raises(GiveUp):
        await backups.complete_snapshot(still.backup, "snap", gib=5, used_bytes=1)
    assert (await backups.backup(still.backup))["state"] == "SAVING"


async def test_its_volume_is_needed_until_it_is_gone(db, still, backups, make_instance, make_backup):
    other = await make_instance()
    await make_backup(other, state="COMPLETED")
    assert not await backups.has_snapshots(other)
    for state in BackupState:
        await execute(db, "UPDATE backups SET state = :s WHERE storage = 'cinder'", s=state.value)
        needed = state not in {BackupState.FAILED, BackupState.DELETED}
        assert await backups.has_snapshots(still.instance) is needed, state
