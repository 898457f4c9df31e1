"""Access, stop and reboot, killed before and after every outside call: done, or as it was before."""

from __future__ import annotations

from copy import deepcopy

import pytest

from coffer_db.tables import OperationState
from coffer_provisioner.cloud.interface import CloudRefused, MachineState, Tags
from coffer_shared.messages import Failure, Refused
from unit.provisioner.backup_rows import INSTANCE
from unit.provisioner.world import Fuse, World, drive, everywhere

SUCCEEDED, FAILED, CANCELLED = OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED
OLD, NEW = ["10.1.0.0/16"], ["10.2.0.0/16", "192.0.2.0/24"]


@pytest.fixture
def built(clock):
    """Makes worlds with an instance that runs."""

    async def make(*, public=True, fate=""):
        one = World(clock)
        one.row |= {"is_public": public, "allowed_cidrs": OLD}
        await drive("create_instance", one, Fuse())
        assert one.allowed == OLD
        one.fate, one.runs, one.commands = fate, 0, []
        return one

    return make


def access(one):
    """As the row, the guest, the cloud and a client see it."""
    there = [public for public in one.cloud._mine.public.values() if public.tags.instance == INSTANCE]
    return deepcopy({
        "row": (one.row["is_public"], one.row["allowed_cidrs"]),
        "guest": one.allowed,
        "cloud": [list(public.allowed) for public in there],
        "filter": list(one.cloud.access(INSTANCE)),
        "shown": [known["type"] for known in one.row["addresses"]],
    })


def expected(*, public, allowed):
    return {
        "row": (public, allowed), "guest": allowed, "cloud": [allowed] if public else [],
        "filter": allowed,
        "shown": ["private", "public"] if public else ["private"],
    }


@pytest.mark.parametrize("was", [False, True], ids=["private", "public"])
@pytest.mark.parametrize("args", [
    {"is_public": True, "allowed_cidrs": NEW}, {"is_public": False, "allowed_cidrs": []}, {"is_public": True},
    {"is_public": False}, {"allowed_cidrs": NEW},
], ids=str)
async def test_weakness_19_what_is_not_asked_for_stays_wherever_it_is_killed(built, was, args):
    async def make():
        return await built(public=was)

    wanted = expected(public=args.get("is_public", was), allowed=args.get("allowed_cidrs", OLD))
    ends = 0
    async for one, claimed, at in everywhere(make, "update_access", args):
        ends += 1
        assert claimed.state is SUCCEEDED, at
        assert access(one) == wanted, at
        assert one.runs == 1, at
    assert ends > 14


def older_agent(one):
    one.send = _refuse_unless(one.send)


def _refuse_unless(send):
    async def refuse(instance, command, *, within):
        if getattr(command, "kind", "") == "set_access":
            return Refused(code=Failure.UNKNOWN_KIND, text="this agent does not know 'set_access'")
        return await send(instance, command, within=within)

    return refuse


def no_address_left(one):
    one.cloud.fail_at("ensure_public_address", 1, CloudRefused("no_public_address", "all are taken"))


@pytest.mark.parametrize(("spoil", "code"), [
    (older_agent, "unknown_kind"), (no_address_left, "no_public_address"),
    (lambda one: setattr(one, "fate", "silent"), "deadline"),
], ids=["an older agent", "no address left", "a silent guest"])
@pytest.mark.parametrize("was", [False, True], ids=["private", "public"])
async def test_access_that_cannot_be_changed_is_as_it_was(built, spoil, code, was):
    async def make():
        one = await built(public=was)
        spoil(one)
        return one

    before = expected(public=was, allowed=OLD)
    async for one, claimed, at in everywhere(
        make, "update_access", {"is_public": True, "allowed_cidrs": NEW}, deadline_after=12,
    ):
        if one.cloud.failures.get("ensure_public_address"):
            continue  # killed so that it was never asked
        if claimed.state is SUCCEEDED:
            assert code == "no_public_address", at  # the one failure went to a turn that was killed
            continue
        assert (claimed.state, claimed.failure_code) == (FAILED, code), at
        assert access(one) == before, at


