"""`adopt`: the database on a copied volume runs, and nothing ever takes its data away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import coffer_datastores
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Accepted, Cancel, Finished, Progress
from unit.guest.fakes import World
from unit.guest.lives import Agent, use
from unit.guest.memory_driver import MemoryDriver
from unit.guest.orders import UUID, prepare_args, restore_args

FILES = ["cluster", "new"]


def copy_in(directory: Path) -> Path:
    """A volume with another instance's database, and something half restored beside it."""
    data = directory / "data" / "engine"
    data.mkdir(parents=True)
    for name in FILES:
        (data / name).write_text("precious")
    (directory / "data" / "restoring").mkdir()
    (directory / "data" / "restoring" / "part").write_text("x")
    return data


def whole(data: Path) -> bool:
    return {path.name: path.read_text() for path in data.iterdir()} == dict.fromkeys(FILES, "precious")


async def adopted(agent: Agent, op: str = "op", **changes: Any) -> Finished:
    ending = await agent.run("adopt", prepare_args(format=False, **changes), op)
    assert ending is not None
    return ending


async def test_the_copys_database_runs_and_is_ours(tmp_path: Path, world: World) -> None:
    data = copy_in(tmp_path)
    agent = await Agent.live(tmp_path, world)
    ending = await adopted(
        agent, databases=[{"name": "new"}], users=[{"name": "ann", "password": "pw"}], volume_bytes=2 << 30
    )
    assert (ending.state, ending.result) == ("done", {"engine_version": "1.0", "fs_uuid": UUID})
    assert world.started_on == [FILES]
    assert whole(data)
    assert not Path(agent.machine.options.restoring).exists()
    order = ["mount", "grow", "start", "after_adoption", "secure", "create_databases"]
    assert [name for name in dict.fromkeys(world.calls) if name in order] == order
    assert (world.adoptions, world.secured) == (1, 1)
    assert (set(world.databases), set(world.users)) == ({"new"}, {"ann"})
    assert agent.machine.prepared.complete
    assert agent.machine.prepared.order.volume_bytes == 2 << 30
    told = [event for event in await agent.events() if isinstance(event, Progress)]
    assert [event.percent for event in told] == sorted(event.percent for event in told)
    await agent.die()


async def test_it_comes_up_by_itself_afterwards_and_is_adopted_once(tmp_path: Path, world: World) -> None:
    data = copy_in(tmp_path)
    agent = await Agent.live(tmp_path, world)
    await adopted(agent)
    await agent.die()
    world.restart_machine(agent.machine.options)
    agent = await Agent.live(tmp_path, world)
    await agent.boot()
    assert world.container.running
    assert (await adopted(agent, "again")).state == "done"
    assert (world.adoptions, world.secured) == (1, 1)
    assert whole(data)
    await agent.die()


async def test_a_volume_is_never_formatted_even_if_the_order_allows_it(tmp_path: Path, world: World) -> None:
    copy_in(tmp_path)
    agent = await Agent.live(tmp_path, world)
    ending = await agent.run("adopt", prepare_args(format=True))
    assert ending is not None
    assert ending.state == "done"
    assert "format" not in world.calls
    await agent.die()


@pytest.mark.parametrize("empty", [True, False])
async def test_without_a_database_it_is_refused(tmp_path: Path, world: World, *, empty: bool) -> None:
    agent = await Agent.live(tmp_path, world)
    if empty:
        Path(agent.machine.options.engine_data).mkdir(parents=True)
    ending = await adopted(agent)
    assert (ending.state, ending.code, ending.text) == ("failed", "volume", "there is no database on the volume")
    assert "ensure" not in world.calls
    assert (await adopted(agent, "again")).code == "volume"
    await agent.die()


async def test_with_a_backup_to_restore_it_is_refused(tmp_path: Path, world: World) -> None:
    copy_in(tmp_path)
    agent = await Agent.live(tmp_path, world)
    ending = await agent.run("adopt", restore_args())
    assert ending is not None
    assert ending.code == "invalid"
    assert world.calls == []
    await agent.die()


