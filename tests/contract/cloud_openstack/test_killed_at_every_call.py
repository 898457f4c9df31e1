"""A provisioner that dies after any one of the requests by which it changes the cloud. Requests that only look leave
nothing behind, so between two changes there is nothing else to die at."""

from __future__ import annotations

import asyncio

import pytest

from coffer_provisioner.cloud.interface import Cloud
from support.faulty_proxy import Fault
from support.openstack_stage import Instance, Stage, reached

MAKING = 14
"""Requests that change something, in all of `everything`."""
DROPPING = 7


async def killed_at(stage: Stage, change: int, doing: str, one: Instance) -> bool:
    """Whether it died, having learnt no answer to that request; by a proxy of its own, since others die meanwhile."""
    async with stage.aside() as aside:
        door = aside.door()
        work = asyncio.create_task(one.everything(door) if doing == "everything" else one.nothing(door))
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
        await killed_at(stage, change, "everything", one)
        spec = await one.everything(cloud)
        assert await one.everything(cloud) == spec
        await one.nothing(cloud)

    await asyncio.gather(*(live(change) for change in range(first, min(first + 4, MAKING + 1))))
    assert await cloud.resources() == []
    assert stage.left_over() == []


async def test_that_was_every_call(stage: Stage) -> None:
    one, other = stage.instance(), stage.instance()
    assert await killed_at(stage, MAKING, "everything", other)
    assert not await killed_at(stage, MAKING + 1, "everything", one)
    assert await killed_at(stage, DROPPING, "nothing", one)
    assert not await killed_at(stage, DROPPING + 1, "nothing", other)
    await one.nothing(stage.door())
    assert stage.left_over() == []


@pytest.mark.parametrize("first", range(1, MAKING + 1, 4))
async def test_killed_while_making_and_then_dropped(stage: Stage, first: int) -> None:
    """Not completed, as when the operation is undone."""
    cloud: Cloud = stage.door()

    async def live(change: int) -> None:
        one = stage.instance()
        await killed_at(stage, change, "everything", one)
        await one.nothing(cloud)

    await asyncio.gather(*(live(change) for change in range(first, min(first + 4, MAKING + 1))))
    assert stage.left_over() == []


@pytest.mark.parametrize("first", range(1, DROPPING + 1, 4))
async def test_killed_while_dropping(stage: Stage, first: int) -> None:
    cloud: Cloud = stage.door()

    async def live(change: int) -> None:
        one = stage.instance()
        await one.everything(cloud)
        await killed_at(stage, change, "nothing", one)
        await one.nothing(cloud)

    await asyncio.gather(*(live(change) for change in range(first, min(first + 4, DROPPING + 1))))
    assert await reached(cloud.resources) == []
    assert stage.left_over() == []

