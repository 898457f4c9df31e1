"""`configure`: the engine and the record have the new settings, or both the former ones, however the command ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import coffer_datastores
from coffer_shared.datastore import EngineError
from coffer_shared.messages import Accepted, Cancel, Failure
from unit.guest.fakes import World
from unit.guest.lives import Agent, prepared, use
from unit.guest.memory_driver import MemoryDriver

FORMER: dict[str, Any] = {"one": 1, "gone": True}
NEW: dict[str, Any] = {"one": 2, "fixed_one": "x"}


@pytest.fixture
async def agent(tmp_path: Path, world: World) -> AsyncIterator[Agent]:
    made = await prepared(tmp_path, world)
    await configured(made, FORMER, op="before")
    world.calls.clear()
    yield made
    await made.work.close()
    await made.die()


async def configured(agent: Agent, settings: dict[str, Any], *, op: str = "op") -> tuple[str, str, str]:
    ending = await agent.run("configure", {"settings": settings}, op)
    assert ending is not None
    return ending.state, ending.code, ending.text


def recorded(agent: Agent) -> dict[str, Any]:
    return agent.machine.prepared.order.settings


async def test_what_acts_at_once_and_what_waits_for_a_start(agent: Agent, world: World) -> None:
    assert await configured(agent, NEW) == ("done", "", "")
    assert (world.settings, recorded(agent), agent.machine.waiting) == (NEW, NEW, ["fixed_one"])
    assert agent.machine.prepared.proven == FORMER, "it was not started with the new ones yet"
    await agent.run("restart", {}, "restart")
    assert (agent.machine.waiting, agent.machine.prepared.proven) == ([], NEW)


async def test_what_still_waits_is_looked_at_again(agent: Agent, world: World) -> None:
    await configured(agent, NEW)
    await configured(agent, {**NEW, "one": 3}, op="again")
    assert agent.machine.waiting == ["fixed_one"]


@pytest.mark.parametrize("how", ["refused", "unanswered"])
async def test_what_the_engine_refuses_leaves_all_as_it_was(agent: Agent, world: World, how: str) -> None:
    if how == "unanswered":
        world.broken["reconfigured"] = EngineError(Failure.NOT_READY, "no answer")
    state, code, _ = await configured(agent, {**NEW, "two": "bad"} if how == "refused" else NEW)
    assert (state, code) == ("failed", "invalid" if how == "refused" else "not_ready")
    assert (world.settings, recorded(agent), agent.machine.waiting) == (FORMER, FORMER, [])


async def test_one_that_is_cancelled_is_taken_back(agent: Agent, world: World) -> None:
    world.slow["reconfigured"] = 0.1
    await agent.start("configure", {"settings": NEW})
    await agent.until("reconfigure")
    assert await agent.work.cancel(Cancel(op="op"), 1) == Accepted()
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "cancelled"
    assert (world.settings, recorded(agent)) == (FORMER, FORMER)


async def test_a_stopped_database_gets_them_with_its_next_start(agent: Agent, world: World) -> None:
    await agent.run("stop", {}, "stop")
    assert await configured(agent, NEW) == ("done", "", "")
    assert (recorded(agent), agent.machine.waiting) == (NEW, [])
    assert "reconfigure" not in world.calls


async def test_an_engine_without_configuration_refuses(
    agent: Agent, world: World, monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Plain(MemoryDriver):
        reconfigure = None  # type: ignore[assignment]

    monkeypatch.setattr(coffer_datastores, "driver", lambda name: Plain(world, 0))
    assert await configured(agent, NEW) == ("failed", "invalid", "memory has no configuration")
    assert recorded(agent) == FORMER


async def test_the_power_is_cut_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cut in range(1, 100):
        world, place = World(), tmp_path / str(cut)
        use(world, monkeypatch)
        agent = await prepared(place, world)
        world.fuse = cut
        ending = await agent.run("configure", {"settings": NEW})
        await agent.die()
        if not world.dead:
            assert ending is not None
            assert cut > 4
            return
        world.revive()
        agent = await Agent.live(place, world)
        await agent.boot()
        ending = await agent.ending()
        assert ending is not None
        assert ending.state == "done", (cut, ending)
        assert (world.settings, recorded(agent), agent.machine.waiting) == (NEW, NEW, ["fixed_one"]), cut
        await agent.die()
    raise AssertionError("the command never ends")
