"""Who meets the provisioner in these tests, and the keys of the installation they belong to."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import text

from coffer_db.database import Database
from coffer_db.secrets import MasterKey
from coffer_provisioner.guest_requests import GuestRequests
from coffer_shared import jwt, subjects
from coffer_shared.bus import Link, ask_sealed
from coffer_shared.identity import Credentials, decode_user_data
from coffer_shared.keyset import KeySet, ServiceKey, root_public, sign
from coffer_shared.messages import (
    Credential,
    Enrol,
    Request,
    RequestAnswer,
    Rotate,
    decode_request_answer,
    encode,
)
from coffer_shared.nkeys import Kind as KeyKind
from coffer_shared.nkeys import NKey
from coffer_shared.seal import KeyPair, Kind, Peer

LIFE = timedelta(days=30)
OPERATION = "33333333-3333-4333-8333-333333333333"
MASTER = MasterKey.generate()
PORTS = {"postgresql": 5432}
SERVICES = {name: KeyPair.generate() for name in ("provisioner", "api", "status-collector", "backup-scheduler")}
_SEED = os.urandom(32)
ROOT = root_public(_SEED)
TRUSTED = KeySet(
    keys=tuple(ServiceKey(name, pair.public.hex(), (), 0, time.time() + 1e6) for name, pair in SERVICES.items()),
    issued_at=time.time(),
)
SIGNED = sign(TRUSTED, _SEED)


@dataclass
class Provisioner:
    requests: GuestRequests
    link: Link
    enrolled: list[str]


class StubGuest:
    """Does what the agent does at first, with keys in memory."""

    def __init__(self, user_data: bytes, link: Callable[..., Awaitable[Link]]) -> None:
        self.data = decode_user_data(user_data)
        self.instance = self.data.instance
        self.keys, self.nkey = KeyPair.generate(), NKey.generate(KeyKind.USER)
        self.jwt = ""
        self._link = link
        self.link: Link | None = None

    def peer(self, keys: KeyPair | None = None, **more: Any) -> Peer:
        return Peer("client", keys or self.keys, SERVICES["provisioner"].public, **more)

    def enrolment(self, reply: str, message_id: bytes | None = None, *, subject: str = "", **changes: Any) -> bytes:
        """What goes out, with these fields inside changed."""
        fields = {
            "secret": self.data.secret, "xpub": self.keys.public.hex(), "nkey": self.nkey.public, "version": "1.0",
        }
        body = encode(Enrol(**(fields | changes)))
        subject = subject or subjects.enrol(self.instance)
        return self.keys.public + self.peer().seal(Kind.ENROL, subject, body, reply, message_id)

    async def enrol(self, within: float = 5.0) -> Credential:
        link = await self._link(self.data.boot, "boot", subjects.enrol_inbox(self.instance))
        message_id = os.urandom(16)
        received = await link.ask(
            subjects.enrol(self.instance), lambda reply: self.enrolment(reply, message_id), within,
        )
        opened = self.peer().open(received.subject, received.data, kinds=(Kind.RESPONSE,))
        assert opened.message_id == message_id
        answer = decode_request_answer(opened.body)
        assert isinstance(answer, Credential)
        self.jwt = answer.jwt
        return answer

    async def connect(self) -> Link:
        """To NATS, with the identity that it was given."""
        own = Credentials(self.jwt, self.nkey.seed)
        self.link = await self._link(own, "guest", subjects.guest_inbox(self.instance))
        return self.link

    async def ask(self, request: Request, *, keys: KeyPair | None = None, within: float = 5.0) -> RequestAnswer:
        assert self.link is not None
        return decode_request_answer(await ask_sealed(
            self.link, self.peer(keys), Kind.REQUEST, subjects.request(self.instance), encode(request),
            answer=Kind.RESPONSE, timeout=within,
        ))

    async def rotate(self, keys: KeyPair, nkey: NKey, *, under: KeyPair | None = None) -> RequestAnswer:
        return await self.ask(Rotate(xpub=keys.public.hex(), nkey=nkey.public), keys=under)


def new_keys() -> tuple[KeyPair, NKey]:
    return KeyPair.generate(), NKey.generate(KeyKind.USER)


def owner_of(token: str) -> str:
    return jwt.decode(token).subject


async def guest_row(db: Database, instance: str) -> Any:
    async with db.connect() as connection:
        found = await connection.execute(text("SELECT * FROM guests WHERE instance_id = :i"), {"i": instance})
        return found.one()


async def revoked(db: Database) -> set[str]:
    async with db.connect() as connection:
        return {nkey for (nkey,) in await connection.execute(text("SELECT nkey FROM revocations"))}


async def execute(db: Database, sql: str, **values: Any) -> None:
    async with db.connect() as connection:
        await connection.execute(text(sql), values)


async def until(condition: Callable[[], bool], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)
