"""Growing a volume, changing the flavor and rebuilding, killed before and after every outside call: done, or undone."""

from __future__ import annotations

import pytest

from coffer_db.tables import OperationState
from coffer_provisioner.cloud.interface import CloudRefused, MachineState, Size
from coffer_shared.messages import Failure, Refused
from unit.provisioner.backup_rows import INSTANCE
from unit.provisioner.world import Fuse, World, drive, everywhere

SUCCEEDED, FAILED, CANCELLED = OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED
MIB, GIB = 1 << 20, 1 << 30
SMALL, LARGE = Size("1", 512, 1.0), Size("2", 1024, 2.0)
GROW = {"volume_gib": 3}


@pytest.fixture(params=["at once", "slowly"])
def built(request, clock):
    """Makes worlds with an instance that runs: in a cloud like Docker, and in one like Nova."""

    async def make(*, flavor="1", fate=""):
        one = World(clock)
        one.row["flavor_id"] = flavor
        await drive("create_instance", one, Fuse())
        one.row["volume_id"] = "volume-1"
        if request.param == "slowly":
            for name, value in (("looks_until_active", 2), ("looks_until_grown", 2), ("keeps_way_back", True)):
                setattr(one.cloud.world, name, value)
        one.fate, one.runs, one.commands = fate, 0, []
        return one

    make.slow = request.param == "slowly"
    return make


def refuse(one, kind):
    send = one.send

    async def refusing(instance, command, *, within):
        if getattr(command, "kind", "") == kind:
            return Refused(code=Failure.UNKNOWN_KIND, text=f"this agent does not know {kind!r}")
        return await send(instance, command, within=within)

    one.send = refusing


async def machine(one):
    return await one.cloud.find_machine(INSTANCE)


# --- the volume ---


async def test_weakness_20_a_volume_grows_wherever_it_is_killed(built):
    ends = 0
    async for one, claimed, at in everywhere(built, "resize_volume", GROW):
        ends += 1
        assert claimed.state is SUCCEEDED, at
        assert (one.row["volume_gib"], one.cloud.gib(INSTANCE), one.file_system) == (3, 3, 3 * GIB), at
        assert (one.runs, one.after, one.cloud.starts(INSTANCE)) == (1, [], 1), at
    assert ends > 8


async def test_a_stopped_database_does_not_matter(built):
    one = await built()
    one.stopped = True
    assert (await drive("resize_volume", one, Fuse(), GROW)).state is SUCCEEDED
    assert (one.stopped, one.file_system) == (True, 3 * GIB)


@pytest.mark.parametrize("fate", ["silent", "refuses", "fails to grow_volume"])
async def test_weakness_20_a_volume_that_has_grown_says_so_whatever_its_guest_does(built, fate):
    async def make():
        return await built(fate=fate)

    async for one, claimed, at in everywhere(make, "resize_volume", GROW, deadline_after=20):
        assert (claimed.state, claimed.failure_step) == (FAILED, "grow_file_system"), at
        assert (one.row["volume_gib"], one.cloud.gib(INSTANCE), one.file_system) == (3, 3, GIB), at
        assert one.after == ["grow_file_system"], at
        one.fate = ""
        assert (await drive("grow_file_system", one, Fuse())).state is SUCCEEDED, at
        assert one.file_system == 3 * GIB, at


async def test_a_volume_that_has_not_grown_says_so_too(built):
    async def make():
        one = await built()
        one.cloud.fail_at("grow_volume", 1000, CloudRefused("quota", "no room"))
        return one

    async for one, claimed, at in everywhere(make, "resize_volume", GROW):
        assert (claimed.state, claimed.failure_code) == (FAILED, "quota"), at
        assert (one.row["volume_gib"], one.cloud.gib(INSTANCE), one.after) == (1, 1, []), at


async def test_a_growth_that_is_cancelled_says_how_far_it_went(built):
    ended = set()
    for turns in range(6):
        one = await built()
        claimed = await drive("resize_volume", one, Fuse(), GROW, cancel_after=turns)
        ended.add(claimed.state)
        assert one.row["volume_gib"] == one.cloud.gib(INSTANCE), turns
        if one.after:
            assert (await drive("grow_file_system", one, Fuse())).state is SUCCEEDED, turns
        assert one.file_system == one.row["volume_gib"] * GIB, turns
    assert ended == {SUCCEEDED, CANCELLED}


# --- the flavor ---


