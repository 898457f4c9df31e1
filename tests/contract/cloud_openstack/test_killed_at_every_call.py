"""A provisioner that dies after any one of the requests by which it changes the cloud. Requests that only look leave
nothing behind, so between two changes there is nothing else to die at."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest

from coffer_provisioner.cloud.interface import Cloud
from support.faulty_proxy import Fault
from support.openstack_stage import Instance, Stage, reached

MAKING = 14
"""Requests that change something, in all of `everything`."""
DROPPING = 7
COPYING = 2
"""In `copied`."""
DROPPING_COPIES = 3


async def killed_at(stage: Stage, change: int, doing: Callable[[Cloud], Awaitable[object]]) -> bool:
    """Whether it died, having learnt no answer to that request; by a proxy of its own, since others die meanwhile."""
    async with stage.aside() as aside:
        work = asyncio.ensure_future(doing(aside.door()))
        aside.proxy.decide = lambda asked: Fault(lost=True) if asked.change == change else None

        def die() -> None:
            work.cancel()

        aside.proxy.then = die
        await asyncio.wait([work])
        if not work.cancelled():
            work.result()
        return work.cancelled()


@pytest.mark.parametrize("first", range(1, MAKING + 1, 4))
async def test_killed_while_making(stage: Stage, first: int) -> None:
    cloud: Cloud = stage.door()

    async def live(change: int) -> None:
        one = stage.instance()
        await killed_at(stage, change, one.everything)
        spec = await one.everything(cloud)
        assert await one.everything(cloud) == spec
        await one.nothing(cloud)

    await asyncio.gather(*(live(change) for change in range(first, min(first + 4, MAKING + 1))))
    assert await cloud.resources() == []
    assert stage.left_over() == []


async def test_that_was_every_call(stage: Stage) -> None:
    one, other = stage.instance(), stage.instance()
    assert await killed_at(stage, MAKING, other.everything)
    assert not await killed_at(stage, MAKING + 1, one.everything)
    assert await killed_at(stage, DROPPING, one.nothing)
    assert not await killed_at(stage, DROPPING + 1, other.nothing)
    await one.nothing(stage.door())
    assert stage.left_over() == []


@pytest.mark.parametrize("first", range(1, MAKING + 1, 4))
async def test_killed_while_making_and_then_dropped(stage: Stage, first: int) -> None:
    """Not completed, as when the operation is undone."""
    cloud: Cloud = stage.door()

    async def live(change: int) -> None:
        one = stage.instance()
        await killed_at(stage, change, one.everything)
        await one.nothing(cloud)

    await asyncio.gather(*(live(change) for change in range(first, min(first + 4, MAKING + 1))))
    assert stage.left_over() == []


@pytest.mark.parametrize("first", range(1, DROPPING + 1, 4))
async def test_killed_while_dropping(stage: Stage, first: int) -> None:
    cloud: Cloud = stage.door()

    async def live(change: int) -> None:
        one = stage.instance()
        await one.everything(cloud)
        await killed_at(stage, change, one.nothing)
        await one.nothing(cloud)

    await asyncio.gather(*(live(change) for change in range(first, min(first + 4, DROPPING + 1))))
    assert await reached(cloud.resources) == []
    assert stage.left_over() == []



# --- snapshots ---


async def copied(cloud: Cloud, one: Instance, two: Instance, backup: str) -> tuple[str, str]:
    """A snapshot of the volume of the first, and a volume for the second that is made of it."""
    snapshot = await one.snapshot(cloud, backup)
    return snapshot.id, (await two.volume(cloud, snapshot.id)).id


async def dropped(cloud: Cloud, one: Instance, two: Instance, backup: str) -> None:
    for drop in (
        lambda: cloud.drop_volume(two.instance), lambda: cloud.drop_snapshot(backup),
        lambda: cloud.drop_volume(one.instance),
    ):
        await reached(drop)


@pytest.mark.parametrize("change", range(1, COPYING + 1))
async def test_killed_while_copying(stage: Stage, change: int) -> None:
    cloud, one, two, backup = stage.door(), stage.instance(), stage.instance(), str(uuid4())
    await one.volume(cloud)
    assert await killed_at(stage, change, lambda door: copied(door, one, two, backup))
    made = await copied(cloud, one, two, backup)
    assert await copied(cloud, one, two, backup) == made
    assert [snapshot["id"] for snapshot in stage.ground.snapshots(stage.stack)] == [made[0]]
    assert len(stage.ground.volumes(stage.stack)) == 2
    await dropped(cloud, one, two, backup)
    assert await cloud.resources() == []
    assert stage.left_over() == []


@pytest.mark.parametrize("change", range(1, COPYING + 1))
async def test_killed_while_copying_and_then_dropped(stage: Stage, change: int) -> None:
    """Not completed, as when the operation is undone."""
    cloud, one, two, backup = stage.door(), stage.instance(), stage.instance(), str(uuid4())
    await one.volume(cloud)
    assert await killed_at(stage, change, lambda door: copied(door, one, two, backup))
    await dropped(cloud, one, two, backup)
    assert stage.left_over() == []


@pytest.mark.parametrize("change", range(1, DROPPING_COPIES + 1))
async def test_killed_while_dropping_copies(stage: Stage, change: int) -> None:
    cloud, one, two, backup = stage.door(), stage.instance(), stage.instance(), str(uuid4())
    await one.volume(cloud)
    await copied(cloud, one, two, backup)
    assert await killed_at(stage, change, lambda door: dropped(door, one, two, backup))
    await dropped(cloud, one, two, backup)
    assert await reached(cloud.resources) == []
    assert stage.left_over() == []


async def test_that_was_every_call_for_copies(stage: Stage) -> None:
    cloud, one, two, backup = stage.door(), stage.instance(), stage.instance(), str(uuid4())
    await one.volume(cloud)
    assert not await killed_at(stage, COPYING + 1, lambda door: copied(door, one, two, backup))
    assert not await killed_at(stage, DROPPING_COPIES + 1, lambda door: dropped(door, one, two, backup))
    assert stage.left_over() == []
