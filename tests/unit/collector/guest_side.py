"""A guest's side of heartbeats and events, without a network."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any, cast
from uuid import uuid4

import msgspec

from coffer_shared import subjects
from coffer_shared.connection import Delivery
from coffer_shared.errors import Unavailable
from coffer_shared.messages import Engine, Heartbeat, Message, decode_noted, encode
from coffer_shared.seal import KeyPair, Kind, Peer
from coffer_status_collector.peers import Peers

MINE = KeyPair.generate()
NOW = 1_763_800_000.0


class FixedSender:
    """Sequence numbers by hand."""

    id = 0

    def __init__(self) -> None:
        self.seq = int(NOW * 1_000_000)

    def next(self) -> int:
        self.seq += 1
        return self.seq


class Connection:
    """Keeps what is answered; can be gone."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.gone = False

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        if self.gone:
            raise Unavailable("gone")
        self.sent.append((subject, data))


class Guest:
    def __init__(self, instance: str | None = None) -> None:
        self.instance = instance or str(uuid4())
        self.keys = KeyPair.generate()
        self.sender = FixedSender()
        self.peer = Peer("client", self.keys, MINE.public, sender=cast("Any", self.sender))
        self.connection = Connection()

    def sealed(self, kind: Kind, subject: str, body: bytes, reply: str = "") -> Delivery:
        data = self.peer.seal(kind, subject, body, reply)
        return Delivery(subject, reply, data, cast("Any", self.connection))

    def heartbeat(self, engine: Engine = Engine.HEALTHY, **more: Any) -> Delivery:
        return self.raw_heartbeat(encode(Heartbeat(at=NOW, version="1", engine=engine, **more)))

    def raw_heartbeat(self, body: bytes) -> Delivery:
        return self.sealed(Kind.HEARTBEAT, subjects.heartbeat(self.instance), body)

    def event(self, event: Message, reply: str | None = None) -> Delivery:
        inbox = f"{subjects.guest_inbox(self.instance)}.{secrets.token_hex(4)}"
        subject = subjects.event(self.instance)
        return self.sealed(Kind.EVENT, subject, encode(event), inbox if reply is None else reply)

    def noted(self) -> int:
        """How many answers came, each of which must open as the acknowledgement that it is."""
        for subject, data in self.connection.sent:
            decode_noted(self.peer.open(subject, data, kinds=(Kind.RESPONSE,)).body)
        return len(self.connection.sent)


class Known:
    """`Keys` of given guests."""

    def __init__(self, *guests: Guest) -> None:
        self.guests = list(guests)

    async def page(self, after: str, limit: int) -> Sequence[tuple[str, bytes, bytes | None]]:
        return sorted((g.instance, g.keys.public, None) for g in self.guests if g.instance > after)[:limit]

    async def some(self, instances: Sequence[str]) -> Sequence[tuple[str, bytes, bytes | None]]:
        return [(g.instance, g.keys.public, None) for g in self.guests if g.instance in instances]


async def peers_of(*guests: Guest) -> Peers:
    peers = Peers(MINE, Known(*guests))
    await peers.load()
    return peers


def facts(text: str) -> dict[str, Any]:
    return cast("dict[str, Any]", msgspec.json.decode(text))
