from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import coffer_datastores
from coffer_guest import agent
from integration.guest.control_plane import QUICK, ControlPlane
from integration.guest.disk_host import PROGRAMS, ROOT, DiskHost
from support.nats_server import NatsServer
from unit.guest.fakes import World, machine_in, options_in
from unit.guest.memory_driver import MemoryDriver
from unit.guest.orders import NAME


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    made = NatsServer.start(tmp_path)
    yield made
    made.kill()


@pytest.fixture
async def plane(server: NatsServer, tmp_path: Path) -> AsyncIterator[ControlPlane]:
    made = ControlPlane(server, str(uuid.uuid4()))
    await made.start()
    made.write_user_data(tmp_path / "user-data.json")
    yield made
    await made.close()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("coffer_guest.commands.job._POLL_SECONDS", 0.01)
    monkeypatch.setattr("coffer_guest.commands.backup._TRY_SECONDS", 0.01)
    monkeypatch.setattr("coffer_guest.commands.snapshot._ASK_SECONDS", 0.02)
    monkeypatch.setattr("coffer_guest.jobs.STORAGE_GID", os.getgid())
    monkeypatch.setattr("coffer_guest.commands.prepare.STORAGE_GID", os.getgid())
    made = World()
    driver = MemoryDriver(made, os.getuid())
    real = coffer_datastores.driver
    monkeypatch.setattr(coffer_datastores, "driver", lambda name: driver if name == NAME else real(name))
    return made


class Guest:
    """The whole agent, on a machine in memory; it can end in order, or as if it had been killed."""

    def __init__(self, directory: Path, world: World) -> None:
        self.options = options_in(directory)
        self.world = world
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(
            agent.run(self.options, lambda options, state: machine_in(options, state, self.world), self._stop, QUICK)
        )

    async def stop(self) -> None:
        """As with SIGTERM."""
        assert self._task is not None
        self._stop.set()
        async with asyncio.timeout(10):
            await self._task
        self._task = None

    async def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=10)
            self._task = None

    @property
    def ended(self) -> bool:
        return self._task is not None and self._task.done()


@pytest.fixture
async def guest(tmp_path: Path, world: World) -> AsyncIterator[Guest]:
    made = Guest(tmp_path, world)
    yield made
    await made.kill()


@pytest.fixture(scope="session")
def disk_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a machine with a disk is set up by."""
    place = tmp_path_factory.mktemp("programs")
    for name, line in PROGRAMS.items():
        program = place / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{place}:{ROOT / 'deploy/images/machine'}:{os.environ['PATH']}")
        yield


@pytest.fixture
async def hosts(disk_programs: None) -> AsyncIterator[Callable[[], DiskHost]]:
    """Machines with a disk, which is to be made."""
    del disk_programs
    made: list[DiskHost] = []

    def make() -> DiskHost:
        made.append(DiskHost())
        return made[-1]

    yield make
    for host in made:
        if hasattr(host, "work"):
            await host.die()
        await host.remove()
