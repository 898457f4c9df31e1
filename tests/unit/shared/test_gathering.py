"""Reading in larger pieces begins with many messages, ends with few, and never leaves a message waiting."""

import asyncio
import socket

import pytest

from coffer_shared import gathering


class Options:
    """Records the low-water marks that were set."""

    def __init__(self, broken_after: int = 10**9) -> None:
        self.marks: list[int] = []
        self._left = broken_after

    def setsockopt(self, level: int, option: int, value: int) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self._left -= 1
        if self._left < 0:
            raise OSError("closed")
        self.marks.append(value)


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(gathering, "_MEASURE", 0.004)
    monkeypatch.setattr(gathering, "PAUSE", 0.001)


async def run_for(options: Options, counts: list[int]) -> None:
    """`counts` is what is received by each look; the last one stays."""
    looks = iter(counts)
    last = 0

    def received() -> int:
        nonlocal last
        last = next(looks, last)
        return last

    task = asyncio.create_task(gathering.gather(options, received))
    await asyncio.sleep(0.03)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_few_messages_change_nothing():
    options = Options()
    await run_for(options, [0, 0, 1, 1])
    assert set(options.marks) <= {1}


async def test_many_messages_are_gathered_and_always_let_through_again():
    options = Options()
    await run_for(options, [n * 1000 for n in range(100)])
    assert len(options.marks) >= 4
    assert options.marks[0] > 1
    assert set(options.marks[1::2]) == {1}
    assert options.marks[-1] == 1, "cancelled in the middle of a pause, it leaves nothing waiting"


async def test_a_closed_socket_ends_it():
    task = asyncio.create_task(gathering.gather(Options(broken_after=3), iter(range(0, 10**9, 1000)).__next__))
    await asyncio.wait_for(task, 5)


async def test_what_waits_is_read_within_the_pause():
    """On a real connection: one byte, far below the mark, arrives all the same."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = socket.create_connection(server.getsockname())
        here, _ = server.accept()
    with here, there:
        here.setblocking(False)
        reader = asyncio.create_task(asyncio.get_running_loop().sock_recv(here, 10))
        task = asyncio.create_task(gathering.gather(here, iter(range(0, 10**9, 1000)).__next__))
        await asyncio.sleep(0.02)
        there.send(b"x")
        assert await asyncio.wait_for(reader, 2) == b"x"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
