"""Kill the provisioner before and after every outside call of making, restoring and deleting a snapshot of a volume."""

from __future__ import annotations

import time

import pytest

from coffer_db.tables import OperationState
from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, Tags
from coffer_provisioner.plans import create_snapshot, guest_commands
from unit.provisioner.backup_material import BACKUP
from unit.provisioner.backup_rows import INSTANCE
from unit.provisioner.world import Clock, Fuse, World, drive, everywhere

SUCCEEDED, FAILED, CANCELLED = OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED
MAKING, RESTORING = {"backup": BACKUP}, {"restore": BACKUP}
SOURCE = "22222222-2222-4222-8222-222222222222"
SLOW = 30
"""Looks that the snapshot takes: more than the guest stands still for."""
IN_CINDER = {"storage": "cinder", "container": "", "prefix": ""}


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(time, "time", made)
    for name in ("UNHEARD_SECONDS", "SILENT_SECONDS", "STOPPING_SECONDS"):
        monkeypatch.setattr(guest_commands, name, 12.0)
    monkeypatch.setattr(create_snapshot, "STILL_SECONDS", 13.0)  # a resend and ten looks
    return made


@pytest.fixture
def built(clock):
    """Makes worlds with an instance that runs, whose snapshot takes three looks."""

    async def make(*, looks=3, fate=""):
        one = World(clock)
        await drive("create_instance", one, Fuse())
        one.cloud.world.looks_until_copied = looks
        one.backups.row |= IN_CINDER
        one.fate, one.runs, one.commands = fate, 0, []
        one.taken_still = []
        real = one.cloud.ensure_snapshot

        async def watched(*args, **more):
            one.taken_still.append(one.still_since is not None)
            return await real(*args, **more)

        one.cloud.ensure_snapshot = watched
        return one

    return make


async def leftovers(world: World) -> list[str]:
    return sorted(r.kind for r in await world.cloud.resources())


async def test_a_snapshot_survives_a_kill_at_every_call(built):
    ends = 0
    async for one, claimed, at in everywhere(built, "create_snapshot", MAKING):
        ends += 1
        row, found = one.backups.row, await one.cloud.find_snapshot(BACKUP)
        assert (claimed.state, row["state"], one.runs) == (SUCCEEDED, "COMPLETED", 1), at
        assert (row["location"], row["volume_gib"], row["raw_bytes"]) == (f"cinder://{found.id}", 1, 7), at
        assert (await leftovers(one)).count("snapshot") == 1, at
        assert one.still_since is None, at
        assert all(one.taken_still), at
        assert {command.kind for command in one.commands} == {"snapshot"}, at
    assert ends > 15


@pytest.mark.parametrize(("fate", "looks", "how", "state", "code"), [
    ("", SLOW, {}, FAILED, "volume"),
    ("lies", 3, {}, FAILED, "bad_result"),
    ("refuses", 3, {}, FAILED, "volume"),
    ("silent", 3, {}, FAILED, "guest_silent"),
    ("goes down", 3, {}, FAILED, "machine_down"),
    ("never ends", 3, {}, FAILED, "guest_silent"),
    ("never ends", 3, {"cancel_after": 8}, CANCELLED, "cancelled"),
    ("", SLOW, {"deadline_after": 6}, FAILED, "deadline"),
    ("", SLOW, {"cancel_after": 9}, CANCELLED, "cancelled"),
], ids=str)
async def test_one_that_fails_leaves_nothing_wherever_it_is_killed(built, fate, looks, how, state, code):
    async def make():
        return await built(fate=fate, looks=looks)

    async for one, claimed, at in everywhere(make, "create_snapshot", MAKING, **how):
        assert (claimed.state, claimed.failure_code) == (state, code), at
        assert one.backups.row["state"] == "FAILED", at
        assert one.backups.row["failure_text"] == claimed.failure_text, at
        assert "snapshot" not in await leftovers(one), at
        assert one.backups.clearing == 0, at


@pytest.mark.parametrize("why", [CloudRefused("quota", "no room"), CloudRefused("no_snapshots", "none here")])
async def test_a_cloud_that_refuses_fails_it(built, why):
    async def make():
        one = await built()
        one.cloud.fail_at("ensure_snapshot", 1000, why)
        return one

    async for one, claimed, at in everywhere(make, "create_snapshot", MAKING):
        assert (claimed.state, claimed.failure_code) == (FAILED, why.code), at
        assert (one.still_since, one.backups.row["state"]) == (None, "FAILED"), at


