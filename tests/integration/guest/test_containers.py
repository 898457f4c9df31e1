"""The container layer on a real dockerd, where it must refuse."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coffer_guest.containers import Containers
from coffer_shared.datastore import ContainerSpec
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

pytestmark = pytest.mark.docker

IMAGE = "coffer/postgres:17"


async def ignore(percent: int, text: str) -> None:
    pass


@pytest.fixture
async def containers() -> AsyncIterator[Containers]:
    made = Containers("/var/run/docker.sock", name=f"coffer-test-{secrets.token_hex(4)}")
    yield made
    await made.remove()
    await made.close()


def spec(source: Path, *command: str) -> ContainerSpec:
    return ContainerSpec(IMAGE, command, {}, ((str(source), "/mnt", "rw"),), ("/tmp",), 999, 999, "SIGTERM", 1)


@pytest.mark.parametrize(
    "image", ["127.0.0.1:1/nothing@sha256:" + "0" * 64, "127.0.0.1:1/nothing:latest", "Not An Image"]
)
async def test_an_image_that_cannot_be_had(containers: Containers, image: str) -> None:
    with pytest.raises(GiveUp) as failure:
        await containers.pull(image, ignore)
    assert failure.value.code == Failure.IMAGE


async def test_an_image_that_is_here_is_not_asked_for(containers: Containers) -> None:
    await containers.pull(IMAGE, ignore)


async def test_without_its_data_directory_it_does_not_start_and_none_is_made(
    containers: Containers, tmp_path: Path
) -> None:
    source = tmp_path / "engine"
    source.mkdir()
    assert await containers.ensure(spec(source, "sleep", "60"), memory_bytes=256 << 20)
    source.rmdir()
    with pytest.raises(GiveUp) as failure:
        await containers.start()
    assert failure.value.code == Failure.ENGINE
    assert not source.exists()
    source.mkdir()
    await containers.start()
    assert (await containers.look()).running


async def test_a_changed_spec_replaces_the_container_and_the_same_one_does_not(
    containers: Containers, tmp_path: Path
) -> None:
    first = spec(tmp_path, "sleep", "60")
    assert await containers.ensure(first, memory_bytes=256 << 20)
    assert not await containers.ensure(first, memory_bytes=256 << 20)
    await containers.start()
    assert await containers.ensure(spec(tmp_path, "sleep", "61"), memory_bytes=256 << 20)
    assert not (await containers.look()).running


async def test_a_container_that_ends_says_why(containers: Containers, tmp_path: Path) -> None:
    await containers.ensure(spec(tmp_path, "bash", "-c", "echo good bye >&2; exit 7"), memory_bytes=256 << 20)
    await containers.start()
    async with asyncio.timeout(20):
        async for action in containers.changes():
            if action == "die":  # and again and again, by its restart policy
                break
        # between two of its lives
        while (await containers.look()).exit_code != 7:
            await asyncio.sleep(0.01)
    assert "good bye" in await containers.last_words()


async def test_what_is_not_there_is_stopped_and_removed_in_peace(containers: Containers) -> None:
    await containers.stop(1)
    await containers.remove()
    assert not (await containers.look()).exists
