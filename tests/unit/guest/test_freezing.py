"""The process that holds a file system still, with an `fsfreeze` that only writes down what it is asked to do."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from coffer_guest import freezing, volume
from coffer_guest.options import Options
from coffer_guest.volume import Volume
from coffer_shared.errors import GiveUp

FSFREEZE = """#!/bin/sh
# A file stands for the frozen state; as the kernel does, it takes its time to freeze and cannot be stopped in that.
echo "$1" >>"$2/asked"
case $1 in
-f)
    [ ! -e "$2/frozen" ] || { echo "fsfreeze: $2: freeze failed: Device or resource busy" >&2; exit 1; }
    [ ! -e "$2/slow" ] || sleep "$(cat "$2/slow")"
    : >"$2/frozen"
    ;;
-u) rm "$2/frozen" 2>/dev/null || { echo "fsfreeze: $2: unfreeze failed: Invalid argument" >&2; exit 1; } ;;
esac
"""
AGENT = """
import asyncio, sys
from coffer_guest import volume
from coffer_guest.options import Options
volume._mounted_device = lambda mount: "/dev/x"

async def main():
    held = volume.Volume(Options(data_dir=sys.argv[1]))
    print("begins", flush=True)
    await held.freeze(float(sys.argv[2]))
    print(held._hold._process.result().pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the volume is mounted."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "fsfreeze"
    program.write_text(FSFREEZE)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(volume, "_mounted_device", lambda mount: "/dev/x")
    made = tmp_path / "data"
    made.mkdir()
    return made


@pytest.fixture
async def held(data: Path) -> AsyncIterator[Volume]:
    made = Volume(Options(data_dir=str(data)))
    yield made
    await made.thaw()


def asked(data: Path) -> list[str]:
    return (data / "asked").read_text().split() if (data / "asked").exists() else []


async def until(data: Path, *, frozen: bool, within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while (data / "frozen").exists() != frozen:
            await asyncio.sleep(0.01)


def pid(held: Volume) -> int:
    assert held._hold is not None
    return held._hold._process.result().pid


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


# --- the volume ---


async def test_it_stands_still_from_freeze_to_thaw(data: Path, held: Volume) -> None:
    await held.freeze(60)
    assert (data / "frozen").exists()
    holder = pid(held)
    assert os.getsid(holder) == holder
    assert await held.thaw() is True
    assert not (data / "frozen").exists()
    assert not is_alive(holder)
    assert await held.thaw() is False


async def test_when_its_time_is_over_it_is_let_go_and_thaw_tells(data: Path, held: Volume) -> None:
    await held.freeze(0.2)
    await until(data, frozen=False)
    assert await held.thaw() is False


async def test_whoever_lets_it_go_meanwhile_thaw_tells(data: Path, held: Volume) -> None:
    await held.freeze(60)
    (data / "frozen").unlink()
    assert await held.thaw() is False


async def test_a_volume_that_is_not_mounted_is_neither_frozen_nor_thawed(
    data: Path, held: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be the file system of the machine."""
    monkeypatch.setattr(volume, "_mounted_device", lambda mount: "")
    with pytest.raises(GiveUp, match="nothing is mounted") as raised:
        await held.freeze(60)
    assert raised.value.code == "volume"
    assert await held.thaw() is False
    assert asked(data) == []


async def test_what_the_system_says_against_it_is_told(data: Path, held: Volume) -> None:
    (data / "frozen").touch()
    with pytest.raises(GiveUp, match="freeze failed: Device or resource busy") as raised:
        await held.freeze(60)
    assert raised.value.code == "volume"
    assert await held.thaw() is True, "whoever froze it"


async def test_without_the_programs_it_is_refused(held: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(GiveUp, match="cannot be held still"):
        await held.freeze(60)
    assert await held.thaw() is False


async def test_cancelled_while_the_freeze_takes_its_time_it_is_let_go_after_it(data: Path, held: Volume) -> None:
    (data / "slow").write_text("0.5")
    freeze = asyncio.create_task(held.freeze(60))
    async with asyncio.timeout(5):
        while asked(data) != ["-f"]:
            await asyncio.sleep(0.01)
    freeze.cancel()
    await asyncio.wait({freeze})
    assert freeze.cancelled()
    assert await held.thaw() is False
    assert asked(data) == ["-f", "-u", "-u"]
    assert not (data / "frozen").exists()


async def test_cancelled_at_once_it_is_let_go_too(data: Path, held: Volume) -> None:
    freeze = asyncio.create_task(held.freeze(60))
    await asyncio.sleep(0)
    freeze.cancel()
    await asyncio.wait({freeze})
    await held.thaw()
    assert asked(data)[-1:] == ["-u"]
    assert not (data / "frozen").exists()


async def test_a_freeze_that_does_not_end_is_not_waited_for_and_let_go_once_it_does(
    data: Path, held: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freezing, "_END_SECONDS", 0.1)
    (data / "slow").write_text("1")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await held.freeze(60)
    holder = pid(held)
    assert await held.thaw() is False
    assert is_alive(holder)
    async with asyncio.timeout(10):
        while is_alive(holder):
            await asyncio.sleep(0.01)
    assert asked(data) == ["-f", "-u", "-u"]
    assert not (data / "frozen").exists()


async def test_whose_holder_is_killed_it_is_let_go_by_the_agent(data: Path, held: Volume) -> None:
    await held.freeze(60)
    os.killpg(pid(held), signal.SIGKILL)
    await asyncio.sleep(0.1)
    assert (data / "frozen").exists()
    assert await held.thaw() is True


# --- the agent ---


class Other:
    """An agent that holds its volume still."""

    def __init__(self, data: Path, seconds: float) -> None:
        arguments = (sys.executable, "-c", AGENT, str(data), str(seconds))
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.word()

    def word(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def send(self, number: int) -> None:
        self.process.send_signal(number)


@pytest.fixture
def others() -> Iterator[list[Other]]:
    made: list[Other] = []
    yield made
    for other in made:
        other.process.kill()
        other.process.wait()


async def test_the_agent_killed_it_is_let_go_at_once(data: Path, others: list[Other]) -> None:
    others.append(other := Other(data, 60))
    assert other.word()
    assert (data / "frozen").exists()
    other.send(signal.SIGKILL)
    await until(data, frozen=False, within=5)


async def test_the_agent_killed_before_it_is_frozen_it_is_let_go_after_that(data: Path, others: list[Other]) -> None:
    (data / "slow").write_text("0.5")
    others.append(other := Other(data, 60))
    async with asyncio.timeout(5):
        while asked(data) != ["-f"]:
            await asyncio.sleep(0.01)
    other.send(signal.SIGKILL)
    async with asyncio.timeout(10):
        while asked(data) != ["-f", "-u"]:
            await asyncio.sleep(0.01)
    await until(data, frozen=False)


async def test_an_agent_that_hangs_does_not_keep_it(data: Path, others: list[Other]) -> None:
    others.append(other := Other(data, 0.5))
    assert other.word()
    other.send(signal.SIGSTOP)
    await until(data, frozen=False, within=5)


async def test_the_agent_and_its_holder_killed_the_next_agent_lets_it_go(
    data: Path, held: Volume, others: list[Other]
) -> None:
    others.append(other := Other(data, 60))
    os.killpg(int(other.word()), signal.SIGKILL)
    other.send(signal.SIGKILL)
    await asyncio.sleep(0.2)
    assert (data / "frozen").exists()
    assert await held.thaw() is True
