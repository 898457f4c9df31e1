"""A copy of the engine's files while its container is held, with a `cp` that does as it is told."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from aiodocker.exceptions import DockerError

from coffer_guest import still
from coffer_guest.container import Seen
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure
from unit.guest.fakes import MemoryContainers, World
from unit.guest.lives import Agent, prepared

CP = """#!/bin/sh
# What it is asked to do is done by the real one, which shares nothing on a file system of any sort.
echo "$*" >>"{place}/asked"
[ ! -e "{place}/slow" ] || exec sleep 60
[ ! -e "{place}/full" ] || {{ echo "cp: cannot create 'x': No space left on device" >&2; exit 1; }}
exec /bin/cp -a "$3" "$4"
"""


@pytest.fixture
def cp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where it is told what to do."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "cp").write_text(CP.format(place=place))
    (place / "cp").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, world: World) -> World:
    """With an engine that runs."""
    monkeypatch.setattr(still, "_LET_GO_SECONDS", 0.001)
    world.container = Seen(exists=True, running=True, status="running")
    return world


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = tmp_path / "engine" / "data"
    made.mkdir(parents=True)
    (made / "t.ibd").write_text("rows")
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "engine" / "copies" / "6f2b"


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not check():
            await asyncio.sleep(0.001)


async def test_it_is_held_while_its_files_are_copied(world: World, cp: Path, source: Path, target: Path) -> None:
    await still.copy(MemoryContainers(world), str(source), str(target))
    assert world.calls == ["hold", "held", "let_go"]
    assert world.container.status == "running"
    assert (target / "t.ibd").read_text() == "rows"
    assert (cp / "asked").read_text() == f"--archive --reflink=always {source} {target}\n"


async def test_a_second_copy_beside_the_first_is_another(world: World, cp: Path, source: Path, target: Path) -> None:
    assert cp.is_dir()
    await still.copy(MemoryContainers(world), str(source), str(target))
    (source / "t.ibd").write_text("more rows")
    other = target.with_name("other")
    await still.copy(MemoryContainers(world), str(source), str(other))
    assert [(one / "t.ibd").read_text() for one in (target, other)] == ["rows", "more rows"]
    await still.discard(str(target))
    assert not target.exists()
    assert (other / "t.ibd").exists()
    await still.discard(str(target))


# --- it is let go whatever happens ---


@pytest.fixture
def sharing_nothing() -> Iterator[Path]:
    """A file system that cannot: files in memory have none to share."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        (Path(directory) / "data").mkdir()
        (Path(directory) / "data" / "t").write_text("rows")
        yield Path(directory)


async def test_where_files_cannot_be_shared_it_is_refused(world: World, sharing_nothing: Path) -> None:
    source, target = sharing_nothing / "data", sharing_nothing / "copies" / "x"
    with pytest.raises(EngineError, match="cannot be copied") as raised:
        await still.copy(MemoryContainers(world), str(source), str(target))
    assert raised.value.code == Failure.VOLUME
    assert world.calls == ["hold", "held", "let_go"]
    assert world.container.status == "running"


async def test_what_the_system_says_against_it_is_told(world: World, cp: Path, source: Path, target: Path) -> None:
    (cp / "full").touch()
    with pytest.raises(EngineError, match="No space left on device") as raised:
        await still.copy(MemoryContainers(world), str(source), str(target))
    assert raised.value.code == Failure.VOLUME
    assert world.container.status == "running"


