"""A live guest's credential and keys, copied out of its machine and used elsewhere: they open its own instance only.

The whole suite of attacks runs against a server of its own in `tests/integration/nats`; here the broker, the guest and
the services are the running stack's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from coffer_shared import subjects
from coffer_shared.bus import tls_context
from coffer_shared.identity import Credentials, connect_options
from coffer_shared.keyset import verify
from coffer_shared.messages import Engine, Heartbeat, Query, Rotate, encode
from coffer_shared.nkeys import Kind as NKeyKind
from coffer_shared.nkeys import NKey
from coffer_shared.seal import KeyPair, Kind, Peer
from support.loot import connect, loot_of
from support.stack import Stack, eventually


@dataclass(slots=True)
class Thief:
    instance: str
    client: Client
    keys: KeyPair
    services: dict[str, bytes]
    """Public keys of the services, by name."""
    received: list[Any] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    async def settle(self) -> None:
        await self.client.flush()
        await self.client.flush()
        await asyncio.sleep(0.1)

    async def listen_denied(self, subject: str, queue: str = "") -> bool:
        async def keep(message: Any) -> None:
            self.received.append(message)

        self.errors.clear()
        await self.client.subscribe(subject, queue=queue, cb=keep)
        await self.settle()
        return any("permissions violation for subscription" in e.lower() for e in self.errors)

    async def send_denied(self, subject: str, data: bytes = b"x", reply: str = "") -> bool:
        self.errors.clear()
        await self.client.publish(subject, data, reply=reply)
        await self.settle()
        return any("permissions violation for publish" in e.lower() for e in self.errors)


@pytest.fixture(scope="module")
def loot(stack: Stack, shop) -> dict[str, Any]:
    return loot_of(stack, shop.id)


@pytest.fixture(scope="module")
def victim(api) -> Any:
    made = api.create("victim")
    api.until_ready(made)
    yield made
    api.delete(made)


@pytest.fixture
async def thief(stack: Stack, shop, loot) -> AsyncIterator[Thief]:
    errors: list[str] = []

    async def note(error: Exception) -> None:
        errors.append(str(error))

    client = await connect(stack, shop.id, loot, note)
    trusted = verify(loot["home"]["keyset"], loot["home"]["root"])
    keys = KeyPair.from_private(bytes.fromhex(loot["identity"]["xkey"]))
    yield Thief(shop.id, client, keys, {k.service: k.raw for k in trusted.keys}, errors=errors)
    await client.close()


async def test_the_loot_is_real(thief: Thief):
    """It does open its own instance: something in the shape of a heartbeat goes out and nobody objects."""
    assert not await thief.send_denied(subjects.heartbeat(thief.instance), b"\x01\x01" + os.urandom(100))
    assert not await thief.listen_denied(f"{subjects.guest_inbox(thief.instance)}.mine")


async def test_nothing_of_others_is_heard(thief: Thief, victim, api):
    for subject in (
        f"g.{victim}.cmd", "g.*.cmd", "g.>", ">", f"g.{victim}.in.>", "_INBOX.>", "ctl.>", "$SYS.>", "g.*.hb",
        "g.*.req", "e.*.enrol", "$JS.API.>",
    ):
        assert await thief.listen_denied(subject), subject
        if thief.client.is_closed:
            break
    await asyncio.to_thread(api, "GET", f"/instances/{victim}/users")
    assert thief.received == []


async def test_nothing_can_be_said_in_anothers_name(thief: Thief, victim):
    for subject in (
        f"g.{victim}.cmd", f"g.{victim}.hb", f"g.{victim}.ev", f"g.{victim}.req", f"g.{victim}.in.x",
        f"g.{thief.instance}.cmd", f"e.{victim}.enrol", f"ctl.{victim}.wake", "_INBOX.provisioner.x",
        "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.SERVER.PING",
    ):
        assert await thief.send_denied(subject), subject


async def test_a_forged_report_about_another_changes_nothing(thief: Thief, victim, stack: Stack):
    """Sealed with the stolen keys, in the thief's own subject, for the victim's: both are dropped."""
    lie = encode(Heartbeat(at=0.0, version="lie", engine=Engine.CRASHED))
    peer = Peer("client", thief.keys, thief.services["status-collector"])
    wrong = peer.seal(Kind.HEARTBEAT, subjects.heartbeat(victim), lie)
    assert await thief.send_denied(subjects.heartbeat(victim), wrong)
    assert not await thief.send_denied(subjects.heartbeat(thief.instance), wrong)
    lies = stack.sql("SELECT count(*) FROM heartbeats WHERE facts->>'version' = 'lie'")
    assert lies == "0"


async def test_another_guest_takes_no_command_from_the_thief(thief: Thief, victim, stack: Stack):
    """Even if the broker delivered it: the victim knows only the services' keys. Refused before it gets there."""
    peer = Peer("server", thief.keys, thief.services["api"])
    command = peer.seal(Kind.CMD, subjects.command(victim), encode(Query(name="users", deadline=2e9)))
    assert await thief.send_denied(subjects.command(victim), command)


async def test_the_services_answer_only_into_the_guests_own_inbox(thief: Thief, victim, stack: Stack):
    """A request whose answer is to go to another's command subject gets none, and rotates nothing."""
    peer = Peer("client", thief.keys, thief.services["provisioner"])
    subject, aim = subjects.request(thief.instance), subjects.command(victim)
    fresh = Rotate(xpub=KeyPair.generate().public.hex(), nkey=NKey.generate(NKeyKind.USER).public)
    before = stack.sql(f"SELECT encode(xpub, 'hex') FROM guests WHERE instance_id = '{thief.instance}'")
    await thief.send_denied(subject, peer.seal(Kind.REQUEST, subject, encode(fresh), aim), reply=aim)
    assert stack.sql(f"SELECT encode(xpub, 'hex') FROM guests WHERE instance_id = '{thief.instance}'") == before


async def test_more_than_two_connections_are_cut(stack: Stack, shop, loot, thief: Thief):
    """The guest has one, the thief has one; every further one is ended by the revoker."""
    more = []
    for _ in range(3):
        client = Client()
        try:
            await client.connect(
                thief.client.connected_url.geturl(), allow_reconnect=False, max_reconnect_attempts=1,
                tls=tls_context(loot["home"]["ca"]), tls_hostname="nats", tls_handshake_first=True,
                **connect_options(Credentials(loot["identity"]["jwt"], loot["identity"]["seed"])),
            )
        except (OSError, nats.errors.Error):
            continue
        more.append(client)
    await asyncio.sleep(2)
    alive = [client for client in more if client.is_connected]
    for client in more:
        await client.close()
    assert alive == []
    eventually(
        lambda: float(stack.sql(
            f"SELECT extract(epoch FROM now() - received_at) FROM heartbeats WHERE instance_id = '{shop.id}'",
        )) < 11,
        within=30, what="the guest itself is still heard",
    )
