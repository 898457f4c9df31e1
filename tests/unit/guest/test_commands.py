"""Commands as functions, and the agent killed at every single thing that they do to the world."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from coffer_guest.clock import Clock
from coffer_guest.commands import COMMANDS, QUERIES
from coffer_guest.journal import Journal
from coffer_guest.machine import Machine
from coffer_guest.state import State
from coffer_guest.store import Store
from coffer_guest.work import Work
from coffer_shared import commands as forms
from coffer_shared.messages import Accepted, Finished, Start, decode_event
from unit.guest.fakes import UUID, World, machine_in, options_in, prepare_args

USERS = [{"name": "ann", "password": "pw1", "databases": ["shop"]}, {"name": "bob", "password": "pw2"}]
DATABASES = [{"name": "shop"}, {"name": "stock"}]


class PowerCut(BaseException):
    """Raised by the world in the middle of a command: nothing of the agent runs after it."""


class Agent:
    """One life of the part of the agent that works."""

    def __init__(self, store: Store, world: World, machine: Machine) -> None:
        self.store = store
        self.world = world
        self.machine = machine
        self.journal = Journal(store)
        self.work = Work(self.journal, machine, Clock(), COMMANDS, lambda: None)

    @classmethod
    async def live(cls, directory: Path, world: World) -> Agent:
        store = await Store.open(directory / "db")
        machine = machine_in(options_in(directory), State(store), world)
        await machine.load("7d444840-9dc0-11d1-b245-5ffdce74fad2")
        agent = cls(store, world, machine)
        await agent.work.load()
        return agent

    async def boot(self) -> None:
        async with self.machine.busy:
            await self.machine.boot()
        await self.work.resume()

    async def run(self, kind: str, args: dict[str, Any], op: str = "op") -> Finished | None:
        """None if the power was cut."""
        command = Start(op=op, kind=kind, args=args, deadline=time.time() + 30)
        assert await self.work.start(command, 1) == Accepted()
        assert self.work._task is not None
        await asyncio.wait({self.work._task})
        return await self.ending(op)

    async def ending(self, op: str = "op") -> Finished | None:
        rows = await self.store.read(lambda db: db.execute("SELECT body FROM event WHERE op = ?", (op,)).fetchall())
        endings = [event for event in (decode_event(row[0]) for row in rows) if isinstance(event, Finished)]
        assert len(endings) <= 1
        return endings[0] if endings else None

    async def die(self) -> None:
        task = self.work._task
        if task is not None and task.done() and not task.cancelled():
            task.exception()
        await self.machine.close()
        await self.store.close()


async def prepared(directory: Path, world: World) -> Agent:
    agent = await Agent.live(directory, world)
    ending = await agent.run("prepare", prepare_args(databases=DATABASES, users=USERS), op="prepare")
    assert ending is not None
    assert ending.state == "done", ending
    world.calls.clear()
    return agent


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
}


def outcome(world: World) -> dict[str, Any]:
    return {
        "databases": sorted(world.databases),
        "users": {name: user.password for name, user in world.users.items()},
        "root": world.root,
        "running": world.container.running,
        "mounted": world.mounted,
    }


@pytest.mark.parametrize("name", SCENARIOS)
async def test_killed_at_anything_it_does_a_command_ends_as_if_it_had_not_been(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call of the world is cut off before and after its effect; the next life resumes from the journal."""
    kind, args = SCENARIOS[name]
    expected: dict[str, Any] = {}
    for cut in range(100):
        world, directory = World(), tmp_path / str(cut)
        use(world, monkeypatch)
        agent = await Agent.live(directory, world) if kind == "prepare" else await prepared(directory, world)
        counter = [cut or -1]

        async def call(name: str, world: World = world, counter: list[int] = counter) -> None:
            world.calls.append(name)
            counter[0] -= 1
            if counter[0] == 0:
                raise PowerCut

        monkeypatch.setattr(world, "call", call)
        ending = await agent.run(kind, args)
        if cut and ending is not None:
            return  # every call was cut off once
        if cut:
            await agent.die()
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


def use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    import coffer_datastores
    from unit.guest.fakes import MemoryDriver

    monkeypatch.setattr(coffer_datastores, "driver", lambda name: MemoryDriver(world, os.getuid()))
