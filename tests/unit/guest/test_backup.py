"""`backup`, with an engine and a container in memory."""

from __future__ import annotations

import asyncio
import stat
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

import coffer_datastores
from coffer_guest.clock import Clock
from coffer_guest.leftovers import tidy
from coffer_shared import backups
from coffer_shared.backups import Outcome
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp, Unavailable
from coffer_shared.messages import Failure, Progress, Refused, Start
from unit.guest.fakes import World, held
from unit.guest.lives import Agent, nothing_is_left, prepared, until
from unit.guest.memory_driver import MemoryDriver
from unit.guest.orders import BACKED_UP, BACKUP, backup_args, grant
from unit.guest.shots import Shot, all_done, half_done

KEY = "0d" * 32


class Wall(Clock):
    """Stands still until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self.at = time.time()

    def now(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Wall:
    return Wall()


@pytest.fixture
async def agent(tmp_path: Path, world: World, clock: Wall) -> AsyncIterator[Agent]:
    made = await prepared(tmp_path, world, clock)
    yield made
    await made.work.close()
    await made.die()


def asked_for(world: World, times: int) -> bool:
    return len(world.renewals) == times


# --- as it should go ---


async def test_a_backup_tells_how_it_goes_and_what_it_made(agent: Agent, world: World) -> None:
    ending = await agent.run("backup", backup_args())
    assert ending is not None
    assert (ending.state, ending.code) == ("done", "")
    assert msgspec.convert(ending.result, backups.BackedUp) == BACKED_UP
    told = [event for event in await agent.events() if isinstance(event, Progress)]
    assert [event.percent for event in told] == sorted(event.percent for event in told)
    assert (told[-1].percent, told[-1].text) == (10 + 85 // 3, "reading: 1 of 3 MB")
    order = ("pull", "ready_for_backup", "make_job", "start_job", "stop_job", "remove_job", "after_backup")
    places = [len(world.calls) - 1 - world.calls[::-1].index(name) for name in order]
    assert places == sorted(places)
    nothing_is_left(agent, world)


async def test_the_container_finds_its_job_and_nobody_else_does(agent: Agent, world: World) -> None:
    seen: dict[str, Any] = {}

    def look(shot: Shot) -> None:
        seen["job"], seen["grant"] = shot.read_job(), shot.read_grant()
        paths = (shot.job.parent, shot.job, shot.job / "job.json", shot.job / "grant.json", shot.job / "out")
        seen["modes"] = [stat.S_IMODE(path.stat().st_mode) for path in paths]
        seen["storage"] = world.rules[-1].storage_port
        all_done(shot)

    world.program = (half_done, look)
    args = backup_args()
    await agent.run("backup", args)
    assert seen["job"] == backups.Job("backup", BACKUP, "memory", KEY)
    assert msgspec.to_builtins(seen["grant"]) == args["grant"]
    assert seen["modes"] == [0o711, 0o711, 0o400, 0o400, 0o700]
    assert seen["storage"] == 8080
    (shot,) = world.ran
    assert shot.spec.image == args["image"]
    assert (shot.spec.binds, shot.role) == (((agent.machine.order.run, "/run/x", "ro"),), "backup")


async def test_the_servers_configuration_is_brought_up_to_date_first(agent: Agent, world: World) -> None:
    config = Path(agent.machine.order.config)
    config.rmdir()
    await agent.run("backup", backup_args())
    assert config.is_dir()


async def test_other_commands_run_meanwhile_and_another_backup_does_not(agent: Agent, world: World) -> None:
    program = held(world)
    await agent.start("backup", backup_args(), "one")
    await agent.until("started_job")
    await agent.start("create_users", {"users": [{"name": "cyd", "password": "pw"}]}, "user")
    await until(lambda: "cyd" in world.users)
    refused = await agent.work.start(Start(op="two", kind="backup", args=backup_args(), deadline=9e9), 1)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.text) == (Failure.BUSY, "backup runs (operation one)")
    world.slow["ensure"] = 60
    await agent.start("restart", {}, "slow")
    await until(lambda: agent.work.running == ["slow", "one"])
    program.release()
    await until(lambda: agent.work.running == ["slow"])
    ending = await agent.ending("one")
    assert ending is not None
    assert ending.state == "done"


# --- the grant ---


async def test_the_grant_is_renewed_at_half_its_life(agent: Agent, world: World, clock: Wall) -> None:
    program = held(world)
    await agent.start("backup", backup_args(grant=msgspec.to_builtins(grant(30, now=clock.at))))
    await agent.until("started_job")
    (shot,) = world.shots.values()
    clock.at += 14
    await asyncio.sleep(0.03)
    assert world.renewals == []
    world.renewed = grant(40, now=clock.at + 2, port=8443)
    clock.at += 2
    await until(lambda: shot.read_grant() == world.renewed)
    assert world.rules[-1].storage_port == 8443
    assert stat.S_IMODE((shot.job / "grant.json").stat().st_mode) == 0o400
    clock.at += 19
    await asyncio.sleep(0.03)
    assert world.renewals == ["op"]
    clock.at += 2
    await until(lambda: world.renewals == ["op", "op"])
    program.release()
    await agent.idle()


async def test_a_grant_that_grew_old_while_the_image_came_is_renewed_before_the_start(
    agent: Agent, world: World, clock: Wall
) -> None:
    args = backup_args(grant=msgspec.to_builtins(grant(30, now=clock.at)))
    world.renewed = grant(30, now=clock.at + 100)
    given: list[Any] = []

    def take(shot: Shot) -> None:
        given.append(shot.read_grant())

    world.program = (take, all_done)
    world.slow["pull"] = 0.05
    await agent.start("backup", args)
    await agent.until("pull")
    clock.at += 100
    await agent.idle()
    assert given == [world.renewed]


async def test_a_denied_renewal_ends_it_with_that_code(agent: Agent, world: World, clock: Wall) -> None:
    held(world)
    await agent.start("backup", backup_args())
    await agent.until("started_job")
    world.renewed = GiveUp("forbidden", "no grant for this operation")
    clock.at += 60
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert (ending.state, ending.code, ending.text) == ("failed", "forbidden", "no grant for this operation")
    nothing_is_left(agent, world)


async def test_a_silent_control_plane_is_asked_again_and_ends_nothing(agent: Agent, world: World, clock: Wall) -> None:
    program = held(world)
    await agent.start("backup", backup_args())
    await agent.until("started_job")
    world.renewed = Unavailable("not connected")
    for asked in (1, 2, 3):
        clock.at += 60
        await until(partial(asked_for, world, asked))
        await asyncio.sleep(0.02)
        assert len(world.renewals) == asked
    program.release()
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "done"


async def test_a_grant_without_an_address_is_refused(agent: Agent, world: World) -> None:
    bad = {**msgspec.to_builtins(grant()), "url": "file:///etc/"}
    ending = await agent.run("backup", backup_args(grant=bad))
    assert ending is not None
    assert ending.code == "invalid"
    nothing_is_left(agent, world)


# --- refusals and failures ---


async def test_an_engine_without_backups_is_refused(
    agent: Agent, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(MemoryDriver):
        before_backup = None  # type: ignore[assignment]

    monkeypatch.setattr(coffer_datastores, "driver", lambda name: Plain(world, 0))
    ending = await agent.run("backup", backup_args())
    assert ending is not None
    assert (ending.code, ending.text) == ("invalid", "memory has no backups")
    assert world.ran == []


async def test_an_unhealthy_database_is_refused(agent: Agent, world: World) -> None:
    await agent.run("stop", {}, "stop")
    ending = await agent.run("backup", backup_args())
    assert ending is not None
    assert (ending.code, ending.text) == ("not_ready", "the database is not healthy (stopped)")
    assert world.ran == []
    nothing_is_left(agent, world)


async def test_a_machine_without_a_database_is_refused(tmp_path: Path, world: World) -> None:
    agent = await Agent.live(tmp_path, world)
    ending = await agent.run("backup", backup_args())
    assert ending is not None
    assert ending.code == "not_ready"
    await agent.die()


async def test_an_engine_that_cannot_be_made_ready_leaves_nothing(agent: Agent, world: World) -> None:
    world.broken["ready_for_backup"] = EngineError("engine", "all slots are in use")
    ending = await agent.run("backup", backup_args())
    assert ending is not None
    assert (ending.code, ending.text) == ("engine", "all slots are in use")
    assert world.ran == []
    nothing_is_left(agent, world)


def ends(code: int = 1, *, out_of_memory: bool = False, outcome: Outcome | None = None) -> Callable[[Shot], None]:
    def end(shot: Shot) -> None:
        if outcome is not None:
            shot.write(backups.OUTCOME, outcome)
        shot.end(code, out_of_memory=out_of_memory)

    return end


def links(shot: Shot) -> None:
    (shot.job / "secret").write_bytes(msgspec.json.encode(Outcome(backed_up=BACKED_UP)))
    (shot.job / backups.OUTCOME).symlink_to(shot.job / "secret")
    shot.end()


def pipes(shot: Shot) -> None:
    import os

    os.mkfifo(shot.job / backups.OUTCOME)
    shot.end()


def floods(shot: Shot) -> None:
    (shot.job / backups.OUTCOME).write_bytes(b'{"text":"' + b"x" * 10_000_000 + b'"}')
    shot.end()


@pytest.mark.parametrize(
    ("last", "code", "text"),
    [
        (ends(outcome=Outcome("storage", "the store answers 507")), "storage", "the store answers 507"),
        (ends(outcome=Outcome("engine", "x" * 5000)), "engine", "x" * 1000),
        (ends(outcome=Outcome("made up", "?")), "engine", "?"),
        (ends(0, outcome=Outcome()), "engine", "did not say what it stored"),
        (ends(3, outcome=Outcome(backed_up=BACKED_UP)), "engine", "exit code 3"),
        (ends(1), "engine", "did not say how it went"),
        (ends(137), "interrupted", "was killed"),
        (ends(137, out_of_memory=True), "engine", "out of memory"),
        (links, "engine", "did not say how it went"),
        (pipes, "engine", "did not say how it went"),
        (floods, "engine", "did not say how it went"),
    ],
)
async def test_what_goes_wrong_in_the_container_is_told(
    agent: Agent, world: World, last: Callable[[Shot], None], code: str, text: str
) -> None:
    world.program = (half_done, last)
    ending = await agent.run("backup", backup_args())
    assert ending is not None
    assert (ending.state, ending.code) == ("failed", code)
    assert text in ending.text
    nothing_is_left(agent, world)


async def test_a_removed_container_is_an_interruption(agent: Agent, world: World) -> None:
    def remove(shot: Shot) -> None:
        shot.end()
        world.shots.clear()

    world.program = (half_done, remove)
    ending = await agent.run("backup", backup_args())
    assert ending is not None
    assert ending.code == "interrupted"
    nothing_is_left(agent, world)


async def test_docker_may_be_away_for_a_while(agent: Agent, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    program = held(world)
    await agent.start("backup", backup_args())
    await agent.until("started_job")
    world.broken["look_job"] = aiohttp.ClientError("no socket")
    await asyncio.sleep(0.02)
    program.release()
    await asyncio.sleep(0.02)
    assert agent.work.running == ["op"]
    world.broken.clear()
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "done"


async def test_a_database_that_is_gone_at_the_end_is_tidied_when_it_is_back(agent: Agent, world: World) -> None:
    world.program = (half_done, all_done)
    world.broken["after_backup"] = EngineError("not_ready", "the server does not answer")
    ending = await agent.run("backup", backup_args())
    assert ending is not None
    assert ending.state == "done"
    assert world.ready_for == [BACKUP]
    for broken in (True, False):
        if not broken:
            world.broken.clear()
        await tidy(agent.machine, lambda: agent.work.running)
        assert agent.machine.untidy is broken
    nothing_is_left(agent, world)
