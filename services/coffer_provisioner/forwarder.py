"""coffer-forwarder: takes TCP connections on one address and passes them on to one target, for peers in given networks.

A small program of its own, one process per public address, so it needs nothing but the standard library. Its
configuration is a JSON file (see `Config`), read again on SIGHUP; connections that are no longer allowed end then.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

DEFAULT_PATH = "/config/forwarder.json"
CHUNK = 64 * 1024
CONNECT_SECONDS = 10.0
REPORT_SECONDS = 10.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class BadConfig(Exception):
    """The file cannot be read, or does not say what is needed."""


@dataclass(frozen=True, slots=True)
class Config:
    """{"listen": ["127.0.13.2", 5432], "target": ["10.213.0.2", 5432], "allowed": ["192.0.2.0/24"], "connections": 400,
    "mark": "f00d"}

    `allowed` empty means everybody; `connections` may be left out. What is said of a configuration has its `mark`, by
    which who wrote it knows that it is in force.
    """

    listen: tuple[str, int]
    target: tuple[str, int]
    allowed: tuple[IPv4Network | IPv6Network, ...] = ()
    connections: int = 400
    mark: str = ""

    def allows(self, peer: str) -> bool:
        return not self.allowed or any(_address(peer) in network for network in self.allowed)


def decode(raw: bytes) -> Config:
    try:
        data = json.loads(raw)
        return Config(
            listen=_endpoint(data["listen"]),
            target=_endpoint(data["target"]),
            allowed=tuple(ip_network(text, strict=False) for text in data.get("allowed", ())),
            connections=int(data.get("connections", 400)),
            mark=str(data.get("mark", "")),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise BadConfig(f"{type(error).__name__}: {error}") from error


def read(path: Path) -> Config:
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise BadConfig(f"{path}: {error.strerror}") from error


class Forwarder:
    """One listening socket and its connections. `start`, then `reload` at will, then `stop`."""

    def __init__(self, path: Path, *, say: Callable[..., None] | None = None) -> None:
        self._path = path
        self._say = say or _say
        self._refusals = _Tally(self._say)
        self._config: Config | None = None
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._connections: dict[asyncio.Task[None], str] = {}
        self._reloading = asyncio.Lock()

    async def start(self) -> None:
        """BadConfig or OSError when it cannot."""
        async with self._reloading:
            config = await asyncio.to_thread(read, self._path)
            self._listen(config)

    async def reload(self) -> None:
        """Take over the file as it is now. One that is bad changes nothing, and that is logged."""
        async with self._reloading:
            old, mark = self._config, ""
            try:
                new = await asyncio.to_thread(read, self._path)
                mark = new.mark
                if old is None or new.listen != old.listen:
                    self._listen(new)
            except (BadConfig, OSError) as error:
                self._say("configuration not taken over", error=str(error), mark=mark)
                return
            self._config = new
            ended = [
                task for task, peer in self._connections.items()
                if (old is not None and new.target != old.target) or not new.allows(peer)
            ]
            for task in ended:
                task.cancel()
            await asyncio.gather(*ended, return_exceptions=True)
            allowed = [str(network) for network in new.allowed]
            self._say("configuration taken over", ended=len(ended), allowed=allowed, mark=new.mark)

    async def stop(self) -> None:
        tasks = [*self._connections, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        self._refusals.close()

    @property
    def connections(self) -> int:
        return len(self._connections)

    def _listen(self, config: Config) -> None:
        listener = _bound(config.listen)
        if self._accepting is not None:
            self._accepting.cancel()
        if self._listener is not None:
            # its task may still be registered with the loop: that ends before the next socket can get this number
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        self._config, self._listener = config, listener
        self._accepting = asyncio.create_task(self._accept(listener))
        address, port = config.listen
        self._say("listening", address=address, port=port, target=config.target[0], mark=config.mark)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, peer = await loop.sock_accept(listener)
            except OSError as error:
                # out of descriptors, or the client went away first: the next one may do better
                self._refusals.add("accept failed", error.strerror or "")
                await asyncio.sleep(0.05)
                continue
            self._take(client, peer[0])

    def _take(self, client: socket.socket, peer: str) -> None:
        config = self._config
        assert config is not None
        if not config.allows(peer):
            self._refusals.add("not allowed", peer)
            client.close()
        elif len(self._connections) >= config.connections:
            self._refusals.add("too many connections", peer)
            client.close()
        else:
            task = asyncio.create_task(self._serve(client, config))
            self._connections[task] = peer
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        del self._connections[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._say("connection failed", error=repr(error))

    async def _serve(self, client: socket.socket, config: Config) -> None:
        server = None
        try:
            try:
                server = await _connect(config.target)
            except (OSError, TimeoutError) as error:
                self._refusals.add("target unreachable", str(error) or "timed out")
                _abort(client)
                return
            _tune(client)
            _tune(server)
            await _splice(client, server)
        except asyncio.CancelledError:
            _abort(client)
            raise
        finally:
            client.close()
            if server is not None:
                server.close()


async def _splice(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes both ways until both sides have said that they are done, or one breaks."""
    ways = [asyncio.create_task(_pass_on(one, other)), asyncio.create_task(_pass_on(other, one))]
    try:
        await asyncio.gather(*ways)
    except OSError:
        # a broken stream must not look like one that ended
        _abort(one)
        _abort(other)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    """One way. Nothing is read before what was read is written: a slow reader slows its writer."""
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, CHUNK):
        await loop.sock_sendall(sink, data)
    # the other end may have closed wholly by now, which makes this pointless but not wrong
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


