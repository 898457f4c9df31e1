"""Kill the provisioner before and after every outside call of a plan; it must end done or cleanly undone.

The world outlives the kill, as the cloud, the object store, the guest and the rows do; the operation is then taken up
from what was last saved.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from coffer_db.tables import OperationState
from coffer_provisioner.cloud.interface import CloudRefused
from coffer_provisioner.plans import guest_commands
from coffer_shared.backups import MANIFEST
from coffer_shared.errors import Unavailable
from unit.provisioner.backup_material import BACKUP, manifest, result, segments
from unit.provisioner.backup_rows import CONTAINER, INSTANCE
from unit.provisioner.world import Clock, Fuse, World, drive, everywhere

SUCCEEDED, FAILED, CANCELLED = OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED
MAKING, RESTORING = {"backup": BACKUP}, {"restore": BACKUP}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(time, "time", made)
    for name in ("UNHEARD_SECONDS", "SILENT_SECONDS", "STOPPING_SECONDS"):
        monkeypatch.setattr(guest_commands, name, 12.0)  # fewer turns, each of which is killed at every call
    return made


@pytest.fixture
def world(clock):
    """Makes worlds."""

    def make(**fate):
        return World(clock, **fate)

    return make


@pytest.fixture
def built(world):
    """Makes worlds with an instance that runs."""

    async def make(**fate):
        one = world()
        await drive("create_instance", one, Fuse())
        one.fate, one.stubborn = fate.get("fate", ""), fate.get("stubborn", False)
        one.runs, one.commands = 0, []
        return one

    return make


async def clear(world: World) -> None:
    """What the failure of a backup has filed."""
    assert world.backups.clearing <= 1
    if world.backups.clearing:
        world.filed()
        assert (await drive("clear_backup", world, Fuse(), MAKING)).state is SUCCEEDED


async def leftovers(world: World) -> list[str]:
    return [r.kind for r in await world.cloud.resources()]


# --- instances ---


@pytest.mark.parametrize("looks", [0, 3])
async def test_create_survives_a_kill_at_every_call(world, looks):
    """Also where the machine takes a while, and who is killed meanwhile has told the cloud a credential."""

    async def make():
        one = world()
        one.cloud.world.looks_until_active = looks
        return one

    ends = 0
    async for one, claimed, at in everywhere(make, "create_instance"):
        ends += 1
        assert claimed.state is SUCCEEDED, at
        assert one.row["started_once"], at
        assert sorted(a["type"] for a in one.row["addresses"]) == ["private", "public"], at
        assert one.runs == 1, at
        assert {command.kind for command in one.commands} == {"prepare"}, at
    assert ends > 40


async def test_a_machine_that_never_reports_is_started_once_more(world):
    async def make():
        return world(fate="deaf at first")

    async for one, claimed, at in everywhere(make, "create_instance"):
        assert (claimed.state, one.runs) == (SUCCEEDED, 1), at
        assert one.cloud.starts(INSTANCE) in {2, 3}, at  # again where the one who did it was killed


async def test_and_not_a_third_time(world):
    one = world(fate="silent")
    claimed = await drive("create_instance", one, Fuse(), deadline_after=200)
    assert (claimed.state, claimed.failure_step) == (FAILED, "wait_enrolled")
    assert one.cloud.calls["restart_machine"] == 1


async def test_delete_survives_a_kill_at_every_call(built):
    ends = 0
    async for one, claimed, at in everywhere(built, "delete_instance"):
        ends += 1
        assert claimed.state is SUCCEEDED, at
        assert await leftovers(one) == [], at
        assert one.row["revoked"], at
    assert ends > 10


@pytest.mark.parametrize("how", ["refuses", "silent", "volume", "machine"])
async def test_a_doomed_create_is_undone_wherever_it_is_killed(world, how):
    async def doomed():
        one = world(fate=how)
        if how in {"volume", "machine"}:
            one.cloud.fail_at(f"ensure_{how}", 1000, CloudRefused("quota", "no room"))
        return one

    async for one, claimed, at in everywhere(doomed, "create_instance", deadline_after=40):
        assert claimed.state is FAILED, at
        assert await leftovers(one) == [], at
        assert one.row["addresses"] == [], at


async def test_a_volume_that_held_a_database_outlives_a_failed_create(world):
    one = world()
    one.cloud.fail_at("ensure_public_address", 1000, CloudRefused("no_address", "the pool is empty"))
    claimed = await drive("create_instance", one, Fuse())
    assert claimed.state is FAILED
    assert "volume" in await leftovers(one)


async def test_a_create_that_is_still_open_in_a_restored_database_deletes_no_data(world, built):
    """The rows are yesterday's: they know nothing of what came of the create. The volume itself does."""
    today, yesterday = await built(), world(fate="silent")
    yesterday.cloud = today.cloud
    claimed = await drive("create_instance", yesterday, Fuse(), deadline_after=0)
    assert claimed.state is FAILED
    assert "volume" in await leftovers(yesterday)


# --- making backups ---