@pytest.mark.parametrize(("was", "becomes", "size"), [("1", "2", LARGE), ("2", "1", SMALL)], ids=["grows", "shrinks"])
async def test_a_flavor_is_changed_wherever_it_is_killed(built, was, becomes, size):
    async def make():
        one = await built(flavor=was)
        one.send = never_too_large(one)
        return one

    ends = 0
    async for one, claimed, at in everywhere(make, "resize_flavor", {"flavor": becomes}):
        ends += 1
        assert claimed.state is SUCCEEDED, at
        assert (one.row["flavor_id"], one.cloud.size(INSTANCE), one.memory) == (becomes, size, size.memory_mb * MIB), at
        assert not (await machine(one)).unconfirmed, at
        assert (one.runs, one.after, one.cloud.starts(INSTANCE)) == (1, [], 2 if built.slow else 1), at
    assert ends > 16


def never_too_large(one):
    """The engine never has more memory than the machine."""
    send = one.send

    async def checked(instance, command, *, within):
        answer = await send(instance, command, within=within)
        assert one.memory <= one.cloud.size(INSTANCE).memory_mb * MIB
        return answer

    return checked


async def test_a_stopped_database_stays_stopped_in_another_flavor(built):
    one = await built()
    one.stopped = True
    assert (await drive("resize_flavor", one, Fuse(), {"flavor": "2"})).state is SUCCEEDED
    assert (one.stopped, one.memory) == (True, 1024 * MIB)


def no_capacity(one):
    one.cloud.fail_at("resize_machine", 1000, CloudRefused("no_capacity", "no host is large enough"))


@pytest.mark.parametrize(("spoil", "code"), [
    (no_capacity, "no_capacity"), (lambda one: refuse(one, "resize"), "unknown_kind"),
    (lambda one: setattr(one, "fate", "fails to resize"), "engine"),
    (lambda one: setattr(one, "fate", "silent"), "deadline"),
], ids=["no capacity", "an older agent", "the engine does not start", "a silent guest"])
@pytest.mark.parametrize(("was", "becomes", "size"), [("1", "2", SMALL), ("2", "1", LARGE)], ids=["grows", "shrinks"])
async def test_a_flavor_that_cannot_be_changed_is_as_it_was(built, spoil, code, was, becomes, size):
    async def make():
        one = await built(flavor=was)
        spoil(one)
        return one

    async for one, claimed, at in everywhere(make, "resize_flavor", {"flavor": becomes}, deadline_after=25):
        assert (claimed.state, claimed.failure_code) == (FAILED, code), at
        found = await machine(one)
        assert (found.state, found.unconfirmed) == (MachineState.ACTIVE, False), at
        assert (one.row["flavor_id"], one.cloud.size(INSTANCE)) == (was, size), at
        assert one.after == ["fit_engine"], at
        assert "broken" not in claimed.context, at
        one.fate = ""
        if code != "unknown_kind":
            assert (await drive("fit_engine", one, Fuse())).state is SUCCEEDED, at
        assert one.memory == size.memory_mb * MIB, at


async def test_a_change_of_flavor_that_is_cancelled_is_done_or_undone(built):
    ended = set()
    for turns in range(14):
        one = await built()
        claimed = await drive("resize_flavor", one, Fuse(), {"flavor": "2"}, cancel_after=turns)
        ended.add(claimed.state)
        if one.after:
            await drive("fit_engine", one, Fuse())
        size = LARGE if claimed.state is SUCCEEDED else SMALL
        assert (one.row["flavor_id"], one.cloud.size(INSTANCE), one.memory) == (
            size.flavor, size, size.memory_mb * MIB,
        ), turns
        assert not (await machine(one)).unconfirmed, turns
    assert ended == {SUCCEEDED, CANCELLED}


@pytest.mark.parametrize("state", [None, MachineState.STOPPED, MachineState.ERROR])
async def test_without_a_machine_that_runs_no_flavor_is_changed(built, state):
    one = await built()
    if state is None:
        await one.cloud.drop_machine(INSTANCE)
    else:
        one.cloud.set_machine(INSTANCE, state)
    claimed = await drive("resize_flavor", one, Fuse(), {"flavor": "2"}, deadline_after=3)
    assert (claimed.state, claimed.failure_code, one.row["flavor_id"], one.after) == (FAILED, "machine_down", "1", [])


async def test_a_flavor_that_is_gone_changes_nothing(built):
    one = await built()
    claimed = await drive("resize_flavor", one, Fuse(), {"flavor": "9"})
    assert (claimed.state, claimed.failure_code, one.after, one.commands) == (FAILED, "no_flavor", [], [])