async def test_a_change_of_access_that_is_cancelled_is_as_it_was_or_done(built):
    ended = set()
    for turns in range(8):
        one = await built(public=False)
        claimed = await drive(
            "update_access", one, Fuse(), {"is_public": True, "allowed_cidrs": NEW}, cancel_after=turns,
        )
        ended.add(claimed.state)
        wanted = expected(public=True, allowed=NEW) if claimed.state is SUCCEEDED else expected(
            public=False, allowed=OLD)
        assert access(one) == wanted, turns
    assert ended == {SUCCEEDED, CANCELLED}


async def test_a_guest_that_fell_silent_learns_of_the_undo_when_it_is_back(built):
    one = await built(fate="falls silent after it")
    one.cloud.fail_at("ensure_public_address", 1, CloudRefused("no_public_address", "all are taken"))
    claimed = await drive("update_access", one, Fuse(), {"allowed_cidrs": NEW})
    assert claimed.state is FAILED
    assert (one.allowed, one.row["allowed_cidrs"]) == (NEW, OLD)  # and its first word will be a Sync


@pytest.mark.parametrize("state", [None, MachineState.STOPPED, MachineState.ERROR])
async def test_without_a_machine_that_runs_access_is_not_changed(built, state):
    """And soon told, because a machine that is down is started only when nothing is open."""
    one = await built()
    before = access(one)
    if state is None:
        await one.cloud.drop_machine(INSTANCE)
    else:
        one.cloud.set_machine(INSTANCE, state)
    claimed = await drive("update_access", one, Fuse(), {"allowed_cidrs": NEW}, deadline_after=3)
    assert (claimed.state, claimed.failure_code) == (FAILED, "machine_down")
    assert access(one) == before


@pytest.mark.parametrize(("was", "becomes"), [
    (OLD, NEW), (OLD, [*OLD, *NEW]), ([*OLD, *NEW], OLD), ([], OLD), (OLD, []),
], ids=str)
async def test_nobody_who_is_allowed_is_shut_out_by_the_cloud_while_access_changes(built, was, becomes):
    """Whoever the guest lets in, before and after, gets past the cloud's filter at every moment until it is done."""
    one = await built()
    one.row["allowed_cidrs"], one.allowed = was, was
    await one.cloud.ensure_access(Tags(INSTANCE, "o", "p"), tcp_port=5432, allowed_cidrs=tuple(was))
    seen = []
    ensure_access, send = one.cloud.ensure_access, one.send

    async def filtered(tags, **how):
        await ensure_access(tags, **how)
        seen.append((list(how["allowed_cidrs"]), one.allowed))

    async def told(instance, command, *, within):
        answer = await send(instance, command, within=within)
        seen.append((list(one.cloud.access(INSTANCE)), one.allowed))
        return answer

    one.cloud.ensure_access, one.send = filtered, told
    assert (await drive("update_access", one, Fuse(), {"allowed_cidrs": becomes})).state is SUCCEEDED
    assert seen[-1] == (becomes, becomes)
    for through, inside in seen:
        assert not through or (inside and set(inside) <= set(through)), seen


# --- stop ---


async def test_stop_survives_a_kill_at_every_call(built):
    async for one, claimed, at in everywhere(built, "stop_instance"):
        assert (claimed.state, one.stopped, one.runs) == (SUCCEEDED, True, 1), at
        assert one.cloud.starts(INSTANCE) == 1, at


async def test_stop_waits_for_the_report(built):
    one = await built()
    one.heartbeat = _says("healthy")
    claimed = await drive("stop_instance", one, Fuse(), deadline_after=20)
    assert (claimed.state, claimed.failure_step) == (FAILED, "wait_stopped")


def _says(engine):
    async def heartbeat(instance):
        return {"engine": engine, "facts": {"boot": "boot 1"}}

    return heartbeat


# --- reboot ---


