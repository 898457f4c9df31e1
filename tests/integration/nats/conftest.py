"""One server with the product's configuration for a whole file of tests, and the actors that meet on it."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from coffer_shared import subjects
from coffer_shared.bus import Backoff, Delivery, Link, ask_sealed, tls_context
from coffer_shared.identity import Credentials, connect_options
from coffer_shared.seal import KeyPair, Kind, Peer
from support.nats_server import NatsServer

QUICK = Backoff(first=0.05, ceiling=0.2)
Open = Callable[..., Any]
QUIET = 0.03
"""Long enough for a message that was let through to arrive on this machine; each use follows a round trip."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    running = NatsServer.start(tmp_path_factory.mktemp("nats"))
    yield running
    running.kill()


@dataclass
class Actor:
    """A raw client, as an attacker would use it, that remembers what the server objected to."""

    client: Client
    errors: list[str] = field(default_factory=list)
    received: list[Msg] = field(default_factory=list)

    async def listen(self, subject: str, queue: str = "") -> None:
        async def keep(message: Msg) -> None:
            self.received.append(message)

        await self.client.subscribe(subject, queue=queue, cb=keep)
        await self.settle()

    async def settle(self) -> None:
        """The server has dealt with all that was sent: the client's ping overtakes its buffer, so there are two."""
        await self.client.flush()
        await self.client.flush()

    async def send(self, subject: str, data: bytes = b"x", reply: str = "", headers: Any = None) -> None:
        await self.client.publish(subject, data, reply=reply, headers=headers)
        await self.settle()
        await asyncio.sleep(QUIET)

    async def subscribe_denied(self, subject: str, queue: str = "") -> bool:
        self.errors.clear()
        await self.listen(subject, queue)
        return self.complained("permissions violation for subscription")

    async def publish_denied(self, subject: str, **kw: Any) -> bool:
        self.errors.clear()
        await self.send(subject, **kw)
        return self.complained("permissions violation for publish")

    def complained(self, text: str) -> bool:
        return any(text in each.lower() for each in self.errors)

    @property
    def bodies(self) -> list[bytes]:
        return [message.data for message in self.received]


Enter = Callable[..., Awaitable[Actor]]


@pytest.fixture
async def enter(server: NatsServer) -> AsyncIterator[Enter]:
    """Connect with these credentials (or raw options); closed at the end of the test."""
    actors: list[Actor] = []
    tls = tls_context(server.ca_pem)

    async def connect(credentials: Credentials | None = None, **options: Any) -> Actor:
        actor = Actor(Client())

        async def note(error: Exception) -> None:
            actor.errors.append(str(error))

        known = connect_options(credentials) if credentials else {}
        chosen = {"tls": tls, "tls_handshake_first": True, "connect_timeout": 5, **known, **options}
        actor.client = await nats.connect(
            server.url, allow_reconnect=False, max_reconnect_attempts=1, error_cb=note, **chosen
        )
        actors.append(actor)
        return actor

    yield connect
    for actor in actors:
        await actor.client.close()


@dataclass
class Scene:
    """A guest whose credentials are in the hands of an attacker, an honest one, and the services."""

    own: str
    other: str
    thief: Actor
    honest: Actor
    provisioner: Actor
    collector: Actor


@pytest.fixture
async def scene(server: NatsServer, enter: Enter) -> Scene:
    own, other = str(uuid.uuid4()), str(uuid.uuid4())
    scene = Scene(
        own=own,
        other=other,
        thief=await enter(server.guest_creds(own), inbox_prefix=subjects.guest_inbox(own)),
        honest=await enter(server.guest_creds(other), inbox_prefix=subjects.guest_inbox(other)),
        provisioner=await enter(server.service_creds("provisioner"), inbox_prefix="_INBOX.provisioner"),
        collector=await enter(server.service_creds("status-collector")),
    )
    await scene.honest.listen(subjects.command(other))
    for subject in ("g.*.req", "e.*.enrol"):
        await scene.provisioner.listen(subject)
    for subject in ("g.*.hb", "g.*.ev"):
        await scene.collector.listen(subject)
    return scene


@pytest.fixture
async def open_link(server: NatsServer) -> AsyncIterator[Open]:
    links: list[Link] = []

    async def make(credentials: Any, inbox: str = "", *, wait: bool = True, **options: Any) -> Link:
        source = credentials if callable(credentials) else lambda: credentials
        chosen = {"backoff": QUICK, **options}
        link = Link((server.url,), source, name="test", tls=tls_context(server.ca_pem), inbox=inbox, **chosen)
        links.append(link)
        await link.start()
        if wait:
            await link.ready(5)
        return link

    yield make
    for link in links:
        await link.close(grace=0.2)


async def until(condition: Callable[[], bool], seconds: float = 8.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class Pair:
    """A guest that answers each command with its body, and the provisioner."""

    def __init__(self, guest: Link, service: Link, instance: str) -> None:
        keys, service_keys = KeyPair.generate(), KeyPair.generate()
        self.guest, self.service, self.instance = guest, service, instance
        self.guest_side = Peer("client", keys, service_keys.public)
        self.service_side = Peer("server", service_keys, keys.public)
        self.handled: list[bytes] = []
        self.hold: asyncio.Event | None = None

    async def on_command(self, received: Delivery) -> None:
        opened = self.guest_side.open(received.subject, received.data, received.reply, (Kind.CMD,))
        self.handled.append(opened.body)
        if self.hold is not None and opened.body == b"slow":
            await self.hold.wait()
        await received.answer(
            self.guest_side.seal(Kind.CMD_ANSWER, received.reply, opened.body, message_id=opened.message_id)
        )

    async def ask(self, body: bytes = b"hello", timeout: float = 2.0) -> bytes:
        return await ask_sealed(
            self.service, self.service_side, Kind.CMD, subjects.command(self.instance), body,
            answer=Kind.CMD_ANSWER, timeout=timeout,
        )  # fmt: skip


@pytest.fixture
async def pair(server: NatsServer, open_link: Open) -> Pair:
    instance = str(uuid.uuid4())
    guest = await open_link(server.guest_creds(instance), subjects.guest_inbox(instance))
    made = Pair(guest, await open_link(server.service_creds("provisioner"), "_INBOX.provisioner"), instance)

    async def on_command(received: Delivery) -> None:
        await made.on_command(received)

    await guest.subscribe(subjects.command(instance), "", on_command, pending_msgs=256)
    return made
