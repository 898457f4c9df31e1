"""The steps that make backups and restore them, each for itself, by a clock of the test's own."""

from __future__ import annotations

import pytest

from coffer_provisioner.backup_store import CLOCKS_APART, READ_SECONDS, WRITE_SECONDS, closed
from coffer_provisioner.cloud.interface import CloudBusy, MachineState
from coffer_provisioner.plan import Done, Wait
from coffer_provisioner.plans.create_backup import (
    ABSENT_SECONDS,
    back_up,
    check_stored,
    ensure_store,
    record,
    settle,
)
from coffer_provisioner.plans.create_instance import check_backup, prepare_guest
from coffer_provisioner.plans.delete_backup import remove_stored as remove_deleted
from coffer_provisioner.plans.guest_commands import UNHEARD_SECONDS
from coffer_provisioner.reach import Reach
from coffer_shared.backups import MANIFEST, BackUp, Grant
from coffer_shared.errors import GiveUp, GuestSilent, TryAgain, Unavailable
from coffer_shared.messages import Accepted, Refused, Start
from unit.provisioner.backup_material import BACKUP, result
from unit.provisioner.backup_rows import INSTANCE, KEY
from unit.provisioner.backup_stage import DIGEST, LINGERING, URL, WHOLE, WRITTEN, given_up
from unit.provisioner.world import result_of

# --- before the guest ---


async def test_the_container_is_ready_once_the_store_has_it(stage):
    stage.storage.store.containers.clear()
    stage.storage.fail_at("ensure_container", 1, Unavailable("no answer"))
    with pytest.raises(TryAgain):
        await ensure_store(stage.job, stage.to)
    assert await ensure_store(stage.job, stage.to) == Done()
    assert list(stage.storage.store.containers) == [("p", "database_backups")]


async def test_without_an_object_store_it_is_given_up_and_says_so(stage):
    nothing = Reach(
        cloud=stage.cloud, guests=stage, records=stage, identities=None, backups=stage.backups, storages={},
        registry="r:5000",
    )
    with pytest.raises(GiveUp, match="no object store is configured") as caught:
        await ensure_store(stage.job, nothing)
    assert caught.value.code == "storage"


# --- the guest's work ---


async def test_the_guest_is_given_everything_it_needs_and_nobody_else_is(stage):
    outcome = await back_up(stage.job, stage.to)
    assert isinstance(outcome, Wait)
    ((command),) = stage.sent
    assert isinstance(command, Start)
    order = BackUp(**{**command.args, "grant": Grant(**command.args["grant"])})
    assert (command.kind, order.backup, order.key) == ("backup", BACKUP, KEY.hex())
    assert order.image == f"r:5000/coffer/postgres-backup@{DIGEST}"
    assert (order.grant.method, order.grant.url) == ("PUT", f"{URL}{INSTANCE}/{BACKUP}/")
    assert order.grant.expires_at == stage.clock() + WRITE_SECONDS
    assert stage.row["grant_until"].timestamp() == order.grant.expires_at
    assert stage.row["state"] == "BUILDING"
    assert stage.operation_row["guest_state"] == "accepted"
    assert (stage.job.context, stage.job.args) == ({}, {"backup": BACKUP})


async def test_a_grant_is_noted_before_it_is_sent(stage):
    """So that whoever dies in between still waits for it to end."""
    stage.answer = GuestSilent("nobody")
    await stage.machine()
    with pytest.raises(GuestSilent):
        await back_up(stage.job, stage.to)
    assert stage.row["grant_until"].timestamp() == stage.clock() + WRITE_SECONDS


async def test_a_guest_that_is_done_gets_no_other_grant(stage):
    stage.operation_row["guest_state"] = "done"
    assert await back_up(stage.job, stage.to) == Done()
    assert (stage.sent, stage.row["grant_until"], stage.row["state"]) == ([], None, "NEW")


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_a_guest_that_has_ended_otherwise_gets_none_either(stage, state):
    stage.operation_row["guest_state"] = state
    await given_up(back_up(stage.job, stage.to))
    assert (stage.sent, stage.row["grant_until"]) == ([], None)


async def test_a_worker_that_wakes_up_late_sends_nothing(stage):
    for state in ("SAVING", "COMPLETED", "FAILED", "DELETING"):
        stage.row["state"] = state
        stage.row["data_key"] = b"wrapped"
        assert await given_up(back_up(stage.job, stage.to)) == "backup_closed"
    assert stage.sent == []


