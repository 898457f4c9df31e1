"""An agent's lives: each begins with what the one before left in the world and on disk."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import coffer_datastores
from coffer_guest import restoring
from coffer_guest.clock import Clock
from coffer_guest.commands import COMMANDS
from coffer_guest.jobs import JobDirectory
from coffer_guest.journal import Journal
from coffer_guest.leftovers import tidy
from coffer_guest.machine import Machine
from coffer_guest.state import State
from coffer_guest.store import Store
from coffer_guest.work import Work
from coffer_shared.messages import Accepted, Finished, Progress, Start, decode_event
from unit.guest.fakes import World, machine_in, options_in
from unit.guest.memory_driver import MemoryDriver
from unit.guest.orders import prepare_args

USERS = [{"name": "ann", "password": "pw1", "databases": ["shop"]}, {"name": "bob", "password": "pw2"}]
DATABASES = [{"name": "shop"}, {"name": "stock"}]


class Agent:
    """One life of the part of the agent that works."""

    def __init__(self, store: Store, world: World, machine: Machine, clock: Clock) -> None:
        self.store = store
        self.world = world
        self.machine = machine
        self.journal = Journal(store)
        self.work = Work(self.journal, machine, clock, COMMANDS, lambda: None, world.renew, world.is_copied)

    @classmethod
    async def live(cls, directory: Path, world: World, clock: Clock | None = None) -> Agent:
        store = await Store.open(directory / "db")
        machine = machine_in(options_in(directory), State(store), world)
        await machine.load("7d444840-9dc0-11d1-b245-5ffdce74fad2")
        agent = cls(store, world, machine, clock or Clock())
        await machine.volume.thaw()
        await agent.work.load()
        await machine.keep_storage_open(agent.work.running)
        return agent

    async def boot(self) -> None:
        """As the agent does it, and then until nothing runs any more."""
        async with self.machine.busy:
            await self.machine.boot()
        await tidy(self.machine, lambda: self.work.running)
        await self.work.resume()
        await self.idle()
        await tidy(self.machine, lambda: self.work.running)

    async def start(self, kind: str, args: dict[str, Any], op: str = "op", *, left: float = 30.0) -> None:
        command = Start(op=op, kind=kind, args=args, deadline=time.time() + left)
        assert await self.work.start(command, 1) == Accepted()

    async def run(self, kind: str, args: dict[str, Any], op: str = "op", *, left: float = 30.0) -> Finished | None:
        """None if the power was cut."""
        await self.start(kind, args, op, left=left)
        await self.idle()
        return await self.ending(op)

    async def idle(self) -> None:
        tasks = {task for task in (self.work._resuming, *(lane.task for lane in self.work._lanes)) if task}
        if tasks:
            await asyncio.wait(tasks)

    async def until(self, name: str) -> None:
        """The world was called by that name."""
        async with asyncio.timeout(5):
            while name not in self.world.calls:
                await asyncio.sleep(0.001)

    async def ending(self, op: str = "op") -> Finished | None:
        endings = [event for event in await self.events(op) if isinstance(event, Finished)]
        assert len(endings) <= 1
        return endings[0] if endings else None

    async def events(self, op: str = "op") -> list[Progress | Finished]:
        rows = await self.store.read(
            lambda db: db.execute("SELECT body FROM event WHERE op = ? ORDER BY n", (op,)).fetchall()
        )
        return [decode_event(row[0]) for row in rows]

    async def die(self) -> None:
        for lane in self.work._lanes:
            if lane.task is not None and lane.task.done() and not lane.task.cancelled():
                lane.task.exception()
        await self.machine.close()
        await self.store.close()


async def prepared(directory: Path, world: World, clock: Clock | None = None) -> Agent:
    agent = await Agent.live(directory, world, clock)
    ending = await agent.run("prepare", prepare_args(databases=DATABASES, users=USERS), op="prepare")
    assert ending is not None
    assert ending.state == "done", ending
    world.calls.clear()
    return agent


def use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """That world's engine, and the power cut also before and after whatever is written down."""
    monkeypatch.setattr(coffer_datastores, "driver", lambda name: MemoryDriver(world, os.getuid()))
    for owner, names in (
        (JobDirectory, ("make", "put_grant", "remove")),
        (Journal, ("note", "finish")),
        (State, ("set_prepared", "set_begun_backups")),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, _mortal(world, name, _original(owner, name)))
    for name in ("make_room", "hand_over", "set_aside", "take_place", "discard"):
        monkeypatch.setattr(restoring, name, _mortal_sync(world, name, _original(restoring, name)))


_originals: dict[tuple[Any, str], Any] = {}


def _original(owner: Any, name: str) -> Any:
    """Not what an earlier world has put in its place."""
    return _originals.setdefault((owner, name), getattr(owner, name))


def _mortal(world: World, name: str, real: Any) -> Any:
    async def call(*arguments: Any, **more: Any) -> Any:
        world.step(name)
        result = await real(*arguments, **more)
        world.step(f"{name} is done")
        return result

    return call


def _mortal_sync(world: World, name: str, real: Any) -> Any:
    def call(*arguments: Any) -> None:
        world.step(name)
        real(*arguments)
        world.step(f"{name} is done")

    return call


def nothing_is_left(agent: Agent, world: World) -> None:
    """In the machine, of any backup."""
    assert world.shots == {}
    assert world.ready_for == []
    assert agent.machine.begun_backups == {}
    assert world.rules[-1].storage_port == 0
    jobs = Path(agent.machine.options.jobs_dir)
    assert not jobs.exists() or list(jobs.iterdir()) == []


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not check():
            await asyncio.sleep(0.001)
