"""The revoker's store, and what is on offer."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from coffer_db.catalogue import FLAVORS, Catalogue, DatastoreOffer, VersionOffer, register, version_id
from coffer_db.database import Database
from coffer_db.revocations import RevocationStore, revoke
from coffer_shared.errors import Unavailable
from integration.db.rows import run


async def test_one_revoker_is_active_and_the_next_takes_over_when_its_connection_ends(db: Database) -> None:
    first, second = RevocationStore(db), RevocationStore(db)
    assert await first.acquire()
    assert await first.acquire()
    assert not await second.acquire()
    with pytest.raises(Unavailable):
        await second.reserve_iat("A", 1)
    await run(db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test-alone'")
    async with asyncio.timeout(5):
        while not await second.acquire():
            await asyncio.sleep(0.02)
    with pytest.raises(Unavailable):
        await first.reserve_iat("A", 1)
    assert not await first.acquire()
    await second.release()
    assert await first.acquire()
    await first.release()


async def test_iats_only_grow(db: Database) -> None:
    store = RevocationStore(db)
    assert await store.acquire()
    now = int(time.time())
    given = [await store.reserve_iat("A", n) for n in (now, now, now - 50, now + 10)]
    assert given == [now, now + 1, now + 2, now + 10]
    assert await store.reserve_iat("B", 5) == 5
    await store.release()


async def test_the_unexpired_are_listed(db: Database) -> None:
    soon, past = datetime.now(UTC) + timedelta(days=1), datetime.now(UTC) - timedelta(seconds=1)
    async with db.begin() as session:
        await revoke(session, "U1", instance="i", expires_at=soon, reason="deleted")
        await revoke(session, "U2", instance="i", expires_at=past, reason="deleted")
    store = RevocationStore(db)
    (one,) = await store.revocations()
    assert one[0] == "U1"
    assert abs(one[1] - time.time()) < 60
    assert await store.revocations(since=time.time() + 60) == []
    async with db.begin() as session:
        await revoke(session, "U2", instance="i", expires_at=soon, reason="again")
        await revoke(session, "U1", instance="i", expires_at=past, reason="never shortened")
    assert {nkey for nkey, _ in await store.revocations(0.0)} == {"U1", "U2"}


async def rows(db: Database, sql: str) -> list[Any]:
    async with db.connect() as connection:
        return [tuple(r) for r in await connection.execute(text(sql))]


async def test_registering_twice_is_registering_once(db: Database) -> None:
    old = VersionOffer(name="17", version="17.5", manager="postgresql", image="c/p:17", image_digest="sha256:1")
    new = replace(old, version="17.6", image_digest="")
    offer = DatastoreOffer("postgresql", (old, new), new)
    for _ in range(2):
        async with db.begin() as session:
            await register(session, Catalogue((offer,)))
    seen = await rows(db, "SELECT id, name, vcpus, ram_mb FROM flavors ORDER BY id")
    assert seen == [(f.id, f.name, f.vcpus, f.ram_mb) for f in FLAVORS]
    seen = await rows(db, "SELECT name, version, image_digest, active FROM datastore_versions ORDER BY version")
    assert seen == [("17", "17.5", "sha256:1", True), ("17", "17.6", "", True)]
    assert await rows(db, "SELECT name, default_version_id FROM datastores") == [
        ("postgresql", version_id("postgresql", new)),
    ]
    changed = replace(old, image_digest="", active=False)
    async with db.begin() as session:
        await register(session, Catalogue((DatastoreOffer("postgresql", (changed,)),)))
    seen = await rows(db, "SELECT version, image_digest, active FROM datastore_versions ORDER BY version")
    assert seen == [("17.5", "sha256:1", False), ("17.6", "", True)]
    assert await rows(db, "SELECT default_version_id FROM datastores") == [(version_id("postgresql", new),)]
