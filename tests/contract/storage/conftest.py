"""The object stores that the contract suite runs against: the fake one, and a real Swift."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from coffer_provisioner.storage.fake import FakeStorage, Store
from coffer_provisioner.storage.interface import Container, Storage
from coffer_provisioner.storage.swift import SwiftStorage
from coffer_shared.backups import Grant

if TYPE_CHECKING:
    from support.swift import Swift


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.swift")


class Shop(Protocol):
    """A store as the suite sees it: doors to it, and what guests and others do there."""

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

    def door(self) -> SwiftStorage:
        door = SwiftStorage(self.swift.settings(page=3))
        self.doors.append(door)
        return door

    async def put(self, grant: Grant, name: str, data: bytes) -> None:
        status, _ = await self.ask("PUT", f"{grant.url}{quote(name)}?{grant.query}", data=data)
        assert status == 201

    async def get(self, grant: Grant, name: str) -> bytes | None:
        status, body = await self.ask("GET", f"{grant.url}{quote(name)}?{grant.query}")
        assert status in {200, 404}
        return body if status == 200 else None

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
        """The address goes out exactly as it is given. PermissionError for 401 and 403."""
        address = URL(url, encoded=True)
        async with self.client.request(method, address, data=data, headers=headers, allow_redirects=False) as answer:
            body = await answer.read()
        if answer.status in {401, 403}:
            raise PermissionError(f"{method}: {answer.status}")
        return answer.status, body


@pytest.fixture
async def swift_shop(swift: Swift) -> AsyncIterator[SwiftShop]:
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        shop = SwiftShop(swift, client)
        yield shop
        for door in shop.doors:
            await door.close()


@pytest.fixture(params=["fake", pytest.param("swift", marks=pytest.mark.docker)])
def shop(request: pytest.FixtureRequest) -> Shop:
    if request.param == "fake":
        return FakeShop()
    found: SwiftShop = request.getfixturevalue("swift_shop")
    return found


def new_container(project: str | None = None, name: str = "database_backups") -> Container:
    """Of a project that no other test uses."""
    return Container(project or uuid.uuid4().hex, name, (secrets.token_hex(32), secrets.token_hex(32)))
