"""`backup` when something ends it: a cancellation, a deadline, the agent, the machine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coffer_guest.leftovers import tidy
from coffer_shared.messages import Accepted, Cancel
from unit.guest.fakes import World, held
from unit.guest.lives import Agent, nothing_is_left, prepared, use
from unit.guest.orders import BACKUP, backup_args
from unit.guest.shots import Shot, all_done, half_done, nothing_done


@pytest.fixture
async def agent(tmp_path: Path, world: World) -> AsyncIterator[Agent]:
    made = await prepared(tmp_path, world)
    yield made
    await made.work.close()
    await made.die()


async def test_cancelled_it_stops_the_container_and_leaves_nothing(agent: Agent, world: World) -> None:
    held(world)
    await agent.start("backup", backup_args())
    await agent.until("started_job")
    world.slow["stop_job"] = 0.05
    for _ in range(3):
        assert await agent.work.cancel(Cancel(op="op"), 1) == Accepted()
        await asyncio.sleep(0.01)
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "cancelled"
    assert world.calls.count("stop_job") == 1
    nothing_is_left(agent, world)
    world.program = (all_done,)
    again = await agent.run("backup", backup_args(), "again")
    assert again is not None
    assert again.state == "done"


async def test_at_its_deadline_it_stops_the_container_and_leaves_nothing(agent: Agent, world: World) -> None:
    held(world)
    await agent.start("backup", backup_args(), left=0.2)
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert (ending.state, ending.code) == ("failed", "deadline")
    nothing_is_left(agent, world)


async def test_an_agent_that_ends_leaves_the_container_and_the_next_one_takes_it_over(
    tmp_path: Path, world: World
) -> None:
    agent = await prepared(tmp_path, world)
    program = held(world)
    await agent.start("backup", backup_args())
    await agent.until("started_job")
    await agent.work.close()
    (shot,) = world.shots.values()
    assert shot.seen.running
    assert shot.read_job().backup == BACKUP
    assert await agent.ending() is None
    await agent.die()
    world.rules.clear()

    agent = await Agent.live(tmp_path, world)
    async with agent.machine.busy:
        await agent.machine.boot()
    assert {rules.storage_port for rules in world.rules} == {8080}, "its way was never closed"
    await tidy(agent.machine, lambda: agent.work.running)
    await agent.work.resume()
    program.release()
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "done"
    assert world.ran == [shot]
    nothing_is_left(agent, world)
    await agent.die()


async def test_a_container_that_ended_while_no_agent_lived_is_still_believed(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    held(world)
    await agent.start("backup", backup_args())
    await agent.until("started_job")
    await agent.work.close()
    await agent.die()
    (shot,) = world.shots.values()
    all_done(shot)
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "done"
    nothing_is_left(agent, world)
    await agent.die()


async def test_what_waits_to_be_resumed_and_is_cancelled_is_removed(tmp_path: Path, world: World) -> None:
    agent = await prepared(tmp_path, world)
    held(world)
    await agent.start("backup", backup_args())
    await agent.until("started_job")
    await agent.work.close()
    await agent.die()
    agent = await Agent.live(tmp_path, world)
    assert await agent.work.cancel(Cancel(op="op"), 1) == Accepted()
    await agent.boot()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "cancelled"
    nothing_is_left(agent, world)
    await agent.die()


async def test_the_machine_restarted_at_any_point_it_is_done_or_interrupted_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    for cut in range(1, 100):
        world, directory = World(), tmp_path / str(cut)
        use(world, monkeypatch)
        agent = await prepared(directory, world)
        world.fuse = cut
        await agent.run("backup", backup_args())
        if not world.dead:
            assert seen == {"", "interrupted"}
            return
        await agent.die()
        world.restart_machine(agent.machine.options)
        agent = await Agent.live(directory, world)
        await agent.boot()
        ending = await agent.ending()
        assert ending is not None
        assert ending.code in {"", "interrupted"}, (cut, ending)
        assert len(world.ran) <= 1
        seen.add(ending.code)
        nothing_is_left(agent, world)
        await agent.die()
    raise AssertionError("the command never ends")


async def test_leftovers_of_nobody_are_removed_and_those_of_somebody_are_not(agent: Agent, world: World) -> None:
    program = held(world)
    await agent.start("backup", backup_args(), "mine")
    await agent.until("started_job")
    (mine,) = world.shots.values()
    world.shots["backup-lost"] = Shot("backup", "lost", mine.spec, mine.job.with_name("lost"))
    lost = mine.job.with_name("lost")
    lost.mkdir()
    (lost / "job.json").write_text("{}")
    agent.machine.untidy = True
    await tidy(agent.machine, lambda: agent.work.running)
    assert list(world.shots) == ["backup-mine"]
    assert not lost.exists()
    assert mine.job.exists()
    assert world.rules[-1].storage_port == 8080
    program.release()
    await agent.idle()
    nothing_is_left(agent, world)


async def test_neither_key_nor_grant_stays_on_disk(tmp_path: Path, agent: Agent, world: World) -> None:
    world.program = (nothing_done, half_done, all_done)
    await agent.run("backup", backup_args())
    raw = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert backup_args()["key"].encode() not in raw
    assert b"s3cr3t" not in raw
