"""A machine without Docker, volume or firewall; the rest of it is real. Its datastore is in `memory_driver`."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from coffer_guest.container import Seen
from coffer_guest.containers import Containers, Progress
from coffer_guest.firewall import Firewall, Rules
from coffer_guest.machine import Machine
from coffer_guest.oneshot import OneShot
from coffer_guest.options import Options
from coffer_guest.state import State
from coffer_guest.volume import Volume
from coffer_shared.backups import Grant
from coffer_shared.datastore import ContainerSpec, Database, NewUser, Setting
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure, VolumeFacts
from unit.guest.orders import grant
from unit.guest.shots import Shot, all_done, half_done, nothing_done


class PowerCut(BaseException):
    """Nothing of the agent runs after it."""


@dataclass
class World:
    """What survives the agent: the engine, its container, the disk."""

    databases: dict[str, Database] = field(default_factory=dict)
    users: dict[str, NewUser] = field(default_factory=dict)
    root: str = ""
    secured: int = 0
    container: Seen = field(default_factory=Seen)
    mounted: str = ""
    pulled: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    rules: list[Rules] = field(default_factory=list)
    slow: dict[str, float] = field(default_factory=dict)
    """Seconds that a call takes, by its name."""
    broken: dict[str, Exception] = field(default_factory=dict)
    fuse: int = 0
    """The power is cut at that many calls from now; 0: never."""
    dead: bool = False
    data: str = ""
    """The engine's directory."""
    memory: int = 0
    """That the engine's container was made with, in bytes."""
    image: str = ""
    """The same."""
    crashing: set[str] = field(default_factory=set)
    """Images with which the engine does not stay up."""
    hanging: set[str] = field(default_factory=set)
    """Images with which it does not become healthy."""
    marking: bool = False
    """The engine leaves its image's name in its files."""
    files_of: list[tuple[str, str]] = field(default_factory=list)
    """For each start of the engine its image, and the image that the files were of before it."""
    started_on: list[list[str]] = field(default_factory=list)
    """What was in it at each start of the engine."""
    ready_for: list[str] = field(default_factory=list)
    """Backups that the engine holds something for."""
    shots: dict[str, Shot] = field(default_factory=dict)
    ran: list[Shot] = field(default_factory=list)
    """Every one-shot container that was ever started."""
    program: tuple[Callable[[Shot], None], ...] = (half_done, nothing_done, all_done)
    renewals: list[str] = field(default_factory=list)
    renewed: Any = None
    """The next grant, or an exception; None for one of 30 seconds."""
    frozen: bool = False
    """Whether the volume stands still."""
    asked: list[tuple[str, bool]] = field(default_factory=list)
    """Operations for which it was asked whether the volume is copied, and whether it stood still then."""
    copied: Callable[[], bool] = lambda: True
    """What is answered."""
    adoptions: int = 0
    settings: dict[str, Setting] = field(default_factory=dict)
    """That the engine runs with."""

    async def call(self, name: str) -> None:
        self.step(name)
        await asyncio.sleep(self.slow.get(name, 0))
        if name in self.broken:
            raise self.broken[name]

    def step(self, name: str) -> None:
        self.calls.append(name)
        self.fuse -= 1
        self.dead = self.dead or self.fuse == 0
        if self.dead:
            raise PowerCut

    def revive(self) -> None:
        self.fuse, self.dead = 0, False

    def restart_machine(self, options: Options) -> None:
        """What was in memory is gone, nothing runs, nothing is mounted."""
        self.revive()
        shutil.rmtree(options.jobs_dir, ignore_errors=True)
        self.mounted = ""
        self.frozen = False
        if self.container.running:
            self.container = Seen(exists=True, status="exited", exit_code=137)
        for shot in self.shots.values():
            if shot.seen.running:
                shot.end(137)

    async def renew(self, operation: str) -> Grant:
        self.renewals.append(operation)
        if isinstance(self.renewed, Exception):
            raise self.renewed
        return self.renewed or grant()

    async def is_copied(self, operation: str) -> bool:
        self.asked.append((operation, self.frozen))
        await self.call("ask")
        return self.copied()


class MemoryOneShot(OneShot):
    def __init__(self, world: World, role: str, operation: str) -> None:
        self.world = world
        self.role = role
        self.operation = operation
        self.name = f"{role}-{operation}"

    async def make(self, spec: ContainerSpec, job: Path) -> None:
        await self.world.call("make_job")
        assert self.name not in self.world.shots
        self.world.shots[self.name] = Shot(self.role, self.operation, spec, job)

    async def start(self) -> None:
        await self.world.call("start_job")
        shot = self.world.shots[self.name]
        assert not shot.seen.started_at, "a one-shot container is started once"
        shot.seen = replace(shot.seen, running=True, status="running", started_at=time.time())
        shot.steps = list(self.world.program)
        self.world.ran.append(shot)
        shot.go_on()
        await self.world.call("started_job")

    async def stop(self, seconds: int) -> None:
        await self.world.call("stop_job")
        shot = self.world.shots.get(self.name)
        if shot is not None and shot.seen.running:
            shot.end(143)

    async def remove(self) -> None:
        await self.world.call("remove_job")
        shot = self.world.shots.pop(self.name, None)
        if shot is not None:
            shot.end(137)

    async def look(self) -> Seen:
        await self.world.call("look_job")
        if self.name in self.world.shots:
            self.world.shots[self.name].go_on()
        shot = self.world.shots.get(self.name)
        return shot.seen if shot is not None else Seen()


