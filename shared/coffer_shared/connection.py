"""One NATS connection from its attempt to its end, and a message received on it. What outlives it is in `bus`."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import SlowConsumerError

from coffer_shared import gathering, log
from coffer_shared.errors import GiveUp, Unavailable

_log = log.get(__name__)

_ATTEMPT_SECONDS = 5
_CLOSE_SECONDS = 2.0
_UNSENT_BYTES = 256 * 1024


class Delivery(msgspec.Struct, frozen=True):
    """A received message, still sealed."""

    subject: str
    reply: str
    data: bytes
    connection: Connection

    async def answer(self, data: bytes) -> None:
        """On the connection it came in on: a guest may answer there only. The caller has checked `reply`."""
        await self.connection.publish(self.reply, data)

    def __repr__(self) -> str:
        return f"Delivery({self.subject}, {len(self.data)} bytes)"


Receive: TypeAlias = Callable[["Connection", Msg], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A subscription to make on every connection."""

    subject: str
    queue: str
    receive: Receive
    pending_msgs: int
    pending_bytes: int


class Connection:
    def __init__(self, max_payload: int, counters: Counter[str], changed: Callable[[], None]) -> None:
        """`changed` is called when the connection has ended; not on every way it can end, so `up` is to be watched."""
        self.handlers: set[asyncio.Task[None]] = set()
        """Tasks that work on messages of this connection; it is kept for their answers when it is retired."""
        self._client = Client()
        self._subscriptions: list[Subscription] = []
        self._max_payload = max_payload
        self._counters = counters
        self._changed = changed
        self._ended = asyncio.Event()
        self._error = ""
        self._slow = False
        self._gathering: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        return bool(self._client.is_connected)

    @property
    def reason(self) -> str:
        """Why it ended, as far as the library says."""
        return str(self._client.last_error or self._error) or "closed"

    async def connect(self, urls: list[str], options: dict[str, Any]) -> None:
        """One pass over the servers. It may return without being connected: `prove` tells."""

        async def on_closed() -> None:
            self._ended.set()
            self._changed()

        await self._client.connect(
            urls,
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=_ATTEMPT_SECONDS,
            max_outstanding_pings=2,
            tls_handshake_first=options.get("tls") is not None,
            error_cb=self._on_error,
            closed_cb=on_closed,
            pending_size=_UNSENT_BYTES,
            # Without a limit a publisher can wait for ever on a connection that died with a full buffer.
            flush_timeout=_ATTEMPT_SECONDS,
            **options,
        )

    async def subscribe(self, wanted: Wanted) -> None:
        async def receive(message: Msg) -> None:
            await wanted.receive(self, message)

        subscription = await self._client.subscribe(
            wanted.subject,
            queue=wanted.queue,
            cb=receive,
            pending_msgs_limit=wanted.pending_msgs,
            pending_bytes_limit=wanted.pending_bytes,
        )
        self._subscriptions.append(subscription)

    async def add(self, wanted: Wanted) -> None:
        """Subscribe while in use. If the connection ends meanwhile, the next one will have the subscription."""
        with suppress(NatsError, OSError, TimeoutError):
            await self.subscribe(wanted)
            await self.prove()

    async def prove(self) -> None:
        """Raises unless the server has accepted the connection and has the subscriptions made so far."""
        # The library's ping overtakes what waits in its buffer; that has gone out when the first one is answered.
        for _ in range(2):
            if not self.up:
                raise ConnectionError(f"the server has not accepted the connection: {self.reason}")
            await self._round_trip()

    def gather(self) -> None:
        """Read many small messages in fewer pieces from now on; see `gathering`."""
        transport: Any = self._client._transport  # noqa: SLF001 - the library has no other way to its socket
        writer = transport._io_writer  # noqa: SLF001
        reading = gathering.gather(writer.get_extra_info("socket"), lambda: int(self._client.stats["in_msgs"]))
        self._gathering = asyncio.create_task(reading)

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """GiveUp if the data is longer than the role allows; Unavailable if the connection has ended."""
        if len(data) > self._max_payload:
            raise GiveUp("too_large", f"a message of {len(data)} bytes; at most {self._max_payload} are allowed")
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        try:
            await self._client.publish(subject, data, reply)
        except (NatsError, OSError) as error:
            raise Unavailable("the connection to NATS has ended") from error
        if task and task.cancelling() > before:
            # The library swallows a cancellation that reaches it while it waits for room in its buffer.
            raise asyncio.CancelledError

    async def retire(self, grace: float) -> None:
        """Take no more messages, let handlers answer for up to `grace` seconds, close. Handlers are not cancelled."""
        if self._gathering is not None:
            self._gathering.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                if self.up:
                    drains = [each.drain() for each in self._subscriptions]  # type: ignore[no-untyped-call]
                    await asyncio.gather(*drains, return_exceptions=True)
                    while self.handlers:
                        await asyncio.wait(self.handlers)
        with suppress(TimeoutError, NatsError, OSError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._client.close()

    async def _round_trip(self) -> None:
        # By itself the library would wait for the answer of a connection that has ended.
        ended, answered = (
            asyncio.create_task(self._ended.wait()),
            asyncio.create_task(self._client.rtt(_ATTEMPT_SECONDS)),
        )
        try:
            await asyncio.wait({ended, answered}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            answered.cancel()
        if ended.done() and not answered.done():
            raise ConnectionError(self.reason)
        await answered

    async def _on_error(self, error: Exception) -> None:
        self._error = str(error) or type(error).__name__
        if isinstance(error, SlowConsumerError):
            self._counters["dropped"] += 1
            if not self._slow:
                self._slow = True
                _log.warning("nats messages dropped: too many wait", subject=error.subject)
        elif "permissions violation" in self._error.lower():
            self._counters["denied"] += 1
            _log.warning("nats permission denied", reason=self._error)


def tls_context(ca_pem: str) -> ssl.SSLContext:
    """Trusts that authority only."""
    context = ssl.create_default_context(cadata=ca_pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def delivery(connection: Connection, message: Msg) -> Delivery:
    return Delivery(message.subject, message.reply, message.data, connection)


def is_refusal(error: BaseException) -> bool:
    """Whether a failed attempt was turned away for its credentials."""
    text = str(error).lower()
    return isinstance(error, NatsError) and ("authorization" in text or "authentication" in text)
