"""The object stores that the contract suite runs against: the fake one, a real Swift, and a cloud's if one is named."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from coffer_provisioner.storage.configured import keystone_user
from coffer_provisioner.storage.fake import FakeStorage, Store
from coffer_provisioner.storage.interface import Container, Storage
from coffer_provisioner.storage.swift import KEYS, Place, SwiftStorage
from coffer_provisioner.storage.swift_keystone import CloudUser, KeystoneSwift, KeystoneSwiftSettings
from coffer_shared.backups import Grant
from support import tenant_ground
from support.tenant_ground import TenantGround

if TYPE_CHECKING:
    from support.swift import Swift


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.swift")


class Shop(Protocol):
    """A store as the suite sees it: doors to it, and what guests and others do there."""

    tells_what_is_missing: bool
    """Or a container that is not there may as well be a closed one."""

    def new(self, project: str = "{}", name: str = "database_backups") -> Container:
        """Of a project that no other test uses, or else with a name that none does; {}: what makes it so."""
        ...

    def door(self) -> Storage:
        """A provisioner's own connection to the store; every call gives another one. A page is three names long."""
        ...

    async def put(self, grant: Grant, name: str, data: bytes) -> None:
        """As a guest. PermissionError where the store refuses."""
        ...

    async def get(self, grant: Grant, name: str) -> bytes | None: ...

    async def spoil(self, container: Container) -> None:
        """Somebody takes the keys and the service's rights away."""
        ...


@dataclass
class FakeShop:
    store: Store = field(default_factory=Store)
    tells_what_is_missing = True

    def new(self, project: str = "{}", name: str = "database_backups") -> Container:
        return new_container(project.format(uuid.uuid4().hex), name)

    def door(self) -> Storage:
        return FakeStorage(self.store)

    async def put(self, grant: Grant, name: str, data: bytes) -> None:
        FakeStorage(self.store).put(grant, name, data)

    async def get(self, grant: Grant, name: str) -> bytes | None:
        return FakeStorage(self.store).get(grant, name)

    async def spoil(self, container: Container) -> None:
        self.store.spoil(container)


