"""`upgrade`: the database runs the new version over its data, or the former one over the data as they were before."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from coffer_guest import still
from coffer_guest.container import Seen
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Accepted, Cancel, Engine, Failure
from unit.guest.fakes import PowerCut, World
from unit.guest.lives import Agent, prepared, use
from unit.guest.orders import prepare_args

OLD = str(prepare_args()["image"])
NEW = "registry/memory@sha256:1"
WANTED = {"version": "2", "image": NEW}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that shares nothing, as a test's is."""

    async def share(source: str, target: str) -> None:
        await asyncio.to_thread(shutil.copytree, source, target)

    monkeypatch.setattr(still, "share", share)


@pytest.fixture
async def agent(tmp_path: Path, world: World, disk: None) -> AsyncIterator[Agent]:
    world.marking = True
    made = await prepared(tmp_path, world)
    yield made
    await made.work.close()
    await made.die()


async def upgraded(agent: Agent, *, left: float = 30.0) -> tuple[str, str, str]:
    ending = await agent.run("upgrade", WANTED, left=left)
    assert ending is not None
    return ending.state, ending.code, ending.text


def recorded(agent: Agent) -> tuple[str, str]:
    return agent.machine.prepared.order.version, agent.machine.prepared.order.image


def files(agent: Agent) -> dict[str, str]:
    """Of the engine, and whatever lies beside them, by the directory."""
    return {
        f"{path.parent.name}/{path.name}": path.read_text()
        for path in Path(agent.machine.options.data_dir).rglob("*") if path.is_file()
    }


def of(image: str) -> dict[str, str]:
    return {"engine/image": image, "engine/new": "0"}


async def runs(agent: Agent, image: str) -> bool:
    state = (await agent.machine.monitor.check()).engine
    return (agent.machine.containers.world.image, state) == (image, Engine.HEALTHY)  # type: ignore[attr-defined]


async def test_the_new_image_runs_over_the_same_data(agent: Agent, world: World) -> None:
    assert await upgraded(agent) == ("done", "", "")
    assert (recorded(agent), files(agent)) == (("2", NEW), of(NEW))
    assert await runs(agent, NEW)
    calls = world.calls
    assert calls.index("pull") < calls.index("stop"), "it is fetched while the database serves"


async def test_asked_again_it_does_nothing(agent: Agent, world: World) -> None:
    await upgraded(agent)
    world.calls.clear()
    ending = await agent.run("upgrade", WANTED, "again")
    assert ending is not None
    assert ending.state == "done"
    assert not {"stop", "start", "pull"} & set(world.calls)


async def test_what_does_not_stay_up_is_taken_back_with_what_it_did_to_the_data(agent: Agent, world: World) -> None:
    world.crashing = {NEW}
    state, code, text = await upgraded(agent)
    assert (state, code) == ("failed", "engine")
    assert "last words" in text
    assert (recorded(agent), files(agent)) == (("1", OLD), of(OLD))
    assert await runs(agent, OLD)


async def test_what_does_not_become_healthy_in_time_is_taken_back(agent: Agent, world: World) -> None:
    world.hanging = {NEW}
    state, code, _ = await upgraded(agent, left=1.0)
    assert (state, code) == ("failed", "deadline")
    assert (recorded(agent), files(agent)) == (("1", OLD), of(OLD))
    assert await runs(agent, OLD)


async def test_one_that_is_cancelled_is_taken_back(agent: Agent, world: World) -> None:
    world.slow["start"] = 0.1
    await agent.start("upgrade", WANTED)
    await agent.until("start")
    assert await agent.work.cancel(Cancel(op="op"), 1) == Accepted()
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "cancelled"
    assert (recorded(agent), files(agent)) == (("1", OLD), of(OLD))
    assert await runs(agent, OLD)


async def test_an_image_that_is_not_to_be_had_changes_nothing(agent: Agent, world: World) -> None:
    world.broken["pull"] = EngineError(Failure.IMAGE, "no such image")
    assert (await upgraded(agent))[0] == "failed"
    assert recorded(agent) == ("1", OLD)
    assert await runs(agent, OLD)


async def test_a_disk_that_shares_nothing_is_refused_and_the_database_runs_on(
    agent: Agent, world: World, monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refuse(source: str, target: str) -> None:
        raise EngineError(Failure.VOLUME, "Operation not supported")

    monkeypatch.setattr(still, "share", refuse)
    assert await upgraded(agent) == ("failed", Failure.VOLUME, "Operation not supported")
    assert (recorded(agent), files(agent)) == (("1", OLD), of(OLD))
    assert await runs(agent, OLD)


async def test_a_database_that_is_not_healthy_is_left_alone(agent: Agent, world: World) -> None:
    await agent.run("stop", {}, "stop")
    world.calls.clear()
    state, code, _ = await upgraded(agent)
    assert (state, code) == ("failed", "not_ready")
    assert not {"start", "pull"} & set(world.calls)


async def test_once_it_was_healthy_there_is_no_way_back(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, disk: None,
) -> None:
    """Part of the copy is gone already, and tenants may have written."""
    use(world, monkeypatch)
    world.marking = True
    agent = await prepared(tmp_path, world)
    discard = still.discard

    async def cut(directory: str) -> None:
        if NEW in world.image:
            (Path(directory) / "new").unlink()
            world.dead = True
            raise PowerCut
        await discard(directory)

    monkeypatch.setattr(still, "discard", cut)
    await agent.run("upgrade", WANTED)
    await agent.die()
    monkeypatch.setattr(still, "discard", discard)
    world.revive()
    world.crashing, world.container = {NEW}, Seen(exists=True, status="exited", exit_code=137)
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "done"
    assert (recorded(agent), files(agent)) == (("2", NEW), of(NEW))
    await agent.die()


@pytest.mark.parametrize("crashing", [False, True], ids=["good", "bad"])
async def test_weakness_18_the_power_is_cut_at_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: None, crashing: bool,
) -> None:
    """The former image never runs on what the new one has touched, and in the end one of the two is there, whole."""
    for cut in range(1, 200):
        world, place = World(marking=True), tmp_path / str(cut)
        use(world, monkeypatch)
        agent = await prepared(place, world)
        world.crashing = {NEW} if crashing else set()
        world.fuse = cut
        ending = await agent.run("upgrade", WANTED)
        await agent.die()
        if not world.dead:
            assert ending is not None
            assert cut > 10
            return
        world.revive()
        agent = await Agent.live(place, world)
        with suppress(GiveUp):  # while the data are not in their place
            async with agent.machine.busy:
                await agent.machine.boot()
        await agent.work.resume()
        await agent.idle()
        ending = await agent.ending()
        assert ending is not None
        assert (ending.state == "failed") is crashing, (cut, ending)
        image = OLD if crashing else NEW
        assert (recorded(agent)[1], files(agent)) == (image, of(image)), cut
        assert await runs(agent, image), cut
        assert (OLD, NEW) not in world.files_of, cut
        await agent.die()
    raise AssertionError("the command never ends")