async def test_a_backup_survives_a_kill_at_every_call(built):
    whole, ends = segments(), 0
    async for one, claimed, at in everywhere(built, "create_backup", MAKING):
        ends += 1
        row = one.backups.row
        assert (claimed.state, row["state"], one.runs) == (SUCCEEDED, "COMPLETED", 1), at
        assert one.names(row["prefix"]) == sorted([*whole, MANIFEST]), at
        assert row["manifest_sha256"] == result(whole, manifest(whole)).manifest_sha256, at
        assert (row["segments"], row["stored_bytes"]) == (3, sum(map(len, whole.values()))), at
        assert row["location"].endswith(f"{row['prefix']}manifest.json"), at
        assert one.clock() > row["grant_until"].timestamp(), at  # nobody could write any more when it was completed
    assert ends > 40


@pytest.mark.parametrize(("fate", "stubborn", "how", "state", "code"), [
    ("fails", True, {}, FAILED, "storage"),
    ("damages", False, {}, FAILED, "damaged"),
    ("damages", True, {}, FAILED, "damaged"),
    ("lies", False, {}, FAILED, "bad_result"),
    ("refuses", False, {}, FAILED, "volume"),
    ("silent", False, {}, FAILED, "guest_silent"),
    ("falls silent", True, {}, FAILED, "guest_silent"),
    ("goes down", False, {}, FAILED, "machine_down"),
    ("never ends", True, {"deadline_after": 20}, FAILED, "deadline"),
    ("never ends", True, {"cancel_after": 20}, CANCELLED, "cancelled"),
    ("never ends", False, {"cancel_after": 20}, CANCELLED, "cancelled"),
    ("", False, {"cancel_after": 9}, CANCELLED, "cancelled"),
], ids=str)
async def test_a_backup_that_fails_leaves_nothing_wherever_it_is_killed(built, fate, stubborn, how, state, code):
    async def make():
        return await built(fate=fate, stubborn=stubborn)

    async for one, claimed, at in everywhere(make, "create_backup", MAKING, **how):
        assert (claimed.state, claimed.failure_code) == (state, code), at
        assert one.backups.row["state"] == "FAILED", at
        assert one.backups.row["failure_text"] == claimed.failure_text, at
        await clear(one)
        for _ in range(10):
            one.clock.now += 10
            await one.between_turns()
        assert one.objects == {}, at
        assert not stubborn or one.grant is None or one.refused, at


async def test_a_dead_machine_ends_a_backup_soon(built, clock):
    """Only then can its instance be recovered."""
    one = await built(fate="goes down")
    began = clock()
    await drive("create_backup", one, Fuse(), MAKING)
    assert clock() - began < 90


async def test_a_store_that_is_away_is_waited_for(built):
    async def make():
        one = await built(fate="fails")
        for method in ("ensure_container", "remove"):
            one.storage.fail_at(method, 5, Unavailable("no answer"))
        return one

    async for one, claimed, at in everywhere(make, "create_backup", MAKING):
        assert (claimed.failure_code, one.backups.row["state"]) == ("storage", "FAILED"), at
        await clear(one)
        assert one.objects == {}, at


async def test_clearing_survives_a_kill_at_every_call(built):
    async def make():
        one = await built(fate="fails", stubborn=True)
        await drive("create_backup", one, Fuse(), MAKING)
        assert one.objects
        one.filed()
        return one

    async for one, claimed, at in everywhere(make, "clear_backup", MAKING):
        assert (claimed.state, one.backups.row["state"], one.objects) == (SUCCEEDED, "FAILED", {}), at


async def test_a_backup_that_never_began_is_taken_back_without_the_store(built):
    for change in ({"backup_image_digest": ""}, {"backup_image": ""}, {"storage": "unheard-of"}):
        one = await built()
        one.backups.row |= change
        one.storage.fail_at("remove", 1000, Unavailable("no answer"))
        claimed = await drive("create_backup", one, Fuse(), MAKING)
        assert claimed.failure_code in {"image_missing", "storage"}
        assert (one.backups.row["state"], one.backups.clearing) == ("FAILED", 0)
        assert one.commands == []


async def test_one_that_was_cancelled_after_its_record_is_taken_back(built):
    """Killed after the row was completed and before the operation was."""
    one, fuse = await built(), Fuse()
    await drive("create_backup", one, fuse, MAKING)
    seen = []

    async def while_clearing(*_args, **_more):
        seen.append(one.backups.row["state"])
        return await remove(*_args, **_more)

    for at in range(fuse.calls - 2, fuse.calls + 1):
        one = await built()
        turns = 0
        for turns in range(5, 60):
            one = await built()
            remove, one.storage.remove = one.storage.remove, while_clearing
            claimed = await drive("create_backup", one, Fuse(at, after=True), MAKING, cancel_after=turns)
            if claimed.state is SUCCEEDED:
                break
            await clear(one)
            assert (claimed.state, one.backups.row["state"], one.objects) == (CANCELLED, "FAILED", {}), turns
        assert turns > 10
    assert set(seen) == {"FAILED"}


# --- deleting backups ---


@pytest.fixture
def kept(world):
    """Makes worlds with nothing but a completed backup, and a neighbour of it."""

    async def make():
        one = world()
        await _store_whole(one)
        one.objects[f"{INSTANCE}/another/00000000"] = b"x"
        return one

    return make