async def test_an_engine_without_snapshots_is_refused(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plain(MemoryDriver):
        before_snapshot = None  # type: ignore[assignment]

    data = copy_in(tmp_path)
    monkeypatch.setattr(coffer_datastores, "driver", lambda name: Plain(world, 0))
    agent = await Agent.live(tmp_path, world)
    ending = await adopted(agent)
    assert (ending.code, ending.text) == ("invalid", "memory has no snapshots")
    assert world.started_on == []
    assert whole(data)
    await agent.die()


@pytest.mark.parametrize("step", ["mount", "grow", "pull", "start", "after_adoption", "secure", "create_databases"])
async def test_whatever_fails_the_data_stay_and_the_next_attempt_is_as_good(
    tmp_path: Path, world: World, step: str
) -> None:
    data = copy_in(tmp_path)
    agent = await Agent.live(tmp_path, world)
    world.broken[step] = GiveUp("engine", "no")
    ending = await adopted(agent, databases=[{"name": "new"}])
    assert ending.state == "failed"
    assert whole(data)
    if step not in {"mount", "create_databases"}:
        assert not agent.machine.prepared.complete
    world.broken.clear()
    again = await adopted(agent, "again", databases=[{"name": "new"}])
    assert again.state == "done", again
    assert world.adoptions >= 1
    assert all(found == FILES for found in world.started_on)
    assert whole(data)
    await agent.die()


async def test_cancelled_the_data_stay(tmp_path: Path, world: World) -> None:
    data = copy_in(tmp_path)
    agent = await Agent.live(tmp_path, world)
    world.slow["after_adoption"] = 60
    await agent.start("adopt", prepare_args(format=False))
    await agent.until("after_adoption")
    assert await agent.work.cancel(Cancel(op="op"), 1) == Accepted()
    await agent.idle()
    ending = await agent.ending()
    assert ending is not None
    assert ending.state == "cancelled"
    assert whole(data)
    await agent.die()


async def test_another_volumes_record_is_not_believed(tmp_path: Path, world: World) -> None:
    """Nor does the mere database on it make it complete, as it does for `prepare`."""
    copy_in(tmp_path)
    agent = await Agent.live(tmp_path, world)
    await adopted(agent)
    assert (await adopted(agent, "other", fs_uuid="2b4e28ba-2fa1-11d2-883f-0016d3cca427")).state == "done"
    assert (world.adoptions, world.secured) == (2, 2)
    await agent.die()


async def test_a_machine_that_is_made_anew_around_it_prepares_it_as_any_other(tmp_path: Path, world: World) -> None:
    data = copy_in(tmp_path)
    agent = await Agent.live(tmp_path, world)
    ending = await agent.run("prepare", prepare_args(format=False))
    assert ending is not None
    assert ending.state == "done"
    assert (world.adoptions, world.secured) == (0, 0)
    assert whole(data)
    await agent.die()


async def test_the_machine_restarted_at_any_point_it_ends_well_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cut in range(1, 200):
        world, directory = World(), tmp_path / str(cut)
        use(world, monkeypatch)
        data = copy_in(directory)
        agent = await Agent.live(directory, world)
        world.fuse = cut
        order = prepare_args(format=False, databases=[{"name": "new"}], users=[{"name": "ann", "password": "pw"}])
        await agent.run("adopt", order)
        if not world.dead:
            assert cut > 15
            return
        await agent.die()
        assert whole(data), cut
        world.restart_machine(agent.machine.options)
        agent = await Agent.live(directory, world)
        await agent.boot()
        ending = await agent.ending()
        assert ending is not None
        assert ending.state == "done", (cut, ending)
        assert whole(data), cut
        assert all(found == FILES for found in world.started_on), (cut, world.started_on)
        assert world.container.running
        assert world.adoptions >= 1
        assert not Path(agent.machine.options.restoring).exists()
        assert (set(world.databases), set(world.users)) == ({"new"}, {"ann"})
        await agent.die()
    raise AssertionError("the command never ends")
