"""One NATS connection that comes back by itself, for guests and services alike.

The client library closes for good when a JWT expires or is revoked, and reports a connection before it has proved one.
So its own reconnecting is off: a `Link` makes one connection object per attempt, proves it by a round trip, and tries
again with growing, jittered pauses. Answers come in on one wildcard subscription and are matched by token, because an
envelope binds the reply subject, which must therefore be known before sealing; and because waiting on the library's
own subscriptions turns a cancellation into another error. Nothing is queued while there is no connection.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from random import SystemRandom
from typing import Any, TypeAlias

from nats.aio.msg import Msg

from coffer_shared import log
from coffer_shared.connection import Connection, Delivery, Wanted, delivery, is_refusal, tls_context
from coffer_shared.errors import CofferError, GuestSilent, TryAgain, Unavailable
from coffer_shared.identity import CredentialSource, connect_options
from coffer_shared.seal import BadEnvelope, Kind, Peer

__all__ = ["Backoff", "Delivery", "FastHandler", "Handler", "Link", "ask_sealed", "tls_context"]

_log = log.get(__name__)
_random = SystemRandom()

_CONNECT_SECONDS = 15.0
_STEADY_SECONDS = 5.0
"""A connection that lived shorter counts as a failed attempt, so being kicked again and again slows down."""
_WATCH_SECONDS = 5.0
"""How often a silent connection is looked at: the library may take long to report a dead one."""
_RETIRE_SECONDS = 5.0
"""How long an exchanged connection is kept for the answers of handlers that still run."""

Handler: TypeAlias = Callable[[Delivery], Awaitable[None]]
FastHandler: TypeAlias = Callable[[Delivery], None]


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts: doubling from `first` to `ceiling` seconds, each shortened by up to a half at random."""

    first: float = 1.0
    ceiling: float = 60.0

    def delay(self, failures: int) -> float:
        return _random.uniform(0.5, 1.0) * min(self.ceiling, self.first * 2.0 ** min(failures - 1, 30))


async def ask_sealed(
    link: Link, peer: Peer, kind: Kind, subject: str, body: bytes, *, answer: Kind, timeout: float
) -> bytes:
    """The body of the answer to a sealed request. BadEnvelope if what came back answers something else."""
    message_id = os.urandom(16)
    received = await link.ask(subject, lambda reply: peer.seal(kind, subject, body, reply, message_id), timeout)
    opened = peer.open(received.subject, received.data, kinds=(answer,))
    if opened.message_id != message_id:
        raise BadEnvelope("answer")
    return opened.body