class MemoryContainers(Containers):
    def __init__(self, world: World) -> None:
        self.world = world

    async def ready(self, seconds: float) -> None:
        pass

    async def pull(self, image: str, progress: Progress) -> None:
        if image in self.world.pulled:
            return
        await progress(50, "pulling the image: 1 of 2 MiB")
        await self.world.call("pull")
        self.world.pulled.add(image)

    async def ensure(self, spec: ContainerSpec, *, memory_bytes: int) -> bool:
        await self.world.call("ensure")
        self.world.data = spec.binds[0][0]
        if self.world.container.exists and (self.world.memory, self.world.image) == (memory_bytes, spec.image):
            return False
        if self.world.container.running:
            await self.stop(spec.stop_seconds)
        self.world.memory, self.world.image = memory_bytes, spec.image
        self.world.container = Seen(exists=True, status="created")
        return True

    async def start(self) -> None:
        await self.world.call("start")
        if not self.world.container.running:
            data = Path(self.world.data)
            if not data.exists():
                raise GiveUp(Failure.ENGINE, f"starting the container: {data} does not exist")
            self.world.started_on.append(sorted(path.name for path in data.iterdir()))
            if not self.world.started_on[-1]:
                (data / "new").write_text("0")
            image = self.world.image
            if self.world.marking:
                of = data / "image"
                self.world.files_of.append((image, of.read_text() if of.exists() else image))
                of.write_text(image)
            if image in self.world.crashing:
                self.world.container = Seen(exists=True, status="exited", exit_code=1, restarts=3, started_at=1.0)
            else:
                self.world.container = Seen(exists=True, running=True, status="running", started_at=time.time())

    async def hold(self) -> None:
        await self.world.call("hold")
        self.world.container = replace(self.world.container, status="paused")
        await self.world.call("held")

    async def let_go(self) -> None:
        await self.world.call("let_go")
        if self.world.container.status == "paused":
            self.world.container = replace(self.world.container, status="running")

    async def stop(self, seconds: int) -> None:
        await self.world.call("stop")
        if self.world.container.running:
            self.world.container = Seen(exists=True, status="exited", started_at=self.world.container.started_at)

    async def remove(self) -> None:
        await self.world.call("remove")
        self.world.container = Seen()

    async def look(self) -> Seen:
        return self.world.container

    def one_shot(self, role: str, operation: str) -> OneShot:
        return MemoryOneShot(self.world, role, operation)

    async def one_shots(self) -> list[OneShot]:
        await self.world.call("one_shots")
        return [self.one_shot(shot.role, shot.operation) for shot in self.world.shots.values()]

    async def last_words(self, lines: int = 20) -> str:
        return "last words"

    async def changes(self) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield ""

    async def close(self) -> None:
        pass


class MemoryVolume(Volume):
    def __init__(self, options: Options, world: World) -> None:
        super().__init__(options)
        self.world = world

    async def ensure_mounted(self, fs_uuid: str, *, may_format: bool) -> None:
        await self.world.call("format" if may_format else "mount")
        Path(self._mount).mkdir(parents=True, exist_ok=True)
        self.world.mounted = fs_uuid

    async def grow(self, to_bytes: int) -> None:
        await self.world.call("grow")

    async def freeze(self, seconds: float) -> None:
        assert seconds > 0
        try:
            await self.world.call("freeze")
        finally:
            self.world.frozen = "freeze" not in self.world.broken
        await self.world.call("frozen")

    async def thaw(self) -> bool:
        if not self.world.frozen:
            return False
        await self.world.call("thaw")
        self.world.frozen = False
        return True

    async def facts(self) -> VolumeFacts:
        return VolumeFacts(1000, 100, self.world.mounted) if self.world.mounted else VolumeFacts()


class MemoryFirewall(Firewall):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    async def apply(self, rules: Rules) -> None:
        self.world.rules.append(rules)


def options_in(directory: Path, **changes: Any) -> Options:
    values: dict[str, Any] = {
        "state_dir": str(directory / "state"),
        "data_dir": str(directory / "data"),
        "user_data": str(directory / "user-data.json"),
        "jobs_dir": str(directory / "run" / "coffer" / "jobs"),
        "heartbeat_seconds": 0.2,
        "health_seconds": 0.1,
        **changes,
    }
    return Options(**values)


def machine_in(options: Options, state: State, world: World) -> Machine:
    return Machine(options, state, MemoryContainers(world), MemoryVolume(options, world), MemoryFirewall(world))


class Held:
    """A program that runs until it is let go."""

    def __init__(self, then: Callable[[Shot], None]) -> None:
        self._released = False
        self._then = then

    def release(self) -> None:
        self._released = True

    def look(self, shot: Shot) -> None:
        if self._released:
            self._then(shot)
        else:
            shot.steps.append(self.look)


def held(world: World, then: Callable[[Shot], None] = all_done) -> Held:
    """The program of the next container."""
    made = Held(then)
    world.program = (half_done, made.look)
    return made
