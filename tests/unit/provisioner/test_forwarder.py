"""The forwarder, over real sockets on the loopback network."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coffer_provisioner import forwarder
from coffer_provisioner.forwarder import BadConfig, Forwarder, decode

LISTEN, TARGET = "127.0.0.1", "127.0.0.1"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def free_port(address: str = LISTEN) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def target(handler: Handler) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, TARGET, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        pass
    finally:
        writer.close()


class Running:
    """A forwarder under test, its file, and what it said."""

    def __init__(self, path: Path, to: int, **more: Any) -> None:
        self.path, self.port = path, free_port()
        self.said: list[dict[str, Any]] = []
        self.write(to=to, **more)
        self.forwarder = Forwarder(path, say=lambda event, **rest: self.said.append({"event": event, **rest}))

    def write(self, *, to: int, **more: Any) -> None:
        self.path.write_text(json.dumps({"listen": [LISTEN, self.port], "target": [TARGET, to], **more}))

    async def connect(self, source: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(LISTEN, self.port, local_addr=(source, 0))

    async def answers(self, source: str = "127.0.0.1") -> bool:
        reader, writer = await self.connect(source)
        try:
            writer.write(b"ping")
            return await reader.read(4) == b"ping"
        except OSError:
            return False
        finally:
            writer.close()


@asynccontextmanager
async def running(path: Path, to: int, **more: Any) -> AsyncIterator[Running]:
    under_test = Running(path / "forwarder.json", to, **more)
    await under_test.forwarder.start()
    try:
        yield under_test
    finally:
        await under_test.forwarder.stop()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_fifty_megabytes_arrive_whole_in_both_directions(tmp_path: Path) -> None:
    sent, got = hashlib.sha256(), hashlib.sha256()
    block = os.urandom(1 << 20)
    async with target(echo) as to, running(tmp_path, to) as f:
        reader, writer = await f.connect()

        async def send() -> None:
            for number in range(50):
                piece = number.to_bytes(4, "big") + block
                sent.update(piece)
                writer.write(piece)
                await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        size = 0
        while data := await reader.read(1 << 18):
            got.update(data)
            size += len(data)
        await sending
        writer.close()
    assert size == 50 * (4 + (1 << 20))
    assert got.digest() == sent.digest()


async def test_a_half_closed_connection_still_carries_the_answer(tmp_path: Path) -> None:
    async def answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()  # returns only at the end of the stream
        writer.write(b"you said " + question)
        await writer.drain()
        writer.close()

    async with target(answer_after_the_end) as to, running(tmp_path, to) as f:
        reader, writer = await f.connect()
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"you said hello"
        writer.close()
        await until(lambda: f.forwarder.connections == 0)


async def test_a_reader_that_does_not_read_stops_the_writer(tmp_path: Path) -> None:
    taken = 0

    async def flood(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                taken += 65536
        except OSError:
            pass
        finally:
            writer.close()

    async with target(flood) as to, running(tmp_path, to) as f:
        client = socket.socket()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (LISTEN, f.port))
        before = -1
        while taken != before:
            before = taken
            await asyncio.sleep(0.2)
        assert 0 < taken < 64 << 20, "what the kernel's buffers hold, and no more"
        client.close()
        await until(lambda: f.forwarder.connections == 0)


async def test_a_target_that_breaks_off_is_not_taken_for_an_end(tmp_path: Path) -> None:
    async def reset_midway(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.write(b"half of it")
        await writer.drain()
        writer.transport.abort()

    async with target(reset_midway) as to, running(tmp_path, to) as f:
        reader, writer = await f.connect()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1000)
        writer.close()


async def test_only_allowed_networks_get_through(tmp_path: Path) -> None:
    async with target(echo) as to, running(tmp_path, to, allowed=["127.0.9.0/24", "192.0.2.7/32"]) as f:
        assert await f.answers("127.0.9.1")
        assert not await f.answers("127.0.0.1")
        assert not await f.answers("127.0.10.1")
        refused = [line for line in f.said if line["event"] == "refused"]
        assert len(refused) == 1, "the second one is only counted"
        assert refused[0]["why"] == "not allowed"
        assert refused[0]["last"] == "127.0.0.1"


async def test_refusals_are_counted_and_told_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarder, "REPORT_SECONDS", 0.2)
    async with target(echo) as to, running(tmp_path, to, allowed=["192.0.2.0/24"]) as f:
        for _ in range(6):
            assert not await f.answers()
        await until(lambda: sum(line.get("count", 0) for line in f.said) == 6)
        assert len([line for line in f.said if line["event"] == "refused"]) <= 3


async def test_new_networks_end_connections_that_are_no_longer_allowed(tmp_path: Path) -> None:
    async with target(echo) as to, running(tmp_path, to) as f:
        reader, writer = await f.connect("127.0.9.1")
        other_reader, other_writer = await f.connect("127.0.8.1")
        for r, w in ((reader, writer), (other_reader, other_writer)):
            w.write(b"x")
            assert await r.read(1) == b"x"
        f.write(to=to, allowed=["127.0.8.0/24"])
        await f.forwarder.reload()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        other_writer.write(b"y")
        assert await other_reader.read(1) == b"y", "the allowed one never noticed"
        assert not await f.answers("127.0.9.1")
        writer.close()
        other_writer.close()


async def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    async with target(echo) as to, running(tmp_path, to, allowed=["127.0.0.0/8"]) as f:
        f.path.write_text('{"listen": ')
        await f.forwarder.reload()
        assert await f.answers()
        f.path.unlink()
        await f.forwarder.reload()
        assert await f.answers()
        assert [line["event"] for line in f.said].count("configuration not taken over") == 2


async def test_what_it_says_of_a_configuration_has_its_mark(tmp_path: Path) -> None:
    async with target(echo) as to, running(tmp_path, to, mark="first") as f:
        f.write(to=to, mark="second")
        await f.forwarder.reload()
        with socket.socket() as other:
            other.bind((LISTEN, 0))
            f.port = other.getsockname()[1]
            f.write(to=to, mark="third")
            await f.forwarder.reload()
        assert [(line["event"], line["mark"], "error" in line) for line in f.said] == [
            ("listening", "first", False),
            ("configuration taken over", "second", False),
            ("configuration not taken over", "third", True),
        ]


async def test_a_new_place_to_listen_replaces_the_old_one(tmp_path: Path) -> None:
    async with target(echo) as to, running(tmp_path, to) as f:
        old, f.port = f.port, free_port()
        f.write(to=to)
        await f.forwarder.reload()
        assert await f.answers()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(LISTEN, old)


async def test_a_place_that_is_taken_leaves_the_old_one(tmp_path: Path) -> None:
    async with target(echo) as to, running(tmp_path, to) as f:
        old, f.port = f.port, to
        f.write(to=to)
        await f.forwarder.reload()
        f.port = old
        assert await f.answers()


async def test_a_new_target_ends_connections_to_the_old_one(tmp_path: Path) -> None:
    async def hello(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"other")
        writer.close()

    async with target(echo) as first, target(hello) as second, running(tmp_path, first) as f:
        reader, writer = await f.connect()
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        f.write(to=second)
        await f.forwarder.reload()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        reader, writer = await f.connect()
        assert await reader.read() == b"other"
        writer.close()


async def test_more_connections_than_allowed_are_turned_away(tmp_path: Path) -> None:
    async with target(echo) as to, running(tmp_path, to, connections=2) as f:
        open_ones = [await f.connect() for _ in range(2)]
        await until(lambda: f.forwarder.connections == 2)
        assert not await f.answers()
        open_ones[0][1].close()
        await until(lambda: f.forwarder.connections == 1)
        assert await f.answers()
        open_ones[1][1].close()


async def test_a_target_that_is_down_is_said_and_survived(tmp_path: Path) -> None:
    async with running(tmp_path, free_port()) as f:
        assert not await f.answers()
        assert [line["why"] for line in f.said if line["event"] == "refused"] == ["target unreachable"]
        async with target(echo) as to:
            f.write(to=to)
            await f.forwarder.reload()
            assert await f.answers()


@pytest.mark.parametrize("raw", [
    b"", b"[]", b"{}", b'{"listen": ["127.0.0.1", 1]}',
    b'{"listen": ["nowhere", 1], "target": ["127.0.0.1", 1]}',
    b'{"listen": ["127.0.0.1", 70000], "target": ["127.0.0.1", 1]}',
    b'{"listen": ["127.0.0.1", 1], "target": ["127.0.0.1", 1], "allowed": ["300.0.0.0/8"]}',
    b'{"listen": ["127.0.0.1", 1], "target": ["127.0.0.1", 1], "allowed": 7}',
])
def test_nonsense_is_refused(raw: bytes) -> None:
    with pytest.raises(BadConfig):
        decode(raw)


@pytest.mark.parametrize(("allowed", "peer", "let_in"), [
    ([], "203.0.113.9", True),
    (["0.0.0.0/0"], "203.0.113.9", True),
    (["0.0.0.0/0"], "2001:db8::1", False),
    (["::/0"], "2001:db8::1", True),
    (["2001:db8::/32"], "2001:db8:1::1", True),
    (["2001:db8::/32"], "2001:db9::1", False),
    (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
    (["10.0.0.0/8"], "::ffff:11.1.2.3", False),
    (["fe80::/10"], "fe80::1%eth0", True),
    (["10.0.0.7/8"], "10.9.9.9", True),
])
def test_peers_and_networks_of_both_families(allowed: list[str], peer: str, let_in: bool) -> None:
    raw = json.dumps({"listen": ["127.0.0.1", 1], "target": ["127.0.0.1", 1], "allowed": allowed})
    assert decode(raw.encode()).allows(peer) is let_in


async def test_the_program_reloads_on_hangup_and_ends_on_request(tmp_path: Path) -> None:
    async with target(echo) as to:
        f = Running(tmp_path / "f.json", to)
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "coffer_provisioner.forwarder", str(f.path), stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert program.stdout is not None
            assert json.loads(await program.stdout.readline())["event"] == "listening"
            assert await f.answers()
            f.write(to=to, allowed=["192.0.2.0/24"])
            program.send_signal(signal.SIGHUP)
            assert json.loads(await program.stdout.readline())["event"] == "configuration taken over"
            assert not await f.answers()
            program.send_signal(signal.SIGTERM)
            await program.stdout.read()
            assert await program.wait() == 0
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()


async def test_the_program_says_why_it_cannot_start(tmp_path: Path) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "coffer_provisioner.forwarder", str(tmp_path / "none.json"),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await program.communicate()
    assert program.returncode == 1
    assert json.loads(said)["event"] == "cannot start"
