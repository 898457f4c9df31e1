"""What every storage driver promises."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import time

import msgspec
import pytest

from coffer_provisioner.storage.interface import Closed, Container, Storage, Stored
from coffer_shared.backups import Grant
from coffer_shared.errors import GiveUp
from contract.storage.conftest import Shop

PREFIX = "instance/backup/"


def write(store: Storage, container: Container, prefix: str = PREFIX, seconds: float = 60) -> Grant:
    return store.grant(container, prefix, "PUT", until=time.time() + seconds)


def read(store: Storage, container: Container, prefix: str = PREFIX) -> Grant:
    return store.grant(container, prefix, "GET", until=time.time() + 60)


async def test_a_container_is_made_once_however_often_it_is_asked_for(shop: Shop) -> None:
    stores, container = [shop.door() for _ in range(4)], shop.new()
    await asyncio.gather(*(store.ensure_container(container) for store in stores))
    await shop.put(write(stores[0], container), "one", b"1")
    await stores[1].ensure_container(container)
    assert [each.name for each in await stores[2].listing(container, PREFIX)] == ["one"]


async def test_a_container_that_lost_its_keys_and_rights_gets_them_again(shop: Shop) -> None:
    store, container = shop.door(), shop.new()
    await store.ensure_container(container)
    grant = write(store, container)
    await shop.put(grant, "one", b"1")
    await shop.spoil(container)
    with pytest.raises(PermissionError):
        await shop.put(grant, "one", b"2")
    with pytest.raises(GiveUp) as refused:
        await store.listing(container, PREFIX)
    assert refused.value.code == "storage"
    await store.ensure_container(container)
    await shop.put(grant, "one", b"3")
    assert await store.read(container, PREFIX + "one", limit=10) == b"3"


async def test_keys_are_changed_one_at_a_time(shop: Shop) -> None:
    store, first = shop.door(), shop.new()
    await store.ensure_container(first)
    old = write(store, first)
    second = dataclasses.replace(first, keys=("n" * 64, first.keys[0]))
    await store.ensure_container(second)
    await shop.put(old, "one", b"1")
    await shop.put(write(store, second), "two", b"2")
    third = dataclasses.replace(first, keys=("m" * 64, "n" * 64))
    await store.ensure_container(third)
    with pytest.raises(PermissionError):
        await shop.put(old, "one", b"3")
    assert await shop.get(read(store, third), "one") == b"1"


async def test_a_listing_is_whole_in_order_and_by_the_stores_own_reckoning(shop: Shop) -> None:
    store, container = shop.door(), shop.new()
    await store.ensure_container(container)
    grant = write(store, container)
    names = ["0010", "0002", "b", "a/b", "a", "ä", "%2e", "0001", "Z", "manifest.json"]
    for number, name in enumerate(names):
        await shop.put(grant, name, b"x" * number)
    listed = await store.listing(container, PREFIX)
    assert [each.name for each in listed] == sorted(names)
    assert listed == [
        Stored(name, names.index(name), hashlib.md5(b"x" * names.index(name)).hexdigest()) for name in sorted(names)
    ]


async def test_what_lies_beside_a_prefix_is_not_below_it(shop: Shop) -> None:
    store, container = shop.door(), shop.new()
    await store.ensure_container(container)
    for prefix in ("abc/", "abc/d/", "abcd/", "ab/", "Abc/"):
        await shop.put(write(store, container, prefix), "one", prefix.encode())
    assert [each.name for each in await store.listing(container, "abc/")] == ["d/one", "one"]
    assert await store.remove(container, "abc/") == 2
    assert await store.remove(container, "abc/") == 0
    for prefix in ("abcd/", "ab/", "Abc/"):
        assert await store.read(container, prefix + "one", limit=10) == prefix.encode()


async def test_all_of_many_objects_are_removed_and_counted(shop: Shop) -> None:
    store, container = shop.door(), shop.new()
    await store.ensure_container(container)
    grant = write(store, container)
    await asyncio.gather(*(shop.put(grant, f"{number:04}", b"x") for number in range(40)))
    counts = await asyncio.gather(shop.door().remove(container, PREFIX), store.remove(container, PREFIX))
    assert max(counts) == 40, "two at once are no trouble to each other"
    assert await store.listing(container, PREFIX) == []
    assert await shop.get(read(store, container), "0001") is None


async def test_reading_is_limited(shop: Shop) -> None:
    store, container = shop.door(), shop.new()
    await store.ensure_container(container)
    await shop.put(write(store, container), "one", b"x" * 1000)
    await shop.put(write(store, container), "nothing", b"")
    assert await store.read(container, PREFIX + "one", limit=1000) == b"x" * 1000
    assert await store.read(container, PREFIX + "nothing", limit=1000) == b""
    assert await store.read(container, PREFIX + "two", limit=1000) is None
    with pytest.raises(GiveUp) as refused:
        await store.read(container, PREFIX + "one", limit=999)
    assert refused.value.code == "storage"


async def test_a_container_that_is_not_there_is_empty(shop: Shop) -> None:
    store, container = shop.door(), shop.new()
    await _is_empty(shop, store, container)
    await store.ensure_container(container)
    await _is_empty(shop, store, dataclasses.replace(container, name=f"{container.name}-another"))


async def _is_empty(shop: Shop, store: Storage, container: Container) -> None:
    if shop.tells_what_is_missing:
        assert await store.listing(container, PREFIX) == []
        assert await store.read(container, PREFIX + "one", limit=10) is None
        assert await store.remove(container, PREFIX) == 0
        return
    for call in (
        store.listing(container, PREFIX), store.read(container, PREFIX + "one", limit=10),
        store.remove(container, PREFIX),
    ):
        with pytest.raises(Closed):
            await call


async def test_projects_are_apart(shop: Shop) -> None:
    store, one, other = shop.door(), shop.new(), shop.new()
    if one.project == other.project:
        pytest.skip("there is one tenant only")
    for container in (one, other):
        await store.ensure_container(container)
        await shop.put(write(store, container), "whose", container.project.encode())
    assert await store.read(one, PREFIX + "whose", limit=99) == one.project.encode()
    aimed = msgspec.structs.replace(read(store, one), url=read(store, other).url)
    with pytest.raises(PermissionError):
        await shop.get(aimed, "whose")
    assert await store.remove(one, PREFIX) == 1
    assert await store.read(other, PREFIX + "whose", limit=99) == other.project.encode()


@pytest.mark.parametrize("name", ["my backups", "ü?#%2f&=+", "...", "a" * 200])
async def test_containers_with_odd_names_of_projects_with_odd_ids(shop: Shop, name: str) -> None:
    store, container = shop.door(), shop.new("a project/with ../ odd id {}", name)
    await store.ensure_container(container)
    await shop.put(write(store, container), "one", b"1")
    assert await shop.get(read(store, container), "one") == b"1"
    assert [each.name for each in await store.listing(container, PREFIX)] == ["one"]
    assert await store.remove(container, PREFIX) == 1


@pytest.mark.parametrize("name", ["a/b", "", ".", ".."])
async def test_names_that_no_container_can_have(shop: Shop, name: str) -> None:
    store, container = shop.door(), shop.new(name=name)
    with pytest.raises(GiveUp):
        await store.ensure_container(container)
    with pytest.raises(GiveUp):
        write(store, container)
    with pytest.raises(GiveUp):
        await store.remove(container, PREFIX)


async def test_a_grant_is_for_one_method_one_prefix_and_a_time(shop: Shop) -> None:
    store, container = shop.door(), shop.new()
    await store.ensure_container(container)
    putting, getting = write(store, container), read(store, container)
    await shop.put(putting, "one", b"1")
    await shop.put(putting, "one", b"2")
    assert await shop.get(getting, "one") == b"2"
    elsewhere = write(store, container, "instance/backup2/")
    for refused in (
        shop.get(putting, "one"),
        shop.put(getting, "one", b"3"),
        shop.put(write(store, container, seconds=-2), "one", b"4"),
        shop.put(msgspec.structs.replace(elsewhere, url=putting.url), "one", b"5"),
        shop.put(msgspec.structs.replace(putting, url=elsewhere.url), "one", b"6"),
        shop.put(write(store, dataclasses.replace(container, keys=("x" * 64, "y" * 64))), "one", b"7"),
    ):
        with pytest.raises(PermissionError):
            await refused
    assert await shop.get(getting, "one") == b"2"


async def test_a_grant_ends_when_it_says(shop: Shop) -> None:
    store, container = shop.door(), shop.new()
    until = time.time() + 60.7
    grant = store.grant(container, PREFIX, "PUT", until=until)
    assert grant.kind == store.kind
    assert grant.method == "PUT"
    assert grant.url.endswith("/" + PREFIX)
    assert until - 1 < grant.expires_at <= until
    assert store.lingering >= 0


@pytest.mark.parametrize(("prefix", "method"), [
    (PREFIX, "DELETE"), (PREFIX, "HEAD"), (PREFIX, "POST"), (PREFIX, "put"), (PREFIX, ""), ("", "PUT"),
    ("instance/backup", "PUT"), ("/", "GET"), ("/instance/", "GET"),
])
async def test_what_no_grant_is_for(shop: Shop, prefix: str, method: str) -> None:
    store, container = shop.door(), shop.new()
    with pytest.raises(ValueError, match="a grant is for"):
        store.grant(container, prefix, method, until=time.time() + 60)
    with pytest.raises(ValueError, match="no key"):
        store.grant(dataclasses.replace(container, keys=("", "")), PREFIX, "PUT", until=time.time() + 60)


async def test_what_people_see_holds_no_secret(shop: Shop) -> None:
    store, container = shop.door(), shop.new(name="my backups")
    location = store.location(container, PREFIX + "manifest.json")
    assert location.startswith("http")
    assert location.endswith("my%20backups/instance/backup/manifest.json")
    grant = write(store, container)
    signature = grant.query.split("temp_url_sig=")[1].split("&")[0]
    for shown in (location, repr(container), repr(grant), str(grant), repr(store)):
        assert not any(secret in shown for secret in (*container.keys, signature))
