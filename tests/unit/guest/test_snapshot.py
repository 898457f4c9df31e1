"""`snapshot`: the volume stands still until it is copied, and never longer, however the command ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import coffer_datastores
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp, Unavailable
from coffer_shared.messages import Accepted, Cancel, Failure, Finished, Progress, Refused, Start
from unit.guest.fakes import World
from unit.guest.lives import Agent, prepared, until
from unit.guest.memory_driver import MemoryDriver
from unit.guest.orders import backup_args, prepare_args

ARGS = {"seconds": 30.0}


@pytest.fixture
async def agent(tmp_path: Path, world: World) -> AsyncIterator[Agent]:
    made = await prepared(tmp_path, world)
    yield made
    await made.work.close()
    await made.die()


async def ended(agent: Agent, args: dict[str, Any] | None = None, *, left: float = 30.0) -> tuple[str, str, str]:
    ending = await agent.run("snapshot", args or ARGS, left=left)
    assert isinstance(ending, Finished)
    return ending.state, ending.code, ending.text


def answers(*given: Any) -> Any:
    """One after the other; exceptions are raised."""
    left = list(given)

    def answer() -> bool:
        found = left.pop(0)
        if isinstance(found, Exception):
            raise found
        return bool(found)

    return answer


# --- as it should go ---


async def test_the_volume_stands_still_while_it_is_copied_and_goes_on_afterwards(agent: Agent, world: World) -> None:
    world.copied = answers(False, False, True)
    ending = await agent.run("snapshot", ARGS)
    assert ending is not None
    assert (ending.state, ending.result) == ("done", {"used_bytes": 100})
    assert world.asked == [("op", True)] * 3
    assert not world.frozen
    order = ["before_snapshot", "freeze", "frozen", "ask", "ask", "ask", "thaw"]
    assert [name for name in world.calls if name in order] == order
    told = [event for event in await agent.events() if isinstance(event, Progress)]
    assert [event.percent for event in told] == sorted(event.percent for event in told)
    assert told[-1].text == "waiting for the copy of the volume"


async def test_a_silent_control_plane_is_asked_again(agent: Agent, world: World) -> None:
    world.copied = answers(Unavailable("not connected"), Unavailable("not connected"), True)
    assert await ended(agent) == ("done", "", "")
    assert len(world.asked) == 3


async def test_other_commands_run_meanwhile_and_a_backup_does_not(agent: Agent, world: World) -> None:
    copied: list[bool] = []
    world.copied = lambda: bool(copied)
    await agent.start("snapshot", ARGS, "one")
    await agent.until("ask")
    await agent.start("create_users", {"users": [{"name": "cyd", "password": "pw"}]}, "user")
    await until(lambda: "cyd" in world.users)
    for kind, args in (("backup", backup_args()), ("snapshot", ARGS)):
        refused = await agent.work.start(Start(op="two", kind=kind, args=args, deadline=9e9), 1)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.text) == (Failure.BUSY, "snapshot runs (operation one)")
    copied.append(True)
    await agent.idle()
    ending = await agent.ending("one")
    assert ending is not None
    assert ending.state == "done"


# --- refusals: nothing stands still ---


async def test_an_unhealthy_database_is_refused(agent: Agent, world: World) -> None:
    await agent.run("stop", {}, "stop")
    assert await ended(agent) == ("failed", "not_ready", "the database is not healthy (stopped)")
    assert "freeze" not in world.calls


async def test_a_database_that_is_not_made_yet_is_refused(tmp_path: Path, world: World) -> None:
    agent = await Agent.live(tmp_path, world)
    world.broken["secure"] = GiveUp("engine", "no")
    await agent.run("prepare", prepare_args(), "prepare")
    state, code, _ = await ended(agent)
    assert (state, code) == ("failed", "not_ready")
    assert "freeze" not in world.calls
    await agent.die()


async def test_an_engine_without_snapshots_is_refused(
    agent: Agent, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(MemoryDriver):
        before_snapshot = None  # type: ignore[assignment]

    monkeypatch.setattr(coffer_datastores, "driver", lambda name: Plain(world, 0))
    assert await ended(agent) == ("failed", "invalid", "memory has no snapshots")
    assert "freeze" not in world.calls


async def test_an_engine_that_cannot_write_out_ends_it_before(agent: Agent, world: World) -> None:
    world.broken["before_snapshot"] = EngineError("not_ready", "the server does not answer")
    assert await ended(agent) == ("failed", "not_ready", "the server does not answer")
    assert "freeze" not in world.calls


@pytest.mark.parametrize("seconds", [0, -1, 601])
async def test_a_time_that_is_none_is_refused(agent: Agent, seconds: float) -> None:
    refused = await agent.work.start(Start(op="op", kind="snapshot", args={"seconds": seconds}, deadline=9e9), 1)
    assert isinstance(refused, Refused)
    assert refused.code == Failure.INVALID


# --- failures: it goes on at once ---


async def test_a_volume_that_cannot_be_held_is_told(agent: Agent, world: World) -> None:
    world.broken["freeze"] = GiveUp("volume", "fsfreeze: /data: freeze failed: Operation not supported")
    assert await ended(agent) == ("failed", "volume", "fsfreeze: /data: freeze failed: Operation not supported")
    assert world.asked == []
    assert not world.frozen


async def test_a_gap_makes_the_copy_worthless(agent: Agent, world: World) -> None:
    """Something else let the volume go before the copy was made."""

    def copied() -> bool:
        world.frozen = False
        return True

    world.copied = copied
    assert await ended(agent) == ("failed", "volume", "the volume did not stand still until it was copied")


async def test_when_the_time_is_over_it_goes_on(agent: Agent, world: World) -> None:
    world.copied = lambda: False
    assert await ended(agent, {"seconds": 0.1}) == ("failed", "volume", "the volume was not copied within 0.1 s")
    assert len(world.asked) > 1
    assert not world.frozen


async def test_the_time_counts_from_before_the_freeze(agent: Agent, world: World) -> None:
    world.slow["freeze"] = 60
    assert await ended(agent, {"seconds": 0.1}) == ("failed", "volume", "the volume was not copied within 0.1 s")
    assert world.asked == []
    assert not world.frozen


async def test_a_question_that_takes_long_does_not_keep_it(agent: Agent, world: World) -> None:
    world.slow["ask"] = 60
    state, code, _ = await ended(agent, {"seconds": 0.1})
    assert (state, code) == ("failed", "volume")
    assert not world.frozen


async def test_a_denial_ends_it_with_that_code(agent: Agent, world: World) -> None:
    world.copied = answers(False, GiveUp("not_found", "no such operation"))
    assert await ended(agent) == ("failed", "not_found", "no such operation")
    assert not world.frozen


async def test_at_its_deadline_it_goes_on(agent: Agent, world: World) -> None:
    world.copied = lambda: False
    assert await ended(agent, left=0.2) == ("failed", "deadline", "the deadline passed")
    assert world.asked
    assert not world.frozen


@pytest.mark.parametrize("when", ["before_snapshot", "freeze", "frozen", "ask"])
async def test_cancelled_it_goes_on_at_once(agent: Agent, world: World, when: str) -> None:
    world.slow[when] = 60
    world.slow["thaw"] = 0.05
    await agent.start("snapshot", ARGS)
    await agent.until(when)
    assert await agent.work.cancel(Cancel(op="op"), 1) == Accepted()
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "cancelled"
    assert not world.frozen


async def test_cancelled_while_it_lets_go_it_lets_go(agent: Agent, world: World) -> None:
    world.slow["thaw"] = 0.05
    await agent.start("snapshot", ARGS)
    await agent.until("thaw")
    assert await agent.work.cancel(Cancel(op="op"), 1) == Accepted()
    await agent.idle()
    assert not world.frozen


# --- the agent ends ---


async def test_an_agent_that_ends_in_order_lets_go_and_the_next_one_says_that_it_failed(
    tmp_path: Path, world: World
) -> None:
    world.copied = lambda: False
    agent = await prepared(tmp_path, world)
    await agent.start("snapshot", ARGS)
    await agent.until("ask")
    await agent.work.close()
    assert not world.frozen
    await agent.die()
    world.copied = lambda: True
    agent = await Agent.live(tmp_path, world)
    world.asked.clear()
    await agent.boot()
    ending = await agent.ending()
    assert ending is not None
    assert (ending.state, ending.code) == ("failed", "interrupted")
    assert world.asked == []
    await agent.die()


async def test_one_that_is_taken_up_again_lets_go_once_more(tmp_path: Path, world: World) -> None:
    """A freeze may have been on its way when the agent died, and made after the next one had started."""
    agent = await prepared(tmp_path, world)
    world.fuse = 5
    await agent.run("snapshot", ARGS)
    await agent.die()
    world.revive()
    agent = await Agent.live(tmp_path, world)
    world.frozen = True
    await agent.boot()
    ending = await agent.ending()
    assert ending is not None
    assert ending.code == "interrupted"
    assert not world.frozen
    await agent.die()


async def test_the_agent_killed_at_any_point_nothing_stands_still_for_the_next_one(
    tmp_path: Path, world: World
) -> None:
    stood_still = 0
    for cut in range(1, 50):
        agent = await prepared(tmp_path / str(cut), world)
        world.fuse = cut
        await agent.run("snapshot", ARGS)
        if not world.dead:
            assert stood_still > 1
            await agent.die()
            return
        stood_still += world.frozen
        await agent.die()
        world.revive()
        agent = await Agent.live(tmp_path / str(cut), world)
        assert not world.frozen
        await agent.boot()
        ending = await agent.ending()
        assert ending is not None
        assert (ending.state, ending.code) == ("failed", "interrupted")
        assert world.container.running
        await agent.die()
        world.databases.clear()
        world.users.clear()
    raise AssertionError("the command never ends")


async def test_one_that_is_cancelled_before_it_is_taken_up_again_ends_as_cancelled(
    tmp_path: Path, world: World
) -> None:
    world.copied = lambda: False
    agent = await prepared(tmp_path, world)
    await agent.start("snapshot", ARGS)
    await agent.until("ask")
    await agent.work.close()
    await agent.die()
    agent = await Agent.live(tmp_path, world)
    assert await agent.work.cancel(Cancel(op="op"), 1) == Accepted()
    await agent.boot()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "cancelled"
    await asyncio.sleep(0)
    assert not world.frozen
    await agent.die()
