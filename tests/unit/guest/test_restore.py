"""`restore`: an engine starts on a whole backup or not at all, whatever is killed and whenever."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from coffer_guest import restoring
from coffer_guest.leftovers import tidy
from coffer_guest.state import State
from coffer_shared import backups
from coffer_shared.backups import Job, Outcome
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Accepted, Cancel, Progress
from unit.guest.fakes import World
from unit.guest.lives import Agent, use
from unit.guest.orders import BACKUP, prepare_args, restore_args
from unit.guest.shots import Shot, all_done, half_done, nothing_done

WHOLE = ["part", "whole"]


def target_of(agent: Agent) -> Path:
    return Path(agent.machine.options.restoring)


def data_of(agent: Agent) -> Path:
    return Path(agent.machine.options.engine_data)


def nothing_is_left(agent: Agent, world: World) -> None:
    """Of what a restore needs."""
    assert world.shots == {}
    assert world.rules[-1].storage_port == 0
    assert not target_of(agent).exists()
    jobs = Path(agent.machine.options.jobs_dir)
    assert not jobs.exists() or list(jobs.iterdir()) == []


# --- as it should go ---


async def test_the_engine_starts_on_what_was_restored(tmp_path: Path, world: World) -> None:
    agent = await Agent.live(tmp_path, world)
    seen: list[Any] = []

    def look(shot: Shot) -> None:
        status = target_of(agent).stat()
        seen.extend([shot.read_job(), stat.S_IMODE(status.st_mode), world.rules[-1].storage_port])
        assert not data_of(agent).exists(), "an engine's directory, before the backup is whole"
        all_done(shot)

    world.program = (half_done, nothing_done, look)
    args = restore_args(databases=[{"name": "new"}], users=[{"name": "u", "password": "p"}])
    ending = await agent.run("restore", args)
    assert ending is not None
    assert (ending.state, ending.result["engine_version"]) == ("done", "1.0")
    assert world.started_on == [WHOLE]
    assert world.secured == 1
    assert (set(world.databases), set(world.users)) == ({"new"}, {"u"})
    job = Job("restore", BACKUP, "memory", "0d" * 32, manifest_sha256="ab" * 32, target=str(target_of(agent)))
    assert seen == [job, 0o700, 8080]
    assert world.ran[0].spec.binds == ((str(target_of(agent)), str(target_of(agent)), "rw"),)
    assert agent.machine.prepared.complete
    nothing_is_left(agent, world)
    told = [event for event in await agent.events() if isinstance(event, Progress)]
    assert [event.percent for event in told] == sorted(event.percent for event in told)
    assert "reading: 1 of 3 MB" in [event.text for event in told if 10 <= event.percent < 70]
    await agent.die()


async def test_a_restored_machine_comes_up_by_itself(tmp_path: Path, world: World) -> None:
    agent = await Agent.live(tmp_path, world)
    await agent.run("restore", restore_args())
    await agent.die()
    world.restart_machine(agent.machine.options)
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    assert world.started_on == [WHOLE, WHOLE]
    assert len(world.ran) == 1
    await agent.die()


async def test_what_keeps_the_engine_is_told(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coffer_guest.work._TEXT_SECONDS", 0.0)
    monkeypatch.setattr("coffer_guest.machine._POLL_SECONDS", 0.005)
    agent = await Agent.live(tmp_path, world)
    world.broken["health"] = EngineError("not_ready", "the database system is starting up")
    await agent.start("restore", restore_args())
    await agent.until("health")
    await asyncio.sleep(0.05)
    world.broken.clear()
    await agent.idle()
    told = [event.text for event in await agent.events() if isinstance(event, Progress)]
    assert "waiting for the database: the database system is starting up" in told
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "done"
    await agent.die()


async def test_kind_and_order_must_agree(tmp_path: Path, world: World) -> None:
    agent = await Agent.live(tmp_path, world)
    for n, (kind, args) in enumerate((("prepare", restore_args()), ("restore", prepare_args()))):
        ending = await agent.run(kind, args, f"op{n}")
        assert ending is not None
        assert ending.code == "invalid"
    assert world.calls == []
    await agent.die()


async def test_neither_key_nor_grant_stays_on_disk(tmp_path: Path, world: World) -> None:
    agent = await Agent.live(tmp_path, world)
    await agent.run("restore", restore_args())
    raw = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"0d" * 32 not in raw
    assert b"s3cr3t" not in raw
    kept = await State(agent.store).prepared()
    assert kept is not None
    assert kept.order.restore is None
    await agent.die()


# --- failures ---


def damaged(shot: Shot) -> None:
    shot.write(backups.OUTCOME, Outcome("damaged", "segment 3 is not what was stored"))
    shot.end(1)


@pytest.mark.parametrize(
    ("last", "code"),
    [(damaged, "damaged"), (lambda shot: shot.end(137), "interrupted"), (lambda shot: shot.end(1), "engine")],
)
async def test_a_failed_restore_leaves_nothing_an_engine_could_start_on(
    tmp_path: Path, world: World, last: Any, code: str
) -> None:
    world.program = (half_done, last)
    agent = await Agent.live(tmp_path, world)
    ending = await agent.run("restore", restore_args())
    assert ending is not None
    assert (ending.state, ending.code) == ("failed", code)
    nothing_is_left(agent, world)
    assert not data_of(agent).exists()
    # nor does anything else make one
    start = await agent.run("start", {}, "start")
    assert start is not None
    assert start.code == "engine"
    await agent.machine.boot()
    assert world.started_on == []
    # another attempt is as good as the first
    world.program = (half_done, all_done)
    again = await agent.run("restore", restore_args(), "again")
    assert again is not None
    assert again.state == "done"
    assert world.started_on == [WHOLE]
    await agent.die()


async def test_cancelled_it_leaves_nothing(tmp_path: Path, world: World) -> None:
    world.program = (half_done, *[nothing_done] * 10_000)
    agent = await Agent.live(tmp_path, world)
    await agent.start("restore", restore_args())
    await agent.until("started_job")
    assert await agent.work.cancel(Cancel(op="op"), 1) == Accepted()
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "cancelled"
    nothing_is_left(agent, world)
    assert not data_of(agent).exists()
    await agent.die()


async def test_at_its_deadline_it_leaves_nothing(tmp_path: Path, world: World) -> None:
    world.program = (half_done, *[nothing_done] * 10_000)
    agent = await Agent.live(tmp_path, world)
    ending = await agent.run("restore", restore_args(), left=0.2)
    assert ending is not None
    assert ending.code == "deadline"
    nothing_is_left(agent, world)
    await agent.die()


async def test_an_engine_that_does_not_start_on_it_is_not_kept_for_the_next_attempt(
    tmp_path: Path, world: World
) -> None:
    agent = await Agent.live(tmp_path, world)
    world.broken["secure"] = GiveUp("engine", "no")
    await agent.run("restore", restore_args())
    (data_of(agent) / "used").write_text("by the first attempt")
    world.broken.clear()
    again = await agent.run("restore", restore_args(), "again")
    assert again is not None
    assert again.state == "done"
    assert world.started_on == [WHOLE, WHOLE]
    await agent.die()


async def test_an_earlier_machines_database_is_kept(tmp_path: Path, world: World) -> None:
    """The machine was made anew around a volume that had been restored already."""
    agent = await Agent.live(tmp_path, world)
    data_of(agent).mkdir(parents=True)
    for name in ("part", "whole", "written since"):
        (data_of(agent) / name).write_text("x")
    ending = await agent.run("restore", restore_args())
    assert ending is not None
    assert ending.state == "done"
    assert world.ran == []
    assert world.started_on == [["part", "whole", "written since"]]
    await agent.die()


async def test_an_earlier_machines_half_restored_directory_is_not_believed(tmp_path: Path, world: World) -> None:
    agent = await Agent.live(tmp_path, world)
    target_of(agent).mkdir(parents=True)
    (target_of(agent) / "junk").write_text("x")
    ending = await agent.run("restore", restore_args())
    assert ending is not None
    assert ending.state == "done"
    assert world.started_on == [WHOLE]
    await agent.die()


# --- the agent killed, the machine restarted ---


async def test_one_that_is_cancelled_before_it_is_taken_up_again_leaves_nothing(tmp_path: Path, world: World) -> None:
    world.program = (half_done, *[nothing_done] * 10_000)
    agent = await Agent.live(tmp_path, world)
    await agent.start("restore", restore_args())
    await agent.until("started_job")
    await agent.work.close()
    await agent.die()
    agent = await Agent.live(tmp_path, world)
    agent.machine.untidy = True
    await tidy(agent.machine, lambda: agent.work.running)
    assert (target_of(agent) / "part").exists(), "while it waits, it is nobody's leftover"
    assert await agent.work.cancel(Cancel(op="op"), 1) == Accepted()
    await agent.boot()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "cancelled"
    nothing_is_left(agent, world)
    assert not data_of(agent).exists()
    await agent.die()


async def test_an_agent_that_ends_leaves_it_to_the_next_one(tmp_path: Path, world: World) -> None:
    released: list[bool] = []

    def look(shot: Shot) -> None:
        if released:
            all_done(shot)
        else:
            shot.steps.append(look)

    world.program = (half_done, look)
    agent = await Agent.live(tmp_path, world)
    await agent.start("restore", restore_args())
    await agent.until("started_job")
    await agent.work.close()
    assert (target_of(agent) / "part").exists()
    await agent.die()
    agent = await Agent.live(tmp_path, world)
    released.append(True)
    await agent.boot()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "done"
    assert len(world.ran) == 1
    assert world.started_on == [WHOLE]
    await agent.die()


async def test_the_machine_restarted_at_any_point_it_ends_well_and_no_engine_saw_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeated = 0
    for cut in range(1, 200):
        world, directory = World(), tmp_path / str(cut)
        use(world, monkeypatch)
        agent = await Agent.live(directory, world)
        world.fuse = cut
        await agent.run("restore", restore_args())
        if not world.dead:
            assert repeated > 1
            return
        await agent.die()
        world.restart_machine(agent.machine.options)
        agent = await Agent.live(directory, world)
        await agent.boot()
        ending = await agent.ending()
        assert ending is not None
        assert ending.state == "done", (cut, ending)
        assert all(found == WHOLE for found in world.started_on), (cut, world.started_on)
        assert world.container.running
        repeated += len(world.ran) > 1
        nothing_is_left(agent, world)
        await agent.die()
    raise AssertionError("the command never ends")


# --- the directory ---


def test_all_of_it_is_handed_over_and_no_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.write_text("another's")
    target = tmp_path / "restoring"
    restoring.make_room(str(target), os.getuid(), os.getgid())
    (target / "cluster" / "base").mkdir(parents=True)
    (target / "cluster" / "base" / "1").write_text("x")
    (target / "cluster" / "link").symlink_to(outside)
    (target / "cluster" / "dirlink").symlink_to(tmp_path)
    changed: list[str] = []
    monkeypatch.setattr(os, "lchown", lambda path, uid, gid: changed.append(str(path)))
    monkeypatch.setattr(os, "chown", lambda *_: pytest.fail("that follows links"))
    restoring.hand_over(str(target), 1, 2)
    inside = ["", "/cluster", "/cluster/base", "/cluster/base/1", "/cluster/dirlink", "/cluster/link"]
    assert sorted(changed) == [f"{target}{name}" for name in inside]


def test_taking_its_place_is_repeatable_and_never_merges(tmp_path: Path) -> None:
    target, data = tmp_path / "restoring", tmp_path / "engine"
    target.mkdir()
    (target / "whole").write_text("x")
    restoring.take_place(str(target), str(data))
    restoring.take_place(str(target), str(data))
    assert (data / "whole").read_text() == "x"
    target.mkdir()
    with pytest.raises(OSError, match="not empty"):
        restoring.take_place(str(target), str(data))
    restoring.discard(str(target))
    restoring.discard(str(target))
    assert not target.exists()
