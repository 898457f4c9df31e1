"""The revoker against a real server, with its part of the database in memory."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest

from coffer_provisioner.revoker import Revoker, revoker_link
from coffer_shared import jwt, subjects
from coffer_shared.bus import Link, tls_context
from coffer_shared.errors import Unavailable
from coffer_shared.identity import Credentials
from support.nats_server import NatsServer

from .conftest import QUICK, Enter, until


class MemoryStore:
    def __init__(self) -> None:
        self.active = True
        self.away = False
        self.rows: list[tuple[str, float]] = []
        self.reserved: dict[str, list[int]] = {}
        self.asked: list[float] = []

    async def acquire(self) -> bool:
        if self.away:
            raise Unavailable("no database")
        return self.active

    async def revocations(self, since: float) -> list[tuple[str, float]]:
        self.asked.append(since)
        return [row for row in self.rows if row[1] >= since]

    async def reserve_iat(self, account: str, now: int) -> int:
        known = self.reserved.setdefault(account, [])
        known.append(max(now, known[-1] + 1 if known else 0))
        return known[-1]

    def revoke(self, nkey: str) -> None:
        self.rows.append((nkey, time.time()))


class Running:
    def __init__(self, server: NatsServer, store: MemoryStore) -> None:
        credentials = server.service_creds("revoker", "SYS")
        self.link = revoker_link((server.url,), lambda: credentials, tls=tls_context(server.ca_pem), backoff=QUICK)
        self.store = store
        self.revoker = Revoker(self.link, store, server.keys.operator_signing, server.account_keys())
        self.task = asyncio.create_task(self.revoker.run())

    async def published(self, times: int) -> None:
        await until(lambda: self.revoker.counters["published"] >= times)

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


@pytest.fixture
async def running(server: NatsServer) -> AsyncIterator[Running]:
    started = Running(server, MemoryStore())
    await started.published(1)
    yield started
    await started.stop()


async def guest(server: NatsServer, credentials: Credentials, instance: str) -> Link:
    link = Link(
        (server.url,), lambda: credentials, name="guest", tls=tls_context(server.ca_pem), backoff=QUICK,
        inbox=subjects.guest_inbox(instance),
    )  # fmt: skip
    await link.start()
    await link.ready(5)
    return link


async def test_a_revoked_guest_is_out_and_others_stay(server: NatsServer, running: Running) -> None:
    one, two = str(uuid.uuid4()), str(uuid.uuid4())
    credentials = server.guest_creds(one)
    link, other = await guest(server, credentials, one), await guest(server, server.guest_creds(two), two)
    running.store.revoke(credentials.nkey)
    running.revoker.wake()
    await until(lambda: link.refused)

    assert other.connected
    assert other.counters["connects"] == 1
    await link.close()
    await other.close()


async def test_a_jwt_from_a_clock_that_runs_ahead_is_void_too(server: NatsServer, running: Running) -> None:
    instance = str(uuid.uuid4())
    ahead = server.guest_creds(instance)
    claims = jwt.decode(ahead.jwt)
    signer, account = server.keys.signing["GUESTS"]["guest"], server.keys.accounts["GUESTS"].public
    later = jwt.user(
        ahead.nkey, signer, name=instance, account=account, tags=claims.nats["tags"], iat=int(time.time()) + 60
    )
    link = await guest(server, Credentials(later, ahead.seed), instance)
    running.store.revoke(ahead.nkey)
    await until(lambda: link.refused)
    await link.close()


async def test_a_service_can_be_revoked_in_both_accounts(server: NatsServer, running: Running, enter: Enter) -> None:
    for account in ("GUESTS", "CTL"):
        credentials = server.service_creds("api", account)
        actor = await enter(credentials)
        running.store.revoke(credentials.nkey)
        await until(lambda actor=actor: actor.client.is_closed)  # type: ignore[misc]


async def test_connections_beyond_the_cap_are_kicked_and_the_oldest_stay(
    server: NatsServer, running: Running, enter: Enter
) -> None:
    instance = str(uuid.uuid4())
    credentials = server.guest_creds(instance)
    actors = [await enter(credentials) for _ in range(20)]
    await until(lambda: sum(actor.client.is_connected for actor in actors) <= 2)
    await asyncio.sleep(0.2)

    assert [actor.client.is_connected for actor in actors] == [True, True] + [False] * 18
    await actors[0].client.close()
    assert (await enter(credentials)).client.is_connected
    await asyncio.sleep(0.2)
    assert sum(actor.client.is_connected for actor in actors) == 1


async def test_connections_made_while_no_revoker_ran_are_counted(server: NatsServer, enter: Enter) -> None:
    credentials = server.guest_creds(str(uuid.uuid4()))
    actors = [await enter(credentials) for _ in range(5)]
    started = Running(server, MemoryStore())
    await until(lambda: sum(actor.client.is_connected for actor in actors) <= 2)
    await started.stop()


async def test_the_replicas_of_a_service_are_not_capped(server: NatsServer, running: Running, enter: Enter) -> None:
    credentials = server.service_creds("api")
    actors = [await enter(credentials) for _ in range(5)]
    await asyncio.sleep(0.3)
    assert all(actor.client.is_connected for actor in actors)


async def test_iat_rises_and_pushes_are_coalesced(server: NatsServer, running: Running) -> None:
    before = running.revoker.counters["published"]
    began = time.monotonic()
    for _ in range(60):
        running.store.revoke(server.guest_creds(str(uuid.uuid4())).nkey)
        running.revoker.wake()
        await asyncio.sleep(0.005)
    await until(lambda: len(running.revoker._revoked) == 60 and not running.revoker._unpublished)
    await until(lambda: max(running.store.asked) > 0)

    assert running.revoker.counters["published"] - before <= time.monotonic() - began + 1
    for reserved in running.store.reserved.values():
        assert reserved == sorted(set(reserved))
    assert max(running.store.asked) > time.time() - 400


async def test_the_passive_revoker_publishes_nothing_until_it_takes_over(server: NatsServer) -> None:
    store = MemoryStore()
    store.active = False
    started = Running(server, store)
    await started.link.ready(5)
    await asyncio.sleep(0.1)
    started.revoker.wake()
    await asyncio.sleep(0.1)
    assert not started.revoker.active
    assert store.reserved == {}
    store.active = True
    started.revoker.wake()
    await started.published(1)
    assert started.revoker.active
    await started.stop()


async def test_it_goes_on_after_the_database_was_away(server: NatsServer, running: Running) -> None:
    running.store.away = True
    running.revoker.wake()
    await until(lambda: running.revoker.counters["failures"] >= 1)
    running.store.away = False
    credentials = server.guest_creds(str(uuid.uuid4()))
    running.store.revoke(credentials.nkey)
    await until(lambda: credentials.nkey in running.revoker._revoked and not running.revoker._unpublished)


async def test_a_server_that_lost_its_files_is_told_again(server: NatsServer, running: Running) -> None:
    instance = str(uuid.uuid4())
    credentials = server.guest_creds(instance)
    link = await guest(server, credentials, instance)
    running.store.revoke(credentials.nkey)
    await until(lambda: link.refused)
    before = running.revoker.counters["published"]
    server.kill()
    for file in (server.directory / "jwt").glob("**/*.jwt"):
        file.unlink()
    server.start_again()
    await running.published(before + 1)
    refused = link.counters["refused"]
    await until(lambda: link.counters["refused"] > refused)
    assert not link.connected
    await link.close()


async def test_a_publication_that_the_server_refuses_is_tried_again(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    started = Running(server, store)
    monkeypatch.setattr(started.revoker, "_signer", server.keys.operator)
    await until(lambda: started.revoker.counters["failures"] >= 1)
    assert started.revoker.counters["published"] == 0
    monkeypatch.setattr(started.revoker, "_signer", server.keys.operator_signing)
    await started.published(1)
    await started.stop()