async def _store_whole(one: World) -> None:
    whole = segments()
    found, row = result(whole, manifest(whole)), one.backups.row
    row |= {name: getattr(found, name) for name in found.__struct_fields__}
    row |= {"state": "COMPLETED", "data_key": b"wrapped", "grant_until": datetime.fromtimestamp(one.clock() - 99, UTC)}
    await one.storage.ensure_container(CONTAINER)
    one.objects.update({row["prefix"] + name: data for name, data in {**whole, MANIFEST: manifest(whole)}.items()})


async def test_a_deletion_survives_a_kill_at_every_call(kept):
    async for one, claimed, at in everywhere(kept, "delete_backup", MAKING):
        row = one.backups.row
        assert (claimed.state, row["state"], row["data_key"]) == (SUCCEEDED, "DELETED", None), at
        assert list(one.objects) == [f"{INSTANCE}/another/00000000"], at


async def test_a_deletion_goes_on_past_its_deadline_until_the_store_is_back(kept):
    one = await kept()
    one.storage.fail_at("remove", 50, Unavailable("no answer"))
    claimed = await drive("delete_backup", one, Fuse(), MAKING, deadline_after=5)
    assert (claimed.state, one.backups.row["state"]) == (SUCCEEDED, "DELETED")


@pytest.mark.parametrize("stubborn", [False, True], ids=["", "stubborn"])
async def test_a_backup_that_is_deleted_while_it_is_made_leaves_nothing(built, stubborn):
    """The API refuses that; whoever files it nevertheless gets it done, and both operations end."""
    one = await built(fate="never ends", stubborn=stubborn)
    with pytest.raises(AssertionError, match="stuck at back_up"):
        await drive("create_backup", one, Fuse(), MAKING)
    assert one.objects
    one.backups.row["state"] = "DELETING"
    assert (await drive("delete_backup", one, Fuse(), MAKING)).state is SUCCEEDED
    assert (await drive("create_backup", one, Fuse(), MAKING)).failure_code == "backup_gone"
    one.clock.now += 60
    await one.between_turns()
    assert (one.objects, one.backups.row["state"]) == ({}, "DELETED")


# --- restoring ---


async def test_a_restore_survives_a_kill_at_every_call(kept):
    async for one, claimed, at in everywhere(kept, "create_instance", RESTORING):
        assert (claimed.state, one.runs) == (SUCCEEDED, 1), at
        assert {command.kind for command in one.commands} == {"restore"}, at
        assert one.restored == {**segments(), MANIFEST: manifest(segments())}, at
        assert (one.row["started_once"], one.backups.row["state"]) == (True, "COMPLETED"), at


async def test_a_restore_that_fails_is_undone_and_touches_no_backup(kept):
    async def make():
        one = await kept()
        one.fate = "refuses"
        return one

    before = (await kept()).objects
    async for one, claimed, at in everywhere(make, "create_instance", RESTORING):
        assert (claimed.state, claimed.failure_code) == (FAILED, "volume"), at
        assert await leftovers(one) == [], at
        assert (one.objects, one.backups.row["state"]) == (before, "COMPLETED"), at


def _lose(one):
    del one.objects[one.backups.row["prefix"] + "00000001"]


def _change(one):
    one.objects[one.backups.row["prefix"] + "00000001"] = b"SEALED 1"


@pytest.mark.parametrize(("spoil", "code", "text"), [
    (_lose, "damaged", "00000001 is missing"),
    (_change, "damaged", "00000001 is not what was written"),
    (lambda one: one.backups.row.update(manifest_sha256="0" * 64), "damaged", "manifest"),
    (lambda one: one.objects.pop(one.backups.row["prefix"] + MANIFEST), "damaged", "manifest is missing"),
    (lambda one: one.backups.row.update(state="DELETING"), "backup_not_complete", "not complete"),
    (lambda one: one.backups.row.update(state="FAILED"), "backup_not_complete", "not complete"),
    (lambda one: one.backups.row.update(state="DELETED"), "backup_gone", "gone"),
    (lambda one: one.backups.row.update(project_id="other"), "backup_gone", "gone"),
    (lambda one: one.backups.row.update(manager="mysql"), "wrong_datastore", "mysql"),
    (lambda one: one.backups.row.update(backup_image_digest=""), "image_missing", "digest"),
    (lambda one: one.backups.row.update(storage="s3"), "storage", "s3"),
    (lambda one: one.backups.row.update(prefix="p/"), "storage", "prefix"),
], ids=[
    "lost", "changed", "hash", "no manifest", "deleting", "failed", "deleted", "project", "engine", "image", "store",
    "prefix",
])
async def test_nothing_is_made_for_a_backup_that_cannot_be_restored(kept, spoil, code, text):
    one = await kept()
    spoil(one)
    claimed = await drive("create_instance", one, Fuse(), RESTORING)
    assert (claimed.state, claimed.failure_code, claimed.failure_step) == (FAILED, code, "check_backup")
    assert text in claimed.failure_text
    assert not [call for call in one.cloud.calls if call.startswith("ensure")]
