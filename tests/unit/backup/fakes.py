"""A store in memory, a tool made of shell scripts, jobs, and a clock that only moves when somebody sleeps."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from coffer_backup.backup import back_up
from coffer_backup.errors import Damaged
from coffer_backup.job import Meter
from coffer_backup.restore import restore
from coffer_backup.store.patience import Patience
from coffer_shared.backups import BackedUp, Heard, Job

KEY = bytes(range(32))
BACKUP = "6f2b0c9e-0000-4000-8000-00000000000a"
SEGMENT, FRAME = 32 * 1024, 8 * 1024


def content(size: int, seed: int = 1) -> bytes:
    """Bytes of which zstd makes about three quarters."""
    return random.Random(seed).randbytes(size // 2 + 1).hex().encode()[:size]


@dataclass(frozen=True)
class ScriptTool:
    """`source_script` writes the backup; unpacking writes one file, `data`."""

    source_script: str
    unpack_script: str = 'cat > "$1/data"'
    expected: str = "data"

    def source(self, backup: str) -> tuple[str, ...]:
        return ("sh", "-c", self.source_script, "source", backup)

    def hear(self, line: str) -> Heard | None:
        name, _, value = line.partition("=")
        if name == "done":
            return Heard(done_bytes=int(value), total_bytes=100)
        return Heard(position=((name, value),)) if value else None

    def versions(self) -> tuple[tuple[str, ...], ...]:
        return (("zstd", "--version"),)

    def unpack(self, target: Path) -> tuple[str, ...]:
        return ("sh", "-c", self.unpack_script, "unpack", str(target))

    def check_unpacked(self, target: Path) -> None:
        if not (target / self.expected).is_file():
            raise ValueError(f"there is no {self.expected}")


@dataclass
class MemoryStore:
    objects: dict[str, bytes] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    """Of everything that was put, in order."""
    gets: list[str] = field(default_factory=list)
    before_put: Callable[[str], object] = lambda _: None
    """May raise, or return something to wait for."""
    flaky: dict[str, int] = field(default_factory=dict)
    """How many more times an object comes damaged on the way."""
    at_once: int = 0
    most_at_once: int = 0

    async def put(self, name: str, data: bytes | memoryview, md5: str) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        waiting = self.before_put(name)
        if isinstance(waiting, asyncio.Event):
            await waiting.wait()
        stored = bytes(data)
        assert hashlib.md5(stored).hexdigest() == md5
        self.objects[name] = stored
        self.names.append(name)
        self.at_once -= 1

    async def get(self, name: str, into: memoryview) -> int:
        self.gets.append(name)
        await asyncio.sleep(0)
        stored = self.objects.get(name)
        if stored is None:
            raise Damaged("there is no such object")
        if len(stored) > len(into):
            raise Damaged(f"the object is larger than {len(into)} bytes")
        if self.flaky.get(name, 0) > 0:
            self.flaky[name] -= 1
            stored = flipped(stored, len(stored) // 2)
        into[: len(stored)] = stored
        return len(stored)

    async def close(self) -> None:
        pass


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def backup_job(backup: str = BACKUP) -> Job:
    return Job("backup", backup, "postgresql", KEY.hex(), SEGMENT)


def restore_job(done: BackedUp, target: Path, backup: str = BACKUP) -> Job:
    return Job("restore", backup, "postgresql", KEY.hex(), manifest_sha256=done.manifest_sha256, target=str(target))


async def backed_up(data: bytes, directory: Path, backup: str = BACKUP) -> tuple[MemoryStore, BackedUp]:
    """A whole backup of these bytes."""
    path = directory / f"source-{backup}"
    path.write_bytes(data)
    store = MemoryStore()
    done = await back_up(backup_job(backup), KEY, ScriptTool(f"cat {path}"), store, Meter(), frame_bytes=FRAME)
    return store, done


async def restored(store: MemoryStore, job: Job, key: bytes = KEY, tool: ScriptTool | None = None) -> bytes:
    """What the restored file holds."""
    target = Path(job.target)
    target.mkdir(exist_ok=True)
    await restore(job, key, tool or ScriptTool("false"), store, Meter())
    return (target / "data").read_bytes()


class Clock:
    """Seconds pass only in `sleep`. `at` runs things when their time has come."""

    def __init__(self) -> None:
        self.time = 1000.0
        self._plans: list[tuple[float, Callable[[], None]]] = []

    def at(self, seconds: float, do: Callable[[], None]) -> None:
        self._plans.append((self.time + seconds, do))

    async def sleep(self, seconds: float) -> None:
        self.time += seconds
        for when, do in [plan for plan in self._plans if plan[0] <= self.time]:
            self._plans.remove((when, do))
            do()
        await asyncio.sleep(0)

    def patience(self) -> Patience:
        return Patience(clock=lambda: self.time, now=lambda: self.time, sleep=self.sleep)