class Link:
    """`start`, then `ready` to wait for the first connection; `close` at the end. Subscribe at any time."""

    def __init__(
        self,
        urls: tuple[str, ...],
        credentials: CredentialSource,
        *,
        name: str,
        tls: ssl.SSLContext | None,
        tls_hostname: str | None = None,
        inbox: str = "",
        backoff: Backoff = Backoff(),
        max_payload: int = 128 * 1024,
        ping_seconds: float = 20.0,
        silence: type[TryAgain] = GuestSilent,
        gather: bool = False,
    ) -> None:
        """`credentials` is asked at every attempt. `inbox`: subject prefix, without the last dot, of answers to `ask`;
        `silence` is what it raises when nobody answers. `max_payload` is the role's limit: the server closes the
        connection of who exceeds it, so it is kept here. `gather`: many small messages come in, and each may wait for
        some milliseconds so that they are read together.
        """
        names = ("connects", "reconnects", "failed", "refused", "silent", "dropped", "denied", "handler_errors")
        self.counters: Counter[str] = Counter(dict.fromkeys(names, 0))
        self.last_error = ""
        self.refused = False
        """The last attempt was turned away for its credentials."""
        self._urls = list(urls)
        self._credentials = credentials
        self._options = {"name": name, "tls": tls, "tls_hostname": tls_hostname, "ping_interval": ping_seconds}
        self._name = name
        self._backoff = backoff
        self._max_payload = max_payload
        self._silence = silence
        self._gather = gather
        self._inbox = f"{inbox}.{secrets.token_hex(8)}" if inbox else ""
        self._wanted = [Wanted(f"{self._inbox}.*", "", self._on_answer, 65_536, 64 << 20)] if inbox else []
        self._waiting: dict[str, _Waiting] = {}
        self._expecting: set[asyncio.Future[None]] = set()
        self._on_up: list[Callable[[], Awaitable[None]]] = []
        self._connection: Connection | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._renew = False
        self._ending = False

    async def start(self) -> None:
        """Returns at once; connecting goes on by itself."""
        if self._supervisor is None:
            self._supervisor = asyncio.create_task(self._supervise(), name=f"nats {self._name}")

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.up

    async def ready(self, timeout: float) -> None:
        """Until there is a connection; Unavailable if there is none in time."""
        if not self.connected:
            await self._next_connection(timeout)

    def on_up(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Called, as a task, each time a new connection stands and its subscriptions are in place."""
        self._on_up.append(callback)

    async def subscribe(
        self,
        subject: str,
        queue: str,
        handler: Handler,
        *,
        concurrency: int = 32,
        pending_msgs: int = 65_536,
        pending_bytes: int = 64 << 20,
    ) -> None:
        """For this connection and all later ones. Up to `concurrency` messages are handled at a time, each in a task;
        what the limits do not let wait is dropped and counted. Guests take 256 messages and 4 MiB.
        """
        slots = asyncio.Semaphore(concurrency)

        async def receive(connection: Connection, message: Msg) -> None:
            await slots.acquire()
            task = self._spawn(self._handle(handler, delivery(connection, message)))
            connection.handlers.add(task)
            task.add_done_callback(connection.handlers.discard)
            task.add_done_callback(lambda _: slots.release())

        await self._want(Wanted(subject, queue, receive, pending_msgs, pending_bytes))

    async def subscribe_fast(
        self,
        subject: str,
        queue: str,
        callback: FastHandler,
        *,
        pending_msgs: int = 262_144,
        pending_bytes: int = 128 << 20,
    ) -> None:
        """As `subscribe`, for many small messages: the callback runs at once, in order, and must not take long."""

        async def receive(connection: Connection, message: Msg) -> None:
            try:
                callback(delivery(connection, message))
            except Exception:  # noqa: BLE001  one bad message must not end the subscription
                self._failed(message.subject)

        await self._want(Wanted(subject, queue, receive, pending_msgs, pending_bytes))

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Unavailable if there is no connection now."""
        await self._live().publish(subject, data, reply)

    async def ask(self, subject: str, build: Callable[[str], bytes], timeout: float) -> Delivery:
        """Publish what `build(reply subject)` makes and wait for the answer there.

        Raises `silence` when no answer comes in time, or at once when nobody is subscribed to `subject`;
        Unavailable when there is no connection or it is lost meanwhile.
        """
        with self._expect_answer() as (waiting, reply):
            try:
                async with asyncio.timeout(timeout):
                    await waiting.connection.publish(subject, build(reply), reply)
                    return await waiting.future
            except TimeoutError:
                self.counters["silent"] += 1
                raise self._silence(f"no answer within {timeout:g} s") from None

    async def ask_all(self, subject: str, data: bytes, seconds: float, enough: int = 0) -> list[Delivery]:
        """All answers that arrive within that time, or until there are `enough`."""
        with self._expect_answer(enough or sys.maxsize) as (waiting, reply):
            await waiting.connection.publish(subject, data, reply)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await waiting.future
            return waiting.several

    async def reconnect(self, timeout: float = 30.0) -> None:
        """Change over to a new connection, with what `credentials` gives now; the old one serves until then.

        Unavailable if it takes longer; it is then still tried.
        """
        self._renew = True
        self._changed.set()
        await self._next_connection(timeout)

    async def close(self, grace: float = 5.0) -> None:
        """Take no more messages, give running handlers that many seconds, then end everything."""
        self._ending = True
        self._changed.set()
        if self._supervisor is not None:
            self._supervisor.cancel()
            # It may have lost the cancellation inside the library; it then ends by the flag.
            await asyncio.wait({self._supervisor})
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.retire(grace)
        self._lost(None)
        left = self._tasks - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_RETIRE_SECONDS)

    # --- the supervisor

    async def _supervise(self) -> None:
        failures = 0
        while not self._ending:
            self._renew = False
            try:
                connection = await self._open()
            except Exception as error:  # noqa: BLE001  whatever the library, TLS or DNS raises, another attempt is the remedy
                failures += 1
                self._drop_dead()
                self._note(error, failures)
                await self._pause(self._backoff.delay(failures))
                continue
            since = time.monotonic()
            self._adopt(connection)
            while connection.up and not self._renew and not self._ending:
                await self._wait(_WATCH_SECONDS)
            if self._drop_dead():
                failures = 1 if time.monotonic() - since >= _STEADY_SECONDS else failures + 1
                await self._pause(self._backoff.delay(failures))

    async def _open(self) -> Connection:
        connection = Connection(self._max_payload, self.counters, self._changed.set)
        options: dict[str, Any] = {**self._options, **connect_options(self._credentials)}
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await connection.connect(self._urls, options)
                made = 0
                while True:
                    missing = self._wanted[made:]
                    for wanted in missing:
                        await connection.subscribe(wanted)
                    made += len(missing)
                    await connection.prove()
                    if made == len(self._wanted):
                        break
            if self._gather:
                connection.gather()
        except BaseException:
            self._spawn(connection.retire(0))
            raise
        return connection

    def _adopt(self, connection: Connection) -> None:
        old, self._connection = self._connection, connection
        if old is not None:
            self._spawn(old.retire(_RETIRE_SECONDS))
        self.counters["reconnects"] += self.counters["connects"] > 0
        self.counters["connects"] += 1
        self.refused = False
        _log.info("nats connected", link=self._name)
        for future in self._expecting:
            if not future.done():
                future.set_result(None)
        for callback in self._on_up:
            self._spawn(self._guarded(callback))

    def _drop_dead(self) -> bool:
        dead = self._connection
        if dead is None or dead.up:
            return False
        self._connection = None
        self.last_error = dead.reason
        _log.warning("nats connection lost", link=self._name, reason=self.last_error)
        self._lost(dead)
        self._spawn(dead.retire(0))
        return True

    def _note(self, error: Exception, failures: int) -> None:
        self.last_error = str(error) or type(error).__name__
        self.refused = is_refusal(error)
        self.counters["refused" if self.refused else "failed"] += 1
        _log.warning("nats connection failed", link=self._name, reason=self.last_error, attempt=failures)

    async def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._renew and not self._ending:
            await self._wait(left)

    async def _wait(self, seconds: float) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _next_connection(self, timeout: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expecting.add(future)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise Unavailable(f"no connection to NATS within {timeout:g} s") from None
        finally:
            self._expecting.discard(future)

    # --- messages

    async def _want(self, wanted: Wanted) -> None:
        self._wanted.append(wanted)
        if self.connected:
            await self._live().add(wanted)

    async def _handle(self, handler: Handler, received: Delivery) -> None:
        try:
            await handler(received)
        except Exception:  # noqa: BLE001  one bad message must not end the subscription
            self._failed(received.subject)

    async def _guarded(self, callback: Callable[[], Awaitable[None]]) -> None:
        try:
            await callback()
        except CofferError as error:
            _log.warning("after connecting", link=self._name, reason=str(error))
        except Exception:  # noqa: BLE001  the connection serves others beside this callback
            self._failed("")

    def _failed(self, subject: str) -> None:
        self.counters["handler_errors"] += 1
        _log.exception("nats handler failed", link=self._name, subject=subject)

    async def _on_answer(self, connection: Connection, message: Msg) -> None:
        waiting = self._waiting.get(message.subject.rsplit(".", 1)[1])
        if waiting is None or waiting.future.done():
            return
        # Headers are outside the seal, but this one can only make its sender look absent.
        if not message.data and message.headers and message.headers.get("Status") == "503":
            self.counters["silent"] += 1
            waiting.future.set_exception(self._silence("nobody listens"))
        else:
            waiting.several.append(delivery(connection, message))
            if len(waiting.several) == waiting.enough:
                waiting.future.set_result(waiting.several[0])

    @contextmanager
    def _expect_answer(self, enough: int = 1) -> Iterator[tuple[_Waiting, str]]:
        if not self._inbox:
            raise ValueError("a link without an inbox cannot ask")
        token = secrets.token_hex(12)
        self._waiting[token] = _Waiting(self._live(), asyncio.get_running_loop().create_future(), enough, [])
        try:
            yield self._waiting[token], f"{self._inbox}.{token}"
        finally:
            del self._waiting[token]

    def _lost(self, connection: Connection | None) -> None:
        for waiting in self._waiting.values():
            if (connection is None or waiting.connection is connection) and not waiting.future.done():
                waiting.future.set_exception(Unavailable("the connection to NATS was lost"))

    def _live(self) -> Connection:
        if self._connection is None or not self._connection.up:
            raise Unavailable("not connected to NATS")
        return self._connection

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@dataclass(frozen=True, slots=True)
class _Waiting:
    connection: Connection
    future: asyncio.Future[Delivery]
    enough: int
    several: list[Delivery]