async def test_one_that_was_cancelled_after_its_record_is_taken_back(built):
    """Killed after the row was completed and before the operation was."""
    fuse = Fuse()
    await drive("create_snapshot", await built(), fuse, MAKING)
    taken_back = 0
    for turns in range(5, 60):
        one = await built()
        claimed = await drive("create_snapshot", one, Fuse(fuse.calls, after=True), MAKING, cancel_after=turns)
        if claimed.state is SUCCEEDED:
            break
        taken_back += 1
        assert (claimed.state, one.backups.row["state"]) == (CANCELLED, "FAILED"), turns
        assert "snapshot" not in await leftovers(one), turns
    assert taken_back > 3


# --- restoring ---


@pytest.fixture
def kept(clock):
    """Makes worlds with nothing but a completed snapshot, of the volume of an instance that is gone."""

    async def make():
        one = World(clock)
        tags = Tags(SOURCE, "an earlier operation", "p")
        await one.cloud.ensure_volume(tags, gib=1, volume_type=None)
        found = await one.cloud.ensure_snapshot(tags, backup=BACKUP)
        one.backups.row |= {
            **IN_CINDER, "state": "COMPLETED", "location": f"cinder://{found.id}", "volume_gib": 1, "raw_bytes": 7,
        }
        one.row["formatted"] = True  # as the API has it
        one.row["volume_gib"] = 2
        return one

    return make


async def test_a_restore_survives_a_kill_at_every_call(kept):
    ends = 0
    async for one, claimed, at in everywhere(kept, "create_instance", RESTORING):
        ends += 1
        assert (claimed.state, one.runs, one.row["started_once"]) == (SUCCEEDED, 1, True), at
        assert {command.kind for command in one.commands} == {"adopt"}, at
        assert not any(command.args["format"] for command in one.commands), at
        assert {command.args["restore"] for command in one.commands} == {None}, at
        assert one.cloud.made_of(INSTANCE) == (await one.cloud.find_snapshot(BACKUP)).id, at
        assert one.cloud.gib(INSTANCE) == 2, at
    assert ends > 40


async def test_a_restore_that_fails_is_undone_and_touches_no_snapshot(kept):
    async def make():
        one = await kept()
        one.fate = "refuses"
        return one

    async for one, claimed, at in everywhere(make, "create_instance", RESTORING):
        assert (claimed.state, claimed.failure_code) == (FAILED, "volume"), at
        assert await leftovers(one) == ["snapshot", "volume"], at
        assert {r.instance for r in await one.cloud.resources()} == {SOURCE}, at


async def test_nothing_is_made_of_a_snapshot_that_is_gone(kept):
    one = await kept()
    await one.cloud.drop_snapshot(BACKUP)
    claimed = await drive("create_instance", one, Fuse(), RESTORING)
    assert (claimed.state, claimed.failure_code, claimed.failure_step) == (FAILED, "damaged", "check_backup")
    assert not [call for call in one.cloud.calls if call.startswith("ensure_port")]


# --- deleting ---


async def test_a_deletion_survives_a_kill_at_every_call(kept):
    async for one, claimed, at in everywhere(kept, "delete_backup", MAKING):
        assert (claimed.state, one.backups.row["state"]) == (SUCCEEDED, "DELETED"), at
        assert await leftovers(one) == ["volume"], at


async def test_a_deletion_goes_on_until_nothing_depends_on_the_snapshot(kept):
    one = await kept()
    one.cloud.fail_at("drop_snapshot", 40, CloudBusy("a volume was made of it"))
    claimed = await drive("delete_backup", one, Fuse(), MAKING, deadline_after=5)
    assert (claimed.state, one.backups.row["state"]) == (SUCCEEDED, "DELETED")


async def test_an_instance_with_snapshots_is_deleted_but_for_its_volume(built):
    async def make():
        one = await built()
        await drive("create_snapshot", one, Fuse(), MAKING)
        return one

    async for one, claimed, at in everywhere(make, "delete_instance"):
        assert claimed.state is SUCCEEDED, at
        assert set(await leftovers(one)) <= {"snapshot", "volume", "volume-held"}, at
        assert {"snapshot", "volume"} <= set(await leftovers(one)), at
