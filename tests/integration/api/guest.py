"""A guest that answers questions over a real NATS server, with the facts it is given."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from coffer_db.secrets import MasterKey
from coffer_db.tables import OperationState
from coffer_shared import identity, keyset, subjects
from coffer_shared.bus import Delivery, Link, tls_context
from coffer_shared.commands import DatabaseFound, RootState, UserFound
from coffer_shared.messages import Answer, Query, Refused, decode_command, encode
from coffer_shared.seal import KeyPair, Kind, Peer
from integration.api.service import Answer as Reply
from integration.api.service import Caller, World

if TYPE_CHECKING:
    from support.nats_server import NatsServer

API, PROVISIONER, ROOT_SEED = KeyPair.generate(), KeyPair.generate(), bytes(range(32))


def write_state(state: Path, nats: NatsServer, master: MasterKey) -> None:
    """What the API finds in its directory when there is a NATS."""
    keys = tuple(
        keyset.ServiceKey(service=name, public=pair.public.hex(), kinds=kinds, not_before=0, not_after=2**40)
        for name, pair, kinds in (("api", API, ("query",)), ("provisioner", PROVISIONER, ("start", "query")))
    )
    (state / "keyset").write_text(keyset.sign(keyset.KeySet(keys=keys, issued_at=1), ROOT_SEED))
    (state / "root.pub").write_text(keyset.root_public(ROOT_SEED))
    (state / "key").write_text(API.private.hex())
    (state / "ca.pem").write_text(nats.ca_pem)
    (state / "master.pub").write_text(bytes(master.public).hex())
    identity.save(nats.service_creds("api"), state / "guests.creds")
    identity.save(nats.service_creds("api", "CTL"), state / "control.creds")


class StubGuest:
    """`databases`, `users` and `root` are what it says; `silent` makes it say nothing."""

    def __init__(self, instance: str, nats: NatsServer) -> None:
        self.instance = instance
        self.keys = KeyPair.generate()
        self.databases: list[str] = []
        self.users: list[UserFound] = []
        self.root = False
        self.silent = False
        self.garbled = False
        self.asked: list[Query] = []
        self._link = Link(
            (nats.url,), nats.guest_creds(instance), name="guest", tls=tls_context(nats.ca_pem),
            inbox=subjects.guest_inbox(instance),
        )

    async def start(self) -> None:
        await self._link.subscribe(subjects.command(self.instance), "", self._on_command)
        await self._link.start()
        await self._link.ready(10)

    async def stop(self) -> None:
        await self._link.close()

    async def _on_command(self, message: Delivery) -> None:
        peer = Peer("client", self.keys, API.public)
        opened = peer.open(message.subject, message.data, message.reply, (Kind.CMD,))
        question = decode_command(opened.body)
        assert isinstance(question, Query)
        self.asked.append(question)
        if self.silent:
            return
        body = b"{}" if self.garbled else encode(self._answer(question))
        await message.answer(peer.seal(Kind.CMD_ANSWER, message.reply, body, message_id=opened.message_id))

    def _answer(self, question: Query) -> Answer | Refused:
        known: dict[str, Any] = {
            "databases": [DatabaseFound(name) for name in self.databases], "users": self.users,
            "root": RootState(self.root), "ping": True,
        }
        if question.name == "user":
            wanted = [u for u in self.users if u.name == question.args["name"]]
            if not wanted:
                return Refused(code="not_found", text="there is no such user")
            return Answer(result=msgspec.to_builtins(wanted[0]))
        return Answer(result=msgspec.to_builtins(known[question.name]))


async def enrol(world: World, guest: StubGuest) -> None:
    await world.sql(
        "INSERT INTO guests (instance_id, xpub, agent_version) VALUES (:id, :key, '1') "
        "ON CONFLICT (instance_id) DO UPDATE SET xpub = excluded.xpub",
        id=guest.instance, key=guest.keys.public,
    )


async def doing(
    api: Caller, world: World, method: str, path: str, body: Any = None,
    state: OperationState = OperationState.SUCCEEDED, **how: Any,
) -> tuple[Reply, Any]:
    """Call, end the operation that it files, and give the answer with the operation."""
    answer = asyncio.create_task(api(method, path, body))
    while not await world.sql("SELECT 1 FROM operations WHERE state = 'pending'"):
        assert not answer.done(), (await answer).body
        await asyncio.sleep(0.01)
    claimed = await world.finish(state, **how)
    return await answer, claimed