@pytest.mark.parametrize("stopped", [False, True])
async def test_reboot_survives_a_kill_at_every_call(built, stopped):
    async def make():
        one = await built()
        one.stopped = stopped
        return one

    async for one, claimed, at in everywhere(make, "reboot_instance"):
        assert (claimed.state, one.stopped, one.commands) == (SUCCEEDED, stopped, []), at
        assert not one.boot.startswith("boot 1 "), at
        # killed after the restart and before a report of it, there is nothing to know it by
        assert one.cloud.starts(INSTANCE) in {2, 3}, at
        assert one.cloud.starts(INSTANCE) == 2 or at.startswith("after"), at


async def test_a_reboot_needs_no_answer_of_a_guest_and_starts_what_is_down(built):
    one = await built(fate="silent")
    one.cloud.set_machine(INSTANCE, MachineState.STOPPED)
    claimed = await drive("reboot_instance", one, Fuse(), deadline_after=20)
    assert (claimed.state, claimed.failure_code) == (FAILED, "deadline")
    assert one.cloud.starts(INSTANCE) == 2
    one.fate = ""
    assert (await drive("reboot_instance", one, Fuse())).state is SUCCEEDED


@pytest.mark.parametrize(("state", "code"), [(None, "machine_gone"), (MachineState.ERROR, "machine_failed")])
async def test_what_cannot_be_rebooted(built, state, code):
    one = await built()
    if state is None:
        await one.cloud.drop_machine(INSTANCE)
    else:
        one.cloud.set_machine(INSTANCE, state, "it broke")
    claimed = await drive("reboot_instance", one, Fuse())
    assert (claimed.state, claimed.failure_code) == (FAILED, code)


# --- configuration ---

ATTACHED = {"configuration": "new", "former": "old"}


@pytest.fixture
def attached(built):
    """Makes worlds whose instance has another group since a moment ago; only its row knows."""

    async def make(**more):
        one = await built(**more)
        one.settings = {"jit": True}
        one.row |= {"configuration_id": "new", "settings": {"work_mem": "8MB"}}
        return one

    return make


async def test_a_group_reaches_the_database_wherever_it_is_killed(attached):
    async for one, claimed, at in everywhere(attached, "configure_instance", ATTACHED):
        assert (claimed.state, one.settings, one.row["configuration_id"]) == (SUCCEEDED, {"work_mem": "8MB"}, "new"), at
        assert one.runs == 1, at


async def test_what_the_database_refuses_is_detached_again_wherever_it_is_killed(attached):
    async def refusing():
        return await attached(fate="fails to configure")

    async for one, claimed, at in everywhere(refusing, "configure_instance", ATTACHED):
        assert (claimed.state, one.settings, one.row["configuration_id"]) == (FAILED, {"jit": True}, "old"), at


async def test_a_group_that_was_attached_since_stays(attached):
    one = await attached(fate="fails to configure")
    one.row["configuration_id"] = "newer"
    await drive("configure_instance", one, Fuse(), ATTACHED)
    assert one.row["configuration_id"] == "newer"


async def test_new_values_that_the_database_refuses_detach_nothing(attached):
    one = await attached(fate="fails to configure")
    claimed = await drive("configure_instance", one, Fuse(), {"configuration": "new"})
    assert (claimed.state, one.settings, one.row["configuration_id"]) == (FAILED, {"jit": True}, "new")


async def test_an_instance_that_is_deleted_meanwhile_is_not_waited_for(attached):
    one = await attached()
    one.row["deleted_at"] = "now"
    assert (await drive("configure_instance", one, Fuse(), ATTACHED)).failure_code == "no_instance"
    assert one.commands == []


async def test_a_new_machine_gets_the_groups_values(clock):
    one = World(clock)
    one.row["settings"] = {"work_mem": "8MB"}
    await drive("create_instance", one, Fuse())
    assert one.settings == {"work_mem": "8MB"}
    one.row["settings"] = {"jit": False}
    await drive("rebuild_instance", one, Fuse())
    assert one.settings == {"jit": False}
