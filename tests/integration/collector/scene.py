"""What the tests of the collector act with: guests, collectors, the provisioner's ear."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import aiohttp
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from coffer_db import operations
from coffer_db.database import Database
from coffer_db.operations import NewOperation
from coffer_shared import subjects
from coffer_shared.bus import Backoff, Link, ask_sealed, tls_context
from coffer_shared.keyset import KeySet, ServiceKey
from coffer_shared.messages import Engine, Heartbeat, Message, decode_noted, encode
from coffer_shared.seal import KeyPair, Kind, Peer
from coffer_shared.wake import receive_wakes
from coffer_status_collector.main import Collector, CollectorSettings, running
from integration.db.rows import new_instance
from support.nats_server import NatsServer

QUICK = Backoff(first=0.05, ceiling=0.2)


class Guest:
    """An enrolled guest with its own connection."""

    def __init__(self, instance: str, keys: KeyPair, link: Link, collector: bytes) -> None:
        self.instance = instance
        self.keys = keys
        self.link = link
        self._collector = collector
        self.peer = Peer("client", keys, collector)

    def sealed(self, engine: Engine, **more: Any) -> bytes:
        beat = Heartbeat(at=1.0, version="1", engine=engine, **more)
        return self.peer.seal(Kind.HEARTBEAT, subjects.heartbeat(self.instance), encode(beat))

    async def beat(self, engine: Engine = Engine.HEALTHY, **more: Any) -> bytes:
        """The sealed message that was sent."""
        data = self.sealed(engine, **more)
        await self.link.publish(subjects.heartbeat(self.instance), data)
        return data

    async def report(self, event: Message, *, timeout: float = 5.0) -> None:
        """Send an event until it is acknowledged."""
        body = await ask_sealed(
            self.link, self.peer, Kind.EVENT, subjects.event(self.instance), encode(event),
            answer=Kind.RESPONSE, timeout=timeout,
        )
        decode_noted(body)

    def change_keys(self) -> bytes:
        """The new public key; from now on only the new one is used."""
        self.keys = KeyPair.generate()
        self.peer = Peer("client", self.keys, self._collector)
        return self.keys.public


class Scene:
    def __init__(
        self, db: Database, nats: NatsServer, settings: CollectorSettings, keys: dict[str, KeyPair],
        stack: AsyncExitStack,
    ) -> None:
        self.db, self.nats, self.settings = db, nats, settings
        self._keys, self._stack = keys, stack
        self._tls = tls_context(nats.ca_pem)
        self.woken: list[str] = []

    async def collector(self) -> Collector:
        collector = await self._stack.enter_async_context(running(self.settings))
        for link in collector.links.values():
            await link.ready(10)
        return collector

    async def guest(self, *, enrolled: bool = True) -> Guest:
        row, keys = new_instance(), KeyPair.generate()
        row.started_once = True
        async with self.db.begin() as session:
            session.add(row)
        await self.run(
            "INSERT INTO guests (instance_id, agent_version, xpub) VALUES (:i, '', :x)",
            i=row.id, x=keys.public if enrolled else None,
        )
        credentials = self.nats.guest_creds(row.id)
        link = Link(
            (self.nats.url,), lambda: credentials, name="guest", tls=self._tls,
            inbox=subjects.guest_inbox(row.id), backoff=QUICK,
        )
        await link.start()
        self._stack.push_async_callback(link.close)
        await link.ready(10)
        return Guest(row.id, keys, link, self._keys["status-collector"].public)

    async def operation(self, instance: str, kind: str = "create_instance") -> str:
        new = NewOperation(instance_id=instance, project_id="p", kind=kind, within=timedelta(minutes=5))
        async with self.db.begin() as session:
            return await operations.file(session, new, None)

    async def listen_as_provisioner(self) -> None:
        """Instances whose wakes open under the provisioner's key come into `woken`."""
        credentials = self.nats.service_creds("provisioner", "CTL")
        link = Link((self.nats.url,), lambda: credentials, name="provisioner", tls=self._tls)
        trusted = KeySet(
            tuple(ServiceKey(name, pair.public.hex(), (), 0, 2**33) for name, pair in self._keys.items()), 0,
        )
        await receive_wakes(link, self._keys["provisioner"], trusted, self.woken.append)
        await link.start()
        self._stack.push_async_callback(link.close)
        await link.ready(10)

    async def rows(self, sql: str, **values: Any) -> list[Any]:
        async def read(connection: AsyncConnection) -> list[Any]:
            return list(await connection.execute(text(sql), values))

        return await self.db.read(read)

    async def run(self, sql: str, **values: Any) -> None:
        async with self.db.connect() as connection:
            await connection.execute(text(sql), values)

    async def engine(self, instance: str) -> str | None:
        found = await self.rows("SELECT engine FROM heartbeats WHERE instance_id = :i", i=instance)
        return found[0][0] if found else None

    async def get(self, collector: Collector, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{collector.observer.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()


async def until(check: Callable[[], Any], within: float = 10.0) -> Any:
    """What `check` gives (awaited if need be), once it is true."""
    async with asyncio.timeout(within):
        while True:
            found = check()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.005)