@pytest.mark.parametrize("silence", [GuestSilent("nobody"), Unavailable("no NATS"), Refused(code="busy", text="busy")])
@pytest.mark.parametrize("state", [None, MachineState.ACTIVE, MachineState.STOPPED, MachineState.ERROR])
async def test_a_silent_guest_is_tried_again_only_while_its_machine_runs(stage, silence, state):
    if state is not None:
        await stage.machine(state)
    stage.answer = silence
    with pytest.raises(TryAgain if state is MachineState.ACTIVE else GiveUp) as caught:
        await back_up(stage.job, stage.to)
    assert state is MachineState.ACTIVE or caught.value.code == "machine_down"


async def test_a_cloud_that_is_away_says_nothing_of_the_machine(stage):
    stage.answer = GuestSilent("nobody")
    stage.cloud.fail_at("find_machine")
    with pytest.raises(CloudBusy):
        await back_up(stage.job, stage.to)


async def test_a_guest_that_does_not_go_on_for_long_ends_it(stage):
    await stage.machine()

    async def asked(answer, outcome):
        stage.answer = answer
        with pytest.raises(outcome, match="why"):
            await back_up(stage.job, stage.to)

    await asked(GuestSilent("why"), TryAgain)
    stage.clock.now += UNHEARD_SECONDS - 1
    await asked(Refused(code="not_ready", text="why"), TryAgain)
    stage.answer = Accepted()
    await back_up(stage.job, stage.to)
    stage.clock.now += 2
    await asked(GuestSilent("why"), TryAgain)  # counted anew
    stage.clock.now += UNHEARD_SECONDS
    await asked(Refused(code="not_ready", text="why"), GiveUp)


# --- what is stored ---


async def test_nothing_is_compared_before_the_last_grant_to_write_has_ended(stage):
    stage.row["state"] = "BUILDING"
    stage.granted(20)
    outcome = await settle(stage.job, stage.to)
    assert isinstance(outcome, Wait)
    assert outcome.seconds == pytest.approx(20 + CLOCKS_APART)
    assert stage.row["state"] == "SAVING"
    with pytest.raises(GiveUp):
        await stage.backups.note_grant(BACKUP, stage.clock() + 999)
    stage.clock.now += outcome.seconds - 0.5
    assert isinstance(await settle(stage.job, stage.to), Wait)
    stage.clock.now += 0.6
    assert await settle(stage.job, stage.to) == Done()


@pytest.mark.parametrize(("step", "lingering"), [(settle, 0), (remove_deleted, LINGERING)])
async def test_a_grant_that_was_given_out_while_it_was_closed_is_waited_for(stage, step, lingering):
    """The row is read again after it was closed."""
    stage.row["state"] = "BUILDING"
    close = stage.backups.set_state

    async def just_before(*args, **more):
        stage.granted(WRITE_SECONDS)
        await close(*args, **more)

    stage.backups.set_state = just_before
    outcome = await step(stage.job, stage.to)
    assert outcome.seconds == pytest.approx(WRITE_SECONDS + lingering + CLOCKS_APART)


def test_where_no_grant_was_ever_given_out_nothing_is_waited_for():
    assert closed({"grant_until": None, "storage": "unheard-of"}, {}) == Done()


async def test_a_listing_that_is_late_is_asked_again_for_a_while(stage):
    """The store has the object and has not entered it in the list yet."""
    stage.stored()
    stage.row["state"] = "SAVING"
    stage.operation_row["guest_result"] = result_of(WHOLE, WRITTEN)
    name = next(name for name in stage.objects if not name.endswith(MANIFEST))
    late = stage.objects.pop(name)
    assert isinstance(await check_stored(stage.job, stage.to), Wait)
    stage.objects[name] = late
    assert await check_stored(stage.job, stage.to) == Done()
    del stage.objects[name]
    stage.clock.now += ABSENT_SECONDS
    with pytest.raises(GiveUp, match="is missing"):
        await check_stored(stage.job, stage.to)


