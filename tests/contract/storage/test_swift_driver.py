"""What is particular to the Swift driver, on a real one: two users, tokens, ends and starts, what gets into the log."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from coffer_provisioner.storage.interface import Container
from coffer_provisioner.storage.swift import SwiftStorage
from coffer_shared.errors import TryAgain
from contract.storage.conftest import SwiftShop, new_container
from contract.storage.test_storage_contract import PREFIX, read, write
from support.swift import Swift

pytestmark = pytest.mark.docker


@asynccontextmanager
async def door(swift: Swift, **changed: object) -> AsyncIterator[SwiftStorage]:
    store = SwiftStorage(swift.settings(**changed))
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def container(swift_shop: SwiftShop) -> Container:
    """With one object in it."""
    made, store = new_container(), swift_shop.door()
    await store.ensure_container(made)
    await swift_shop.put(write(store, made), "one", b"1")
    return made


async def test_daily_work_needs_the_daily_user_only(swift: Swift, container: Container) -> None:
    async with door(swift, setup_key="w" * 40) as store:
        assert [each.name for each in await store.listing(container, PREFIX)] == ["one"]
        assert await store.read(container, PREFIX + "one", limit=9) == b"1"
        assert await store.remove(container, PREFIX) == 1
        with pytest.raises(TryAgain, match="logging in: it answered 401") as failed:
            await store.ensure_container(container)
        assert "w" * 40 not in repr(failed.value)


async def test_the_daily_user_may_do_nothing_else(
    swift: Swift, swift_shop: SwiftShop, container: Container,
) -> None:
    settings = swift.settings()
    token = {"X-Auth-Token": await swift_shop.token(settings.user, settings.key)}
    mine = swift_shop.door().location(container, "x").rpartition("/")[0]
    account = mine.rpartition("/")[0]
    closed = swift_shop.door().location(new_container(), "x")
    for method, url in (
        ("GET", account), ("HEAD", account), ("POST", account), ("PUT", f"{account}/another"),
        ("POST", mine), ("DELETE", mine), ("GET", closed), ("PUT", closed), ("DELETE", closed),
        ("GET", f"{settings.url}/v1/AUTH_coffer"), ("PUT", f"{settings.url}/v1/AUTH_coffer/another"),
        ("GET", f"{settings.url}/v1/AUTH_.auth"),
    ):
        with pytest.raises(PermissionError):
            await swift_shop.ask(method, url, headers=token)
    async with swift_shop.client.head(mine, headers=token) as answer:
        assert answer.status == 204
        assert not any(value in container.keys or value == settings.user for value in answer.headers.values())


async def test_rights_that_the_tenant_gave_stay(swift: Swift, swift_shop: SwiftShop, container: Container) -> None:
    settings, store = swift.settings(), swift_shop.door()
    token = {"X-Auth-Token": await swift_shop.token(settings.setup_user, settings.setup_key)}
    mine = store.location(container, "x").rpartition("/")[0]
    theirs = {"X-Container-Read": "friend:one", "X-Container-Meta-Mine": "m"}
    await swift_shop.ask("POST", mine, headers={**token, **theirs})
    await store.ensure_container(container)
    await store.ensure_container(container)
    async with swift_shop.client.head(mine, headers=token) as answer:
        assert answer.headers["X-Container-Read"] == f"friend:one,{settings.user}"
        assert answer.headers["X-Container-Write"] == settings.user
        assert answer.headers["X-Container-Meta-Mine"] == "m"


async def test_it_comes_back_with_what_was_stored(swift: Swift, swift_shop: SwiftShop, container: Container) -> None:
    async with door(swift) as store:
        assert len(await store.listing(container, PREFIX)) == 1
        swift.stop()
        with pytest.raises(TryAgain, match="listing a backup: it cannot be reached"):
            await store.listing(container, PREFIX)
        swift.start()
        assert await store.read(container, PREFIX + "one", limit=9) == b"1", "with a new token: it forgot the old one"
        await swift_shop.put(write(store, container), "two", b"2")
        swift.kill()
        swift.start()
        assert [each.name for each in await store.listing(container, PREFIX)] == ["one", "two"]
        assert await store.read(container, PREFIX + "two", limit=9) == b"2"


@pytest.mark.parametrize("program", ["swift-proxy-server", "swift-object-server", "memcached"])
async def test_it_comes_up_by_itself_when_a_part_of_it_is_killed(
    swift: Swift, container: Container, program: str,
) -> None:
    async with door(swift) as store:
        assert len(await store.listing(container, PREFIX)) == 1
        swift.end(program)
        assert await store.read(container, PREFIX + "one", limit=9) == b"1"


async def test_its_log_holds_no_secret(swift: Swift, swift_shop: SwiftShop, container: Container) -> None:
    settings, store = swift.settings(), swift_shop.door()
    tokens = [await swift_shop.token(*who) for who in (
        (settings.setup_user, settings.setup_key), (settings.user, settings.key),
    )]
    for token in tokens:
        await swift_shop.ask("GET", store.location(container, PREFIX + "one"), headers={"X-Auth-Token": token})
    grants = [write(store, container), read(store, container), write(store, container, seconds=-2)]
    await swift_shop.put(grants[0], f"logged-{time.time_ns()}", b"2")
    await swift_shop.get(grants[1], "one")
    for refused in (swift_shop.put(grants[1], "one", b"3"), swift_shop.put(grants[2], "one", b"4")):
        with pytest.raises(PermissionError):
            await refused
    await store.remove(container, PREFIX)
    log = swift.log()
    assert container.project in log
    assert "logged-" in log
    signatures = [grant.query.split("temp_url_sig=")[1].split("&")[0] for grant in grants]
    for secret in (*signatures, *tokens, *container.keys, settings.key, settings.setup_key):
        assert secret[:12] not in log
    assert "Traceback" not in log
