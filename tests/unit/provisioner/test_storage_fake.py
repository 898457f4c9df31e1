"""What the fake store has beyond the contract: failures on demand, a clock, and a store that outlives its doors."""

from __future__ import annotations

import pytest

from coffer_provisioner.storage.fake import FakeStorage, Store
from coffer_provisioner.storage.interface import Container
from coffer_shared.errors import TryAgain

CONTAINER = Container("demo", "database_backups", ("a" * 64, "b" * 64))


async def test_failures_come_before_or_after_the_work() -> None:
    store = FakeStorage()
    store.fail_at("ensure_container")
    with pytest.raises(TryAgain):
        await store.ensure_container(CONTAINER)
    assert store.store.containers == {}
    store.fail_at("ensure_container", error=KeyError("killed"), after=True)
    with pytest.raises(KeyError):
        await store.ensure_container(CONTAINER)
    assert list(store.store.containers) == [("demo", "database_backups")]
    await store.ensure_container(CONTAINER)
    assert store.calls["ensure_container"] == 3


async def test_grants_end_by_its_clock() -> None:
    now = 1000.0
    store = FakeStorage(clock=lambda: now, kind="swift", lingering=3)
    await store.ensure_container(CONTAINER)
    grant = store.grant(CONTAINER, "i/b/", "PUT", until=1030)
    assert (grant.kind, store.lingering) == ("swift", 3)
    now = 1030.0
    store.put(grant, "0000", b"1")
    now = 1030.1
    with pytest.raises(PermissionError):
        store.put(grant, "0000", b"2")
    assert store.store.objects(CONTAINER) == {"i/b/0000": b"1"}


async def test_the_store_outlives_its_doors() -> None:
    world = Store()
    await FakeStorage(world).ensure_container(CONTAINER)
    world.objects(CONTAINER)["i/b/0000"] = b"damaged"
    assert await FakeStorage(world).read(CONTAINER, "i/b/0000", limit=9) == b"damaged"
    assert repr(world).count("a" * 64) == 0