@dataclass
class SwiftShop:
    swift: Swift
    client: aiohttp.ClientSession
    doors: list[SwiftStorage] = field(default_factory=list)
    tells_what_is_missing = True

    def new(self, project: str = "{}", name: str = "database_backups") -> Container:
        return new_container(project.format(uuid.uuid4().hex), name)

    def door(self) -> SwiftStorage:
        door = SwiftStorage(self.swift.settings(page=3))
        self.doors.append(door)
        return door

    async def put(self, grant: Grant, name: str, data: bytes) -> None:
        await put_as_a_guest(self.client, grant, name, data)

    async def get(self, grant: Grant, name: str) -> bytes | None:
        return await get_as_a_guest(self.client, grant, name)

    async def spoil(self, container: Container) -> None:
        settings = self.swift.settings()
        token = await self.token(settings.setup_user, settings.setup_key)
        keys = ("X-Container-Meta-Temp-URL-Key", "X-Container-Meta-Temp-URL-Key-2")
        gone = ("X-Container-Read", "X-Container-Write", *keys)
        url = self.doors[0].location(container, "").rstrip("/")
        status, _ = await self.ask("POST", url, headers={"X-Auth-Token": token, **dict.fromkeys(gone, "")})
        assert status == 204

    async def token(self, user: str, key: str) -> str:
        login = {"X-Auth-User": user, "X-Auth-Key": key}
        async with self.client.get(f"{self.swift.settings().url}/auth/v1.0", headers=login) as answer:
            assert answer.status == 200
            return answer.headers["X-Auth-Token"]

    async def ask(
        self, method: str, url: str, *, data: bytes | None = None, headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        return await ask(self.client, method, url, data=data, headers=headers)


async def ask(
    client: aiohttp.ClientSession, method: str, url: str, *, data: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """The address goes out exactly as it is given. PermissionError for 401 and 403."""
    address = URL(url, encoded=True)
    async with client.request(method, address, data=data, headers=headers, allow_redirects=False) as answer:
        body = await answer.read()
    if answer.status in {401, 403}:
        raise PermissionError(f"{method}: {answer.status}")
    return answer.status, body


async def put_as_a_guest(client: aiohttp.ClientSession, grant: Grant, name: str, data: bytes) -> None:
    status, _ = await ask(client, "PUT", f"{grant.url}{quote(name)}?{grant.query}", data=data)
    assert status == 201


async def get_as_a_guest(client: aiohttp.ClientSession, grant: Grant, name: str) -> bytes | None:
    status, body = await ask(client, "GET", f"{grant.url}{quote(name)}?{grant.query}")
    assert status in {200, 404}
    return body if status == 200 else None


@pytest.fixture
async def swift_shop(swift: Swift) -> AsyncIterator[SwiftShop]:
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        shop = SwiftShop(swift, client)
        yield shop
        for door in shop.doors:
            await door.close()


class OpenedByItsOwner(KeystoneSwift):
    """A provisioner's door to a Swift with Keystone, and the owner of the containers behind it, who does their part."""

    def __init__(self, shop: KeystoneShop) -> None:
        user = CloudUser(clouds_file=shop.clouds, cloud="storage", region=shop.ground.region)
        told = KeystoneSwiftSettings(keystone=user, page=3)
        super().__init__(told, keystone_user(told, "storage.json"))
        self._shop = shop
        self._where = shop.where

    async def ensure_container(self, container: Container) -> None:
        self._url(container)  # as it would be refused anyway
        keys = dict(zip(KEYS, container.keys, strict=True))
        entries = dict.fromkeys(("X-Container-Read", "X-Container-Write"), self._shop.entry)
        answer = await asyncio.to_thread(self._shop.ground.store, "PUT", container.name, {**keys, **entries})
        assert answer.status_code in {201, 202}
        await super().ensure_container(container)


@dataclass
class KeystoneShop:
    """A real cloud's Swift, in one tenant's account."""

    ground: TenantGround
    client: aiohttp.ClientSession
    clouds: str
    entry: str
    where: Place | None = None
    doors: list[OpenedByItsOwner] = field(default_factory=list)
    tells_what_is_missing = False

    def new(self, project: str = "{}", name: str = "database_backups") -> Container:
        if "/" not in name and name not in {"", ".", ".."}:
            name = f"{self.ground.container()}-{name}"
            self.ground.forget_container(name)
        return new_container(self.ground.project, name)

    def door(self) -> OpenedByItsOwner:
        self.doors.append(OpenedByItsOwner(self))
        return self.doors[-1]

    async def put(self, grant: Grant, name: str, data: bytes) -> None:
        await put_as_a_guest(self.client, grant, name, data)

    async def get(self, grant: Grant, name: str) -> bytes | None:
        return await get_as_a_guest(self.client, grant, name)

    async def spoil(self, container: Container) -> None:
        gone = dict.fromkeys(("X-Container-Read", "X-Container-Write", *KEYS), "")
        answer = await asyncio.to_thread(self.ground.store, "POST", container.name, gone)
        assert answer.status_code == 204


@pytest.fixture(scope="session")
def keystone_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TenantGround, str, str]]:
    """With the clouds.yaml of a user for the storage driver, and what an ACL calls that user."""
    ground = TenantGround.connect()
    yield ground, *ground.storage_user(tmp_path_factory.mktemp("storage"))
    ground.close()


@pytest.fixture
async def keystone_shop(keystone_ground: tuple[TenantGround, str, str]) -> AsyncIterator[KeystoneShop]:
    ground, clouds, entry = keystone_ground
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        shop = KeystoneShop(ground, client, clouds, entry)
        first = shop.door()
        await first.ready()
        shop.where = first._where
        yield shop
        for door in shop.doors:
            await door.close()


_SHOPS = ["fake", pytest.param("swift", marks=pytest.mark.docker), *["keystone"][: tenant_ground.configured()]]


@pytest.fixture(params=_SHOPS)
def shop(request: pytest.FixtureRequest) -> Shop:
    """A real cloud's Swift is among them where the environment names one: see `support.tenant_ground`."""
    if request.param == "fake":
        return FakeShop()
    found: Shop = request.getfixturevalue(f"{request.param}_shop")
    return found


def new_container(project: str | None = None, name: str = "database_backups") -> Container:
    """Of a project that no other test uses."""
    return Container(project or uuid.uuid4().hex, name, (secrets.token_hex(32), secrets.token_hex(32)))