async def test_a_whole_backup_is_checked_and_recorded(stage):
    stage.stored()
    stage.row["state"] = "SAVING"
    stage.operation_row["guest_result"] = result_of(WHOLE, WRITTEN)
    assert await check_stored(stage.job, stage.to) == Done()
    assert stage.row["state"] == "SAVING"
    assert await record(stage.job, stage.to) == Done()
    assert stage.row["state"] == "COMPLETED"
    assert stage.row["manifest_sha256"] == result(WHOLE, WRITTEN).manifest_sha256
    assert stage.row["location"] == f"{URL}{INSTANCE}/{BACKUP}/manifest.json"


@pytest.mark.parametrize(("changes", "said"), [
    ({"00000001": b"SEALED 1"}, "00000001"), ({"00000001": b"sealed"}, "00000001"), ({"more": b"x"}, "more"),
    ({MANIFEST: WRITTEN + b" "}, "manifest"),
])
async def test_what_differs_is_named(stage, changes, said):
    stage.stored(**changes)
    stage.operation_row["guest_result"] = result_of(WHOLE, WRITTEN)
    with pytest.raises(GiveUp, match=said) as caught:
        await check_stored(stage.job, stage.to)
    assert caught.value.code == "damaged"


async def test_a_manifest_beyond_all_bounds_is_not_read(stage, monkeypatch):
    monkeypatch.setattr("coffer_provisioner.backup_store.MANIFEST_LIMIT", 10)
    stage.stored()
    stage.operation_row["guest_result"] = result_of(WHOLE, WRITTEN)
    assert await given_up(check_stored(stage.job, stage.to)) == "storage"


@pytest.mark.parametrize("nonsense", [{}, {"segments": "many"}, result_of(WHOLE, WRITTEN) | {"raw_bytes": -1}])
async def test_nonsense_is_given_up_before_the_store_is_asked(stage, nonsense):
    stage.operation_row["guest_result"] = nonsense
    for step in (check_stored, record):
        assert await given_up(step(stage.job, stage.to)) == "bad_result"


async def test_a_store_that_is_away_while_it_is_checked_is_asked_again(stage):
    stage.stored()
    stage.operation_row["guest_result"] = result_of(WHOLE, WRITTEN)
    for method in ("read", "listing"):
        stage.storage.fail_at(method, 1, Unavailable("no answer"))
        with pytest.raises(TryAgain):
            await check_stored(stage.job, stage.to)
    assert await check_stored(stage.job, stage.to) == Done()


# --- restoring ---


async def test_a_restoring_guest_is_given_everything_it_needs_and_nobody_else_is(stage):
    stage.stored()
    found = result(WHOLE, WRITTEN)
    facts = {name: getattr(found, name) for name in found.__struct_fields__}
    stage.row.update(facts, state="COMPLETED", data_key=b"wrapped")
    stage.job.kind, stage.job.args, stage.job.context = "create_instance", {"restore": BACKUP}, {"address": "10.0.0.2"}
    assert await check_backup(stage.job, stage.to) == Done()
    assert isinstance(await prepare_guest(stage.job, stage.to), Wait)
    (command,) = stage.sent
    source = command.args["restore"]
    assert (command.kind, command.args["image"]) == ("restore", f"r:5000/coffer/postgres@{DIGEST}")
    assert (source["backup"], source["key"]) == (BACKUP, KEY.hex())
    assert source["image"] == f"r:5000/coffer/postgres-backup@{DIGEST}"
    assert source["manifest_sha256"] == found.manifest_sha256
    assert (source["grant"]["method"], source["grant"]["url"]) == ("GET", f"{URL}{INSTANCE}/{BACKUP}/")
    assert source["grant"]["expires_at"] == stage.clock() + READ_SECONDS
    assert (stage.job.context, stage.row["grant_until"]) == ({"address": "10.0.0.2"}, None)


async def test_a_restore_that_is_done_asks_for_no_key(stage):
    stage.job.kind, stage.job.args, stage.job.context = "create_instance", {"restore": "gone"}, {"address": "10.0.0.2"}
    stage.operation_row["guest_state"] = "done"
    assert await prepare_guest(stage.job, stage.to) == Done()
    assert stage.operation_row["instance"] == {"formatted": True, "started_once": True}


async def test_a_creation_without_a_backup_reads_none(stage):
    stage.job.args, stage.job.context = {}, {"address": "10.0.0.2"}
    assert await check_backup(stage.job, stage.to) == Done()
    await prepare_guest(stage.job, stage.to)
    (command,) = stage.sent
    assert (command.kind, command.args["restore"]) == ("prepare", None)
