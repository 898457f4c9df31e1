"""Commands as functions, and the agent killed at every single thing that they do to the world."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from coffer_guest.commands import COMMANDS, QUERIES
from coffer_shared import commands as forms
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Cancel, Refused, Start
from unit.guest.fakes import World
from unit.guest.lives import DATABASES, USERS, Agent, prepared, use
from unit.guest.orders import UUID, backup_args, prepare_args, restore_args


def test_every_command_and_query_has_a_function() -> None:
    assert set(COMMANDS) == set(forms.COMMANDS)
    assert set(QUERIES) == set(forms.QUERIES)


async def test_prepare_makes_everything_once(tmp_path: Path, world: World) -> None:
    agent = await Agent.live(tmp_path, world)
    ending = await agent.run("prepare", prepare_args(databases=DATABASES, users=USERS))
    assert ending is not None
    assert ending.state == "done"
    assert ending.result == {"engine_version": "1.0", "fs_uuid": UUID}
    assert world.secured == 1
    assert set(world.databases) == {"shop", "stock"}
    assert {name: user.password for name, user in world.users.items()} == {"ann": "pw1", "bob": "pw2"}
    assert world.rules[-1].listen == ("10.1.0.5",)
    assert world.calls.index("format") < world.calls.index("start")
    await agent.die()


async def test_a_machine_that_was_prepared_comes_up_by_itself(tmp_path: Path, world: World) -> None:
    await (await prepared(tmp_path, world)).die()
    world.container, world.mounted = world.container.__class__(exists=True, status="exited"), ""
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    assert world.container.running
    assert world.mounted == UUID
    assert "format" not in world.calls
    assert world.secured == 1
    await agent.die()


async def test_a_database_that_was_stopped_stays_stopped(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    await agent.run("stop", {})
    await agent.die()
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    assert not world.container.running
    ending = await agent.run("start", {}, op="start")
    assert ending is not None
    assert ending.state == "done"
    assert world.container.running
    await agent.die()


@pytest.mark.parametrize("how", ["broken", "late", "cancelled"])
async def test_a_stop_that_does_not_come_to_its_end_leaves_a_database_that_runs(
    tmp_path: Path, world: World, how: str
) -> None:
    agent = await prepared(tmp_path, world)
    if how == "broken":
        world.broken["stop"] = GiveUp("engine", "the container does not stop")
    else:
        world.slow["stop"] = 60
    await agent.start("stop", {}, left=0.2 if how == "late" else 30)
    await agent.until("stop")
    if how == "cancelled":
        await agent.work.cancel(Cancel(op="op"), 1)
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == ("cancelled" if how == "cancelled" else "failed")
    assert agent.machine.prepared.running
    await agent.die()
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    assert world.container.running
    await agent.die()


async def test_a_stop_that_the_end_of_the_agent_interrupts_is_taken_up_again(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    world.slow["stop"] = 60
    await agent.start("stop", {})
    await agent.until("stop")
    await agent.work.close()
    assert not agent.machine.prepared.running
    await agent.die()
    world.slow.clear()
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    assert not world.container.running
    await agent.die()


async def test_access_is_replaced_and_kept(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    for n, (cidrs, state) in enumerate([
        (["192.0.2.0/24", "10.1.2.3"], "done"), (["nowhere"], "failed"), ([], "done"), (["10.0.0.0/8"], "done"),
    ]):
        ending = await agent.run("set_access", {"allowed_cidrs": cidrs}, op=f"a{n}")
        assert ending is not None
        assert ending.state == state, cidrs
    assert [rules.allowed for rules in world.rules[-3:]] == [("10.1.2.3/32", "192.0.2.0/24"), (), ("10.0.0.0/8",)]
    await agent.die()
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    assert world.rules[-1].allowed == ("10.0.0.0/8",)
    await agent.die()


async def test_there_is_nobody_to_let_in_before_there_is_a_database(tmp_path: Path, world: World) -> None:
    agent = await Agent.live(tmp_path, world)
    ending = await agent.run("set_access", {"allowed_cidrs": []})
    assert ending is not None
    assert (ending.state, ending.code) == ("failed", "not_ready")
    await agent.die()


async def test_a_shutdown_of_the_machine_does_not_change_what_is_wanted(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    await agent.machine.stop_for_shutdown()
    assert not world.container.running
    await agent.die()
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    assert world.container.running
    await agent.die()


async def test_an_existing_database_or_user_is_refused(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("create_databases", {"databases": [{"name": "new"}, {"name": "shop"}]}),
        ("create_users", {"users": USERS}),
    ]
    for n, (kind, args) in enumerate(attempts):
        ending = await agent.run(kind, args, op=f"x{n}")
        assert ending is not None
        assert ending.code == "exists"
    assert "new" not in world.databases
    await agent.die()


async def test_a_volume_that_has_grown_is_known_to_the_engines_driver(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    assert agent.machine.order.volume_bytes == 1 << 30
    await agent.run("grow_volume", {"volume_bytes": 1 << 31})
    assert agent.machine.order.volume_bytes == 1 << 31
    await agent.die()
    agent = await Agent.live(tmp_path, world)
    assert agent.machine.order.volume_bytes == 1 << 31
    await agent.die()


GROWN = {"memory_bytes": 1 << 31, "vcpus": 2.0}


async def test_a_database_is_fitted_to_another_size_and_keeps_it(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    assert world.memory == 1 << 30
    ending = await agent.run("resize", GROWN)
    assert ending is not None
    assert ending.state == "done"
    assert (world.memory, agent.machine.order.vcpus, world.container.running) == (1 << 31, 2.0, True)
    started = world.calls.count("start")
    assert (await agent.run("resize", GROWN, op="again")) is not None
    assert world.calls.count("start") == started, "it has that size"
    await agent.die()
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    assert (agent.machine.order.memory_bytes, world.memory) == (1 << 31, 1 << 31)
    await agent.die()


async def test_a_stopped_database_stays_stopped_in_another_size(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    await agent.run("stop", {}, op="stop")
    ending = await agent.run("resize", GROWN)
    assert ending is not None
    assert ending.state == "done"
    assert not world.container.running
    await agent.run("start", {}, op="start")
    assert (world.memory, world.container.running) == (1 << 31, True)
    await agent.die()


async def test_there_is_nothing_to_fit_before_there_is_a_database(tmp_path: Path, world: World) -> None:
    agent = await Agent.live(tmp_path, world)
    ending = await agent.run("resize", GROWN)
    assert ending is not None
    assert (ending.state, ending.code) == ("failed", "not_ready")
    await agent.die()


@pytest.mark.parametrize("args", [{}, {"memory_bytes": 0, "vcpus": 1.0}, {"memory_bytes": 1, "vcpus": -1.0}], ids=str)
async def test_a_size_that_is_none_is_refused(tmp_path: Path, world: World, args: dict[str, Any]) -> None:
    agent = await prepared(tmp_path, world)
    answer = await agent.work.start(Start(op="op", kind="resize", args=args, deadline=time.time() + 30), 1)
    assert isinstance(answer, Refused)
    assert answer.code == "invalid"
    await agent.die()


@pytest.mark.parametrize("how", ["broken", "late", "cancelled"])
async def test_a_size_that_does_not_work_is_taken_back(tmp_path: Path, world: World, how: str) -> None:
    agent = await prepared(tmp_path, world)
    if how == "broken":
        world.broken["start"] = GiveUp("engine", "the container does not start")
    else:
        world.slow["start"] = 60
    await agent.start("resize", GROWN, left=0.3 if how == "late" else 30)
    await agent.until("start")
    if how == "cancelled":
        await agent.work.cancel(Cancel(op="op"), 1)
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == ("cancelled" if how == "cancelled" else "failed")
    assert agent.machine.order.memory_bytes == 1 << 30
    assert agent.machine.is_down, "so the agent starts it"
    world.broken.clear()
    world.slow.clear()
    await agent.boot()
    assert (world.memory, world.container.running) == (1 << 30, True)
    await agent.die()


SCENARIOS: dict[str, tuple[str, dict[str, Any]]] = {
    "prepare": ("prepare", prepare_args(databases=DATABASES, users=USERS)),
    "restart": ("restart", {}),
    "stop": ("stop", {}),
    "start": ("start", {}),
    "create_databases": ("create_databases", {"databases": [{"name": "one"}, {"name": "two"}]}),
    "create_users": ("create_users", {"users": [{"name": "cyd", "password": "pw3"}]}),
    "drop_database": ("drop_database", {"name": "stock"}),
    "drop_user": ("drop_user", {"name": "bob"}),
    "change_user": ("change_user", {"name": "bob", "new_name": "rob", "password": "pw4"}),
    "set_passwords": ("set_passwords", {"users": [{"name": "bob", "password": "pw5"}]}),
    "grant": ("grant", {"name": "bob", "databases": ["shop"]}),
    "revoke": ("revoke", {"name": "bob", "database": "shop"}),
    "enable_root": ("enable_root", {"password": "pw6"}),
    "grow_volume": ("grow_volume", {"volume_bytes": 1 << 31}),
    "resize": ("resize", {"memory_bytes": 1 << 31, "vcpus": 2.0}),
    "set_access": ("set_access", {"allowed_cidrs": ["192.0.2.0/24", "192.0.2.7/32"]}),
    "backup": ("backup", backup_args()),
    "restore": ("restore", restore_args(databases=[{"name": "new"}])),
}


def outcome(world: World) -> dict[str, Any]:
    return {
        "databases": sorted(world.databases),
        "users": {name: user.password for name, user in world.users.items()},
        "root": world.root,
        "running": world.container.running,
        "mounted": world.mounted,
        "started_on": world.started_on[-1],
        "ready_for": world.ready_for,
        "shots": sorted(world.shots),
        "jobs": len(world.ran),
        "storage": world.rules[-1].storage_port,
        "allowed": world.rules[-1].allowed,
        "memory": world.memory,
    }


@pytest.mark.parametrize("name", SCENARIOS)
async def test_killed_at_anything_it_does_a_command_ends_as_if_it_had_not_been(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the world is cut off before and after its effect; the next life resumes from the journal."""
    kind, args = SCENARIOS[name]
    bare = kind in {"prepare", "restore"}
    expected: dict[str, Any] = {}
    for cut in range(200):
        world, directory = World(), tmp_path / str(cut)
        use(world, monkeypatch)
        agent = await Agent.live(directory, world) if bare else await prepared(directory, world)
        world.fuse = cut
        ending = await agent.run(kind, args)
        if cut and not world.dead:
            return  # every call was cut off once
        if cut:
            await agent.die()
            world.revive()
            agent = await Agent.live(directory, world)
            await agent.boot()
            ending = await agent.ending()
        assert ending is not None
        assert ending.state == "done", (name, cut, ending)
        if not cut:
            expected = outcome(world)
        assert outcome(world) == expected, (name, cut)
        await agent.die()
    raise AssertionError("the command never ends")