@pytest.mark.parametrize("how", ["refused", "in error"])
async def test_what_the_cloud_does_not_take_back_is_left_to_people(built, how):
    one = await built(fate="fails to resize")
    if how == "refused":
        one.cloud.fail_at("revert_resize", 1, CloudRefused("no_machine", "it is gone"))
    else:
        revert = one.cloud.revert_resize

        async def reverting(tags, size):
            one.cloud.set_machine(INSTANCE, MachineState.ERROR, "it is gone")
            return await revert(tags, size)

        one.cloud.revert_resize = reverting
    claimed = await drive("resize_flavor", one, Fuse(), {"flavor": "2"})
    assert (claimed.state, claimed.context["broken"]) == (FAILED, "it is gone")


async def test_a_machine_that_stopped_under_it_is_started(built):
    one = await built(fate="fails to resize")
    confirm = one.cloud.revert_resize

    async def reverting(tags, size):
        found = await confirm(tags, size)
        if one.cloud.starts(INSTANCE) < 4 and found.state is MachineState.ACTIVE:
            one.cloud.set_machine(INSTANCE, MachineState.STOPPED)
            return await confirm(tags, size)
        return found

    one.cloud.revert_resize = reverting
    assert (await drive("resize_flavor", one, Fuse(), {"flavor": "2"})).state is FAILED
    assert (await machine(one)).state is MachineState.ACTIVE


# --- rebuild ---


async def test_a_rebuild_is_done_wherever_it_is_killed(built):
    async def make():
        one = await built()
        one.row["allowed_cidrs"] = ["192.0.2.0/24"]
        return one

    ends = 0
    async for one, claimed, at in everywhere(make, "rebuild_instance"):
        ends += 1
        assert claimed.state is SUCCEEDED, at
        assert one.cloud.user_data(INSTANCE) == one.enrolled_with == one.credential, at
        assert (one.runs, one.cloud.starts(INSTANCE), one.allowed) == (1, 2, ["192.0.2.0/24"]), at
        assert {(command.kind, command.args["format"]) for command in one.commands} == {("prepare", False)}, at
        assert all(not command.args["databases"] and not command.args["users"] for command in one.commands), at
        assert one.cloud.gib(INSTANCE) == 1, at
    assert ends > 14


async def test_an_instance_whose_machine_is_gone_or_broken_is_rebuilt(built):
    for spoil in ("gone", MachineState.STOPPED, MachineState.ERROR):
        one = await built(fate="silent")
        if spoil == "gone":
            await one.cloud.drop_machine(INSTANCE)
        else:
            one.cloud.set_machine(INSTANCE, spoil, "it broke")
        one.fate = ""
        assert (await drive("rebuild_instance", one, Fuse())).state is SUCCEEDED, spoil
        assert one.healthy


@pytest.mark.parametrize(("fate", "spoil", "code"), [
    ("", lambda one: one.cloud.fail_at("rebuild_machine", 1000, CloudRefused("quota", "no room")), "quota"),
    ("silent", lambda one: None, "deadline"), ("refuses", lambda one: None, "volume"),
    ("fails to prepare", lambda one: None, "engine"),
], ids=["refused", "a silent guest", "the wrong volume", "the engine does not start"])
async def test_a_rebuild_that_fails_deletes_nothing_and_can_be_done_again(built, fate, spoil, code):
    async def make():
        one = await built(fate=fate)
        spoil(one)
        return one

    async for one, claimed, at in everywhere(make, "rebuild_instance", deadline_after=25):
        assert (claimed.state, claimed.failure_code) == (FAILED, code), at
        kinds = {r.kind for r in await one.cloud.resources()}
        assert {"machine", "volume", "volume-held", "address", "public"} <= kinds, at
        assert (claimed.context["begun"], "console" in claimed.context) == (True, True), at
        one.fate, one.cloud.failures = "", {}
        assert (await drive("rebuild_instance", one, Fuse(), nth=2)).state is SUCCEEDED, at
        assert one.healthy, at


@pytest.mark.parametrize("change", [{"started_once": False}, {"addresses": []}, {"volume_id": None}], ids=str)
async def test_what_never_held_a_database_is_not_rebuilt(built, change):
    one = await built()
    one.row |= change
    claimed = await drive("rebuild_instance", one, Fuse())
    assert (claimed.state, claimed.failure_code, one.cloud.starts(INSTANCE)) == (FAILED, "no_data", 1)
    assert "begun" not in claimed.context
