"""A copy of files of one moment, with a real XFS and a container that writes. Needs root, as `disk_host` does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from coffer_guest import still
from coffer_guest.containers import Containers
from coffer_shared.errors import GiveUp
from integration.guest.disk_host import GIB, DiskHost, sh
from integration.guest.host import SOCKET, docker

pytestmark = pytest.mark.docker

IMAGE = "coffer/base:trixie"
MIB = 1 << 20
FILES = 200
# The same number to one file and then to another, of which a listing of the directory has all the others between.
WRITER = "i=0; while :; do i=$((i+1)); echo $i >>/v/first; echo $i >>/v/second; done"


def last(path: Path) -> int:
    """The last number that is all there."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64))
        return int(file.read().rpartition(b"\n")[0].rpartition(b"\n")[2] or 0)


@pytest.fixture
async def disk(hosts: Callable[[], DiskHost]) -> DiskHost:
    made = hosts()
    sh("truncate", "-s", str(GIB), str(made.disk))
    await made.mount()
    return made


@pytest.fixture
def data(disk: DiskHost) -> Path:
    """With a container that writes in it."""
    made = disk.data / "engine" / "data"
    made.mkdir(parents=True)
    (made / "second").touch()
    for number in range(FILES):
        (made / f"{number}").write_bytes(bytes([number]) * MIB)
    docker("run", "-d", "--name", disk.container, "--network", "none", "-v", f"{made}:/v", IMAGE, "sh", "-c", WRITER)
    return made


@pytest.fixture
async def containers(disk: DiskHost) -> AsyncIterator[Containers]:
    made = Containers(SOCKET, name=disk.container)
    yield made
    await made.close()


async def goes_on(data: Path) -> None:
    until = last(data / "second") + 100
    async with asyncio.timeout(20):
        while last(data / "second") < until:
            await asyncio.sleep(0.01)


async def test_a_copy_under_a_writer_is_of_one_moment(data: Path, containers: Containers) -> None:
    copies = data.parent / "copies"
    for number in range(5):
        await goes_on(data)
        before = last(data / "second")
        target = copies / str(number)
        await still.copy(containers, str(data), str(target))
        assert before <= last(target / "second") <= last(target / "first") <= last(target / "second") + 1
        assert sorted(path.name for path in target.iterdir()) == sorted(path.name for path in data.iterdir())
        assert (target / "77").read_bytes() == bytes([77]) * MIB
    await goes_on(data)
    seen = await containers.look()
    assert (seen.running, seen.status) == (True, "running")


async def test_copies_share_what_they_have_until_it_is_written_to(
    data: Path, disk: DiskHost, containers: Containers
) -> None:
    volume = await disk.mount()
    before = (await volume.facts()).used_bytes
    copies = data.parent / "copies"
    for number in range(5):
        await still.copy(containers, str(data), str(copies / str(number)))
    assert (await volume.facts()).used_bytes < before + FILES * MIB
    (data / "7").write_bytes(b"other")
    assert (copies / "3" / "7").read_bytes() == bytes([7]) * MIB
    await still.discard(str(copies))
    assert not copies.exists()
    assert (data / "8").read_bytes() == bytes([8]) * MIB
    await goes_on(data)


async def test_a_container_that_is_not_there_cannot_be_held(data: Path, containers: Containers) -> None:
    await containers.remove()
    with pytest.raises(GiveUp, match="holding the container"):
        await still.copy(containers, str(data), str(data.parent / "copies" / "x"))
    assert not (data.parent / "copies" / "x").exists()


async def test_what_an_agent_left_held_is_let_go(data: Path, containers: Containers) -> None:
    await goes_on(data)
    await containers.hold()
    at = last(data / "second")
    await asyncio.sleep(0.3)
    assert last(data / "second") == at
    await still.let_go(containers)
    await goes_on(data)
    await still.let_go(containers)
