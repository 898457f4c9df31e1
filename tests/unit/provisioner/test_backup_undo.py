"""Taking a backup back, and deleting one: nothing may be left, and nobody may be waited for in vain."""

from __future__ import annotations

import pytest

from coffer_provisioner.backup_store import CLOCKS_APART, WRITE_SECONDS
from coffer_provisioner.cloud.interface import MachineState
from coffer_provisioner.plan import Done, Wait
from coffer_provisioner.plans.clear_backup import remove_objects
from coffer_provisioner.plans.create_backup import mark_failed, stop_guest
from coffer_provisioner.plans.delete_backup import forget, remove_stored
from coffer_provisioner.plans.guest_commands import SILENT_SECONDS, STOPPING_SECONDS
from coffer_shared.errors import GuestSilent, TryAgain, Unavailable
from coffer_shared.messages import Accepted, Answer, Cancel, Refused
from unit.provisioner.backup_material import BACKUP
from unit.provisioner.backup_rows import INSTANCE
from unit.provisioner.backup_stage import LINGERING, given_up


@pytest.fixture
async def undoing(stage):
    """The guest was sent a grant, and its machine runs."""
    stage.row["state"] = "BUILDING"
    stage.granted()
    stage.operation_row |= {"state": "undoing", "guest_state": "accepted"}
    stage.job.undoing = True
    await stage.machine()
    return stage


async def test_a_guest_that_was_never_let_in_is_not_bothered(stage):
    assert await stop_guest(stage.job, stage.to) == Done()
    assert stage.sent == []


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
async def test_a_guest_that_has_ended_is_not_bothered(undoing, state):
    undoing.operation_row["guest_state"] = state
    assert await stop_guest(undoing.job, undoing.to) == Done()
    assert undoing.sent == []


@pytest.mark.parametrize("state", ["", "accepted"])
async def test_a_guest_is_told_to_stop_and_waited_for(undoing, state):
    """Also one whose acceptance was never noted."""
    undoing.operation_row["guest_state"] = state
    assert isinstance(await stop_guest(undoing.job, undoing.to), Wait)
    assert undoing.sent == [Cancel(op="op")]
    undoing.operation_row["guest_state"] = "cancelled"
    assert await stop_guest(undoing.job, undoing.to) == Done()


@pytest.mark.parametrize(("answer", "outcome"), [
    (Refused(code="not_found"), Done), (Refused(code="busy"), Wait), (Answer(result=1), Wait),
])
async def test_what_a_guest_answers_to_a_cancellation(undoing, answer, outcome):
    undoing.answer = answer
    assert isinstance(await stop_guest(undoing.job, undoing.to), outcome)


@pytest.mark.parametrize("silence", [GuestSilent("nobody"), Unavailable("no NATS")])
async def test_a_silent_guest_is_not_waited_for_for_ever(undoing, silence):
    undoing.answer = silence
    assert isinstance(await stop_guest(undoing.job, undoing.to), Wait)
    undoing.clock.now += SILENT_SECONDS - 1
    assert isinstance(await stop_guest(undoing.job, undoing.to), Wait)
    undoing.answer = Accepted()
    assert isinstance(await stop_guest(undoing.job, undoing.to), Wait)
    undoing.answer = silence  # counted anew
    undoing.clock.now += 2
    assert isinstance(await stop_guest(undoing.job, undoing.to), Wait)
    undoing.clock.now += SILENT_SECONDS
    assert await stop_guest(undoing.job, undoing.to) == Done()


async def test_a_guest_that_answers_and_never_stops_is_not_waited_for_for_ever(undoing):
    assert isinstance(await stop_guest(undoing.job, undoing.to), Wait)
    undoing.clock.now += STOPPING_SECONDS
    assert await stop_guest(undoing.job, undoing.to) == Done()


@pytest.mark.parametrize("state", [None, MachineState.STOPPED, MachineState.ERROR])
async def test_a_guest_whose_machine_does_not_run_is_not_waited_for(undoing, state):
    undoing.answer = GuestSilent("nobody")
    if state is None:
        await undoing.cloud.drop_machine(INSTANCE)
    else:
        undoing.cloud.set_machine(INSTANCE, state)
    assert await stop_guest(undoing.job, undoing.to) == Done()


@pytest.mark.parametrize("remove", [remove_objects, remove_stored])
async def test_nothing_is_removed_while_somebody_may_still_write(undoing, remove):
    undoing.stored()
    undoing.row["state"] = "FAILED"
    assert isinstance(await remove(undoing.job, undoing.to), Wait)
    assert len(undoing.objects) == 4
    undoing.clock.now += WRITE_SECONDS + LINGERING + CLOCKS_APART - 0.1
    assert isinstance(await remove(undoing.job, undoing.to), Wait)
    assert len(undoing.objects) == 4
    undoing.clock.now += 0.1
    assert isinstance(await remove(undoing.job, undoing.to), Wait)  # until a look finds nothing
    assert await remove(undoing.job, undoing.to) == Done()
    assert undoing.objects == {}


async def test_a_removal_ends_with_a_look_that_finds_nothing(undoing):
    undoing.granted(-60)
    undoing.stored()
    undoing.row["state"] = "FAILED"
    counts = iter((5, 3, 1, 0))

    async def remove(container, prefix):
        return next(counts)

    undoing.storage.remove = remove
    outcomes = [await remove_objects(undoing.job, undoing.to) for _ in range(4)]
    assert [type(outcome) for outcome in outcomes] == [Wait, Wait, Wait, Done]


@pytest.mark.parametrize("prefix", ["", "/", f"{INSTANCE}/", f"{BACKUP}/", f"x/{BACKUP}", f"x/{BACKUP}/y/"])
async def test_a_prefix_that_is_not_the_backups_own_is_never_removed(undoing, prefix):
    undoing.granted(-60)
    undoing.row.update(prefix=prefix, state="FAILED")
    undoing.objects[f"{INSTANCE}/another/00000000"] = b"x"
    assert await given_up(remove_objects(undoing.job, undoing.to)) == "storage"
    assert undoing.objects


async def test_what_is_gone_needs_no_taking_back(undoing):
    await undoing.backups.forget(BACKUP)
    for step in (stop_guest, mark_failed, remove_objects, remove_stored, forget):
        assert await step(undoing.job, undoing.to) == Done()
    assert (undoing.sent, undoing.row["state"]) == ([], "DELETED")


async def test_a_deletion_closes_the_backup_first(stage):
    stage.row["state"] = "BUILDING"
    stage.storage.fail_at("remove", 1, Unavailable("no answer"))
    stage.granted(-60)
    with pytest.raises(TryAgain):
        await remove_stored(stage.job, stage.to)
    assert stage.row["state"] == "DELETING"
    assert await given_up(stage.backups.note_grant(BACKUP, stage.clock() + 9)) == "backup_closed"


@pytest.mark.parametrize("state", ["NEW", "BUILDING", "SAVING", "COMPLETED"])
async def test_only_what_has_failed_is_cleared(undoing, state):
    undoing.granted(-60)
    undoing.stored()
    undoing.row["state"] = state
    assert await given_up(remove_objects(undoing.job, undoing.to)) == "backup_not_failed"
    assert undoing.objects


async def test_a_failure_files_its_clearing_once(undoing):
    undoing.job.failure_text = "why"
    for _ in range(2):
        assert await mark_failed(undoing.job, undoing.to) == Done()
    assert (undoing.row["state"], undoing.row["failure_text"], undoing.backups.clearing) == ("FAILED", "why", 1)