async def _connect(target: tuple[str, int]) -> socket.socket:
    server = socket.socket(_family(target[0]), socket.SOCK_STREAM)
    server.setblocking(False)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await asyncio.get_running_loop().sock_connect(server, target)
    except BaseException:
        server.close()
        raise
    return server


def _bound(address: tuple[str, int]) -> socket.socket:
    listener = socket.socket(_family(address[0]), socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def _tune(connection: socket.socket) -> None:
    """No time limit on idle connections, but a peer that is gone is noticed within about two minutes."""
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def _abort(connection: socket.socket) -> None:
    """Make the close that follows a reset, which the peer cannot take for an ordinary end."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)


@dataclass(slots=True)
class _Tally:
    """Counts what goes wrong and says so at once, then at most once every REPORT_SECONDS."""

    say: Callable[..., None]
    counts: dict[str, int] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None

    def add(self, what: str, detail: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        self.last[what] = detail
        if self.timer is None:
            self._report()

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()

    def _report(self) -> None:
        self.timer = None
        if not self.counts:
            return
        for what, count in self.counts.items():
            self.say("refused", why=what, count=count, last=self.last[what])
        self.counts.clear()
        self.timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)


def _say(event: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"service": "forwarder", "event": event, **more}) + "\n")
    sys.stdout.flush()


def _endpoint(value: Any) -> tuple[str, int]:
    address, port = value
    if not 0 <= int(port) < 65536:
        raise ValueError(f"not a port: {port}")
    return str(ip_address(address)), int(port)


def _address(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text.partition("%")[0])
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


async def _run(path: Path) -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    changed = asyncio.Event()
    # before the first reading, so that no change between the two is missed
    loop.add_signal_handler(signal.SIGHUP, changed.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    forwarder = Forwarder(path)
    try:
        await forwarder.start()
    except (BadConfig, OSError) as error:
        _say("cannot start", error=str(error))
        return 1
    reloading = asyncio.create_task(_reload_on(changed, forwarder))
    await stopping.wait()
    reloading.cancel()
    await forwarder.stop()
    return 0


async def _reload_on(changed: asyncio.Event, forwarder: Forwarder) -> None:
    while True:
        await changed.wait()
        changed.clear()
        await forwarder.reload()


def main() -> None:
    """Path of the configuration: the argument, else COFFER_FORWARDER_CONFIG, else DEFAULT_PATH."""
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("COFFER_FORWARDER_CONFIG", DEFAULT_PATH)
    sys.exit(asyncio.run(_run(Path(given))))


if __name__ == "__main__":
    main()
