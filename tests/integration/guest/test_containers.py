"""The container layer on a real dockerd, where it must refuse."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from coffer_guest.container import Seen
from coffer_guest.containers import Containers
from coffer_guest.oneshot import OneShot
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


# --- those of one operation ---


@pytest.fixture
async def one(containers: Containers, tmp_path: Path) -> AsyncIterator[OneShot]:
    made = containers.one_shot("backup", f"test-{secrets.token_hex(4)}")
    tmp_path.chmod(0o711)
    (tmp_path / "out").mkdir(mode=0o777)
    (tmp_path / "out").chmod(0o777)
    yield made
    await made.remove()


async def ended(one: OneShot) -> Seen:
    async with asyncio.timeout(30):
        while (seen := await one.look()).running or not seen.started_at:
            await asyncio.sleep(0.02)
    return seen


def facts(one: OneShot) -> Any:
    name = f"backup-{one.operation}"
    return json.loads(subprocess.run(["docker", "inspect", name], capture_output=True, text=True, check=True).stdout)[0]


def running(*command: str) -> ContainerSpec:
    return ContainerSpec(IMAGE, command, {"LC_ALL": "C"}, (), ("/tmp",), 999, 999, "SIGTERM", 1)


async def test_a_one_shot_container_is_as_small_and_harmless_as_it_should_be(one: OneShot, tmp_path: Path) -> None:
    script = (
        "cd /job/out; id > id; cat /proc/self/oom_score_adj > oom; "
        "grep -e CapEff -e NoNewPrivs /proc/self/status > status; "
        "touch /job/x || touch /x || echo read-only > root; touch /tmp/x"
    )
    await one.make(running("bash", "-c", script), tmp_path)
    assert not (await one.look()).started_at
    await one.start()
    seen = await ended(one)
    assert (seen.exit_code, seen.out_of_memory) == (0, False)
    told = {path.name: path.read_text().split() for path in (tmp_path / "out").iterdir()}
    assert told["id"][:2] == ["uid=999(postgres)", "gid=998"]
    assert told["id"][2:] == ["groups=998"]
    assert told["oom"] == ["500"]
    assert told["status"] == ["CapEff:", "0000000000000000", "NoNewPrivs:", "1"]
    assert told["root"] == ["read-only"]
    host = facts(one)["HostConfig"]
    assert (host["LogConfig"]["Type"], host["Memory"], host["MemorySwap"]) == ("none", 256 << 20, 256 << 20)
    assert host["RestartPolicy"]["Name"] == "no"


async def test_it_tells_how_it_ended_and_is_not_started_again(one: OneShot, tmp_path: Path) -> None:
    await one.make(running("bash", "-c", "exit 7"), tmp_path)
    await one.start()
    assert (await ended(one)).exit_code == 7
    assert not (await one.look()).running


async def test_it_dies_of_too_much_memory_and_says_so(one: OneShot, tmp_path: Path) -> None:
    await one.make(running("bash", "-c", "head -c 900m /dev/zero | tail -c 800m > /dev/null; exit $?"), tmp_path)
    await one.start()
    seen = await ended(one)
    assert seen.exit_code == 137
    assert seen.out_of_memory


async def test_it_is_found_stopped_and_removed_with_all_that_is_its_own(
    containers: Containers, one: OneShot, tmp_path: Path
) -> None:
    await one.make(running("sleep", "600"), tmp_path)
    await one.start()
    assert (one.role, one.operation) in [(found.role, found.operation) for found in await containers.one_shots()]
    volumes = [mount["Name"] for mount in facts(one)["Mounts"] if mount["Type"] == "volume"]
    with pytest.raises(GiveUp) as failure:
        await one.make(running("sleep", "600"), tmp_path)
    assert failure.value.code == Failure.ENGINE
    await one.stop(0)
    assert not (await one.look()).running
    await one.remove()
    await one.remove()
    await one.stop(0)
    assert await one.look() == Seen()
    for volume in volumes:
        assert subprocess.run(["docker", "volume", "inspect", volume], capture_output=True, check=False).returncode
