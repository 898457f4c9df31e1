"""The OpenStack driver against a real OpenStack that the environment names (see support.openstack_ground), by way of a
proxy in which things go wrong. Without one these tests fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from support.faulty_proxy import FaultyProxy
from support.openstack_ground import QUIET, Ground
from support.openstack_stage import Stage


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(1200))
            item.add_marker(pytest.mark.filterwarnings(QUIET))


@pytest.fixture(scope="session")
def ground() -> Iterator[Ground]:
    made = Ground.connect()
    yield made
    made.close()


@pytest.fixture
async def stage(ground: Ground, tmp_path: Path) -> AsyncIterator[Stage]:
    proxy = FaultyProxy(ground.bases())
    await proxy.start()
    made = Stage(ground, proxy, proxy.clouds(tmp_path, ground.file, ground.cloud))
    yield made
    for door in made.doors:
        await door.close()
    await proxy.stop()
    ground.clear(made.stack)
