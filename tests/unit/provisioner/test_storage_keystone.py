"""The Swift driver with a user of Keystone's, against a small OpenStack; the real one is in contract."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from coffer_provisioner.storage.configured import storages
from coffer_provisioner.storage.interface import Closed, Container, Storage
from coffer_provisioner.storage.keystone_user import Account
from coffer_provisioner.storage.swift_keystone import place
from coffer_shared.errors import GiveUp, TryAgain
from coffer_shared.settings import BadSettings
from support.fake_openstack import FakeOpenStack, Person

KEYS = ("a1" * 32, "b2" * 32)


@pytest.fixture
async def cloud() -> AsyncIterator[FakeOpenStack]:
    made = FakeOpenStack()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def tenant(cloud: FakeOpenStack) -> Person:
    return cloud.person()


@pytest.fixture
def container(tenant: Person) -> Container:
    return Container(tenant.project, "my backups", KEYS)


@pytest.fixture
async def store(cloud: FakeOpenStack, tmp_path: Path) -> AsyncIterator[Storage]:
    made = told(tmp_path, clouds_file=cloud.clouds(tmp_path))
    yield made
    await made.close()


def told(directory: Path, *, clouds_file: str, **more: object) -> Storage:
    keystone = {"clouds_file": clouds_file, "cloud": "coffer", "region": "RegionOne"}
    keystone |= {name: value for name, value in more.items() if name in {"region", "interface"}}
    rest = {name: value for name, value in more.items() if name not in keystone and name != "interface"}
    path = directory / "storage.json"
    path.write_text(json.dumps({"swift": {"keystone": keystone, "call_seconds": 2.0, **rest}}))
    return storages(path)["swift"]


async def opened(cloud: FakeOpenStack, tenant: Person, container: Container, **changed: str) -> None:
    """By its owner."""
    entry = f"{cloud.service.project}:{cloud.service.id}"
    headers = {
        "X-Container-Read": entry, "X-Container-Write": entry, "X-Container-Meta-Temp-URL-Key": KEYS[0],
        "X-Container-Meta-Temp-URL-Key-2": KEYS[1], **{k.replace("_", "-"): v for k, v in changed.items()},
    }
    url = f"{cloud.url}/v1/AUTH_{container.project}/my%20backups"
    async with aiohttp.ClientSession() as session:
        await session.put(url, headers={"X-Auth-Token": cloud.token(tenant), **headers})


async def test_an_open_container_is_used_and_nothing_of_it_changed(
    cloud: FakeOpenStack, tenant: Person, container: Container, store: Storage,
) -> None:
    await opened(cloud, tenant, container)
    before = dict(cloud.kept(tenant.project, "my backups").headers)
    await store.ensure_container(container)
    grant = store.grant(container, "i/b/", "PUT", until=time.time() + 60)
    assert grant.url == f"{cloud.url}/v1/AUTH_{tenant.project}/my%20backups/i/b/"
    assert store.location(container, "i/b/m") == grant.url + "m"
    async with aiohttp.ClientSession() as session, session.put(f"{grant.url}m?{grant.query}", data=b"1") as answer:
        assert answer.status == 201
    assert [each.name for each in await store.listing(container, "i/b/")] == ["m"]
    assert await store.read(container, "i/b/m", limit=9) == b"1"
    assert await store.remove(container, "i/b/") == 1
    kept = cloud.kept(tenant.project, "my backups")
    assert dict(kept.headers) == before
    assert kept.objects == {}


@pytest.mark.parametrize(("what", "why"), [
    ({"X_Container_Read": ""}, "not open to the service"), ({"X_Container_Write": ""}, "not open to the service"),
    ({"X_Container_Read": "another:user"}, "not open to the service"),
    ({"X_Container_Meta_Temp_URL_Key": "c3" * 32}, "does not carry the keys"),
    ({"X_Container_Meta_Temp_URL_Key": "", "X_Container_Meta_Temp_URL_Key_2": ""}, "does not carry the keys"),
])
async def test_what_its_owner_has_to_see_to(
    cloud: FakeOpenStack, tenant: Person, container: Container, store: Storage, what: dict[str, str], why: str,
) -> None:
    await opened(cloud, tenant, container, **what)
    with pytest.raises(Closed, match=why) as refused:
        await store.ensure_container(container)
    assert refused.value.code == "storage"
    assert "a token of the project" in refused.value.text
    assert not any(key in refused.value.text for key in KEYS)


async def test_a_container_that_is_not_there_may_as_well_be_closed(container: Container, store: Storage) -> None:
    for call in (
        store.ensure_container(container), store.listing(container, "i/b/"), store.read(container, "i/b/m", limit=9),
        store.remove(container, "i/b/"),
    ):
        with pytest.raises(Closed, match="is not there, or not open"):
            await call


async def test_a_token_that_is_not_taken_any_more_is_renewed_once(
    cloud: FakeOpenStack, tenant: Person, container: Container, store: Storage,
) -> None:
    await opened(cloud, tenant, container)
    await store.ensure_container(container)
    cloud.tokens.clear()
    assert await store.listing(container, "i/b/") == []
    logins = [one for one in cloud.asked if one[:2] == ("identity", "POST")]
    assert len(logins) == 2
    cloud.faults["object-store"] = 401
    with pytest.raises(TryAgain, match="it answered 401"):
        await store.listing(container, "i/b/")


async def test_keystone_is_away_and_comes_back(
    cloud: FakeOpenStack, tenant: Person, container: Container, store: Storage,
) -> None:
    cloud.faults["identity"] = 503
    with pytest.raises(TryAgain, match="identity service"):
        await store.ready()
    with pytest.raises(TryAgain, match="not known yet"):
        store.grant(container, "i/b/", "PUT", until=time.time() + 60)
    cloud.faults.clear()
    await opened(cloud, tenant, container)
    await store.ensure_container(container)


async def test_a_wrong_password_is_not_tried_again_at_once(cloud: FakeOpenStack, tmp_path: Path) -> None:
    text = Path(cloud.clouds(tmp_path)).read_text().replace(cloud.service.password, "hush-hush")
    (tmp_path / "wrong.yaml").write_text(text)
    store = told(tmp_path, clouds_file=str(tmp_path / "wrong.yaml"))
    for _ in range(3):
        with pytest.raises(TryAgain, match="credentials") as failed:
            await store.ready()
        assert "hush-hush" not in repr(failed.value)
    assert len([one for one in cloud.asked if one[:2] == ("identity", "POST")]) == 1
    await store.close()


async def test_a_catalogue_without_a_store_there(cloud: FakeOpenStack, tmp_path: Path) -> None:
    store = told(tmp_path, clouds_file=cloud.clouds(tmp_path), region="elsewhere")
    with pytest.raises(GiveUp, match="names no object store in region elsewhere"):
        await store.ready()
    await store.close()


async def test_guests_may_know_the_store_by_another_address(
    cloud: FakeOpenStack, container: Container, tmp_path: Path,
) -> None:
    store = told(tmp_path, clouds_file=cloud.clouds(tmp_path), guest_url="http://inside:8080/")
    await store.ready()
    grant = store.grant(container, "i/b/", "PUT", until=time.time() + 60)
    assert grant.url == f"http://inside:8080/v1/AUTH_{container.project}/my%20backups/i/b/"
    assert store.location(container, "x").startswith(cloud.url)
    await store.close()


@pytest.mark.parametrize(("url", "found"), [
    ("http://swift:8080/v1/AUTH_p", ("http://swift:8080", "AUTH_")), ("https://s/v1/p", ("https://s", "")),
    ("https://s/swift/v1/KEY_p/", ("https://s/swift", "KEY_")),
    ("http://swift:8080/v1/AUTH_other", None), ("http://swift:8080/p", None), ("http://swift/v1/AUTH/p", None),
])
def test_where_accounts_are(url: str, found: tuple[str, str] | None) -> None:
    account = Account(url, url, "p")
    if found is None:
        with pytest.raises(GiveUp, match="does not end in"):
            place(account, "")
    else:
        assert (place(account, "").url, place(account, "").account_prefix) == found
        assert place(account, "").guest_url == found[0]


@pytest.mark.parametrize("section", [
    {"keystone": {}}, {"keystone": {"clouds_file": "f"}}, {"keystone": []},
    {"keystone": {"clouds_file": "f", "cloud": "c", "interface": "mine"}},
    {"keystone": {"clouds_file": "/nowhere/clouds.yaml", "cloud": "c"}},
])
def test_what_is_wrong_is_told(section: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "storage.json").write_text(json.dumps({"swift": section}))
    with pytest.raises(BadSettings, match="storage.json"):
        storages(tmp_path / "storage.json")