async def test_a_copy_that_takes_too_long_is_given_up(
    world: World, cp: Path, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(still, "_MOST_SECONDS", 0.05)
    (cp / "slow").touch()
    with pytest.raises(EngineError, match="did not end within") as raised:
        await still.copy(MemoryContainers(world), str(source), str(target))
    assert raised.value.code == Failure.VOLUME
    assert world.container.status == "running"


async def test_without_the_program_it_is_let_go_too(
    world: World, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(EngineError, match="not installed"):
        await still.copy(MemoryContainers(world), str(source), str(target))
    assert world.container.status == "running"


async def test_one_that_docker_does_not_hold_is_not_copied(world: World, cp: Path, source: Path, target: Path) -> None:
    world.broken["hold"] = GiveUp(Failure.ENGINE, "holding the container: it does not run")
    with pytest.raises(GiveUp, match="does not run"):
        await still.copy(MemoryContainers(world), str(source), str(target))
    assert world.calls == ["hold", "let_go"]
    assert not (cp / "asked").exists()


async def test_cancelled_while_files_are_copied_it_is_let_go(
    world: World, cp: Path, source: Path, target: Path
) -> None:
    (cp / "slow").touch()
    copying = asyncio.create_task(still.copy(MemoryContainers(world), str(source), str(target)))
    await until((cp / "asked").exists)
    assert world.container.status == "paused"
    copying.cancel()
    await asyncio.wait({copying})
    assert copying.cancelled()
    assert world.container.status == "running"


async def test_cancelled_again_while_docker_is_silent_it_is_let_go_later(
    world: World, cp: Path, source: Path, target: Path
) -> None:
    (cp / "slow").touch()
    world.broken["let_go"] = aiohttp.ClientConnectionError("no answer")
    copying = asyncio.create_task(still.copy(MemoryContainers(world), str(source), str(target)))
    await until((cp / "asked").exists)
    copying.cancel()
    await until(lambda: world.calls.count("let_go") > 1)
    copying.cancel()
    await asyncio.wait({copying})
    assert world.container.status == "paused"
    world.broken.clear()
    await until(lambda: world.container.status == "running")


class Slow(MemoryContainers):
    """Docker, which ends what it was asked to do although nobody waits for it."""

    asked: asyncio.Task[None] | None = None

    async def hold(self) -> None:
        self.asked = asyncio.create_task(super().hold())
        await asyncio.shield(self.asked)


async def test_cancelled_while_docker_is_at_holding_it_it_is_let_go_after_that(
    world: World, cp: Path, source: Path, target: Path
) -> None:
    containers = Slow(world)
    world.slow["hold"] = 0.05
    copying = asyncio.create_task(still.copy(containers, str(source), str(target)))
    await until(lambda: "hold" in world.calls)
    copying.cancel()
    await asyncio.wait({copying})
    assert copying.cancelled()
    assert containers.asked is not None
    await containers.asked
    await until(lambda: world.container.status == "running")
    assert not (cp / "asked").exists()


# --- letting go ---


@pytest.mark.parametrize(
    "error",
    [
        GiveUp(Failure.ENGINE, "no"),
        DockerError(500, "no"),
        aiohttp.ClientConnectionError("no answer"),
        TimeoutError(),
        FileNotFoundError("no socket"),
    ],
)
async def test_it_is_tried_until_docker_answers(world: World, error: Exception) -> None:
    world.container = Seen(exists=True, running=True, status="paused")
    world.broken["let_go"] = error
    letting = asyncio.create_task(still.let_go(MemoryContainers(world)))
    await until(lambda: world.calls.count("let_go") > 3)
    assert not letting.done()
    world.broken.clear()
    async with asyncio.timeout(5):
        await letting
    assert world.container.status == "running"


async def test_an_engine_that_is_not_held_is_left_alone(world: World) -> None:
    before = world.container
    await still.let_go(MemoryContainers(world))
    assert world.container == before
    world.container = Seen()
    await still.let_go(MemoryContainers(world))
    assert world.container == Seen()


async def test_what_an_agent_left_held_the_next_lets_go_before_anything_else(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    await agent.die()
    world.container = Seen(exists=True, running=True, status="paused", started_at=world.container.started_at)
    agent = await Agent.live(tmp_path, world)
    world.calls.clear()
    await agent.boot()
    engine = [call for call in world.calls if call in {"let_go", "mount", "pull", "ensure", "start", "stop", "remove"}]
    assert engine[0] == "let_go"
    assert {"mount", "ensure", "start"} <= set(engine)
    assert world.container.status == "running"
    await agent.die()
