"""The OpenStack driver by way of a proxy in which things go wrong: before the double, and before a real OpenStack if
the environment names one (see support.openstack_ground)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from support import openstack_ground
from support.faulty_proxy import FaultyProxy
from support.openstack_ground import DoubleGround, Ground, RealGround
from support.openstack_stage import Stage


@pytest.fixture(scope="session")
def real_ground() -> Iterator[RealGround]:
    made = RealGround.connect()
    yield made
    made.close()


@pytest.fixture
async def double_ground(tmp_path: Path) -> AsyncIterator[DoubleGround]:
    made = await DoubleGround.start(tmp_path)
    yield made
    await made.double.stop()


@pytest.fixture(params=openstack_ground.GROUNDS)
def ground(request: pytest.FixtureRequest) -> Ground:
    found: Ground = request.getfixturevalue(f"{request.param}_ground")
    return found


@pytest.fixture
async def stage(ground: Ground, tmp_path: Path) -> AsyncIterator[Stage]:
    async with _on(ground, tmp_path) as made:
        yield made


@pytest.fixture
async def double_stage(double_ground: DoubleGround, tmp_path: Path) -> AsyncIterator[Stage]:
    """For what only the double can be brought to."""
    async with _on(double_ground, tmp_path) as made:
        yield made


@asynccontextmanager
async def _on(ground: Ground, directory: Path) -> AsyncIterator[Stage]:
    proxy = FaultyProxy(ground.bases())
    await proxy.start()
    made = Stage(ground, proxy, proxy.clouds(directory, ground.file, ground.cloud))
    yield made
    for door in made.doors:
        await door.close()
    await proxy.stop()
    ground.clear(made.stack)
