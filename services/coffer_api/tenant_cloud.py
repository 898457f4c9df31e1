"""The cloud as a tenant sees it: requests to Neutron, Nova and Swift with the token that the tenant's own request came
with. Where they are, Keystone's catalogue says. The token is passed on and forgotten.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import aiohttp
import msgspec
from yarl import URL

from coffer_api.keystone_service import Away
from coffer_api.problems import RETRY, Problem
from coffer_shared import log

NETWORK, COMPUTE, OBJECT_STORE = "network", "compute", "object-store"
_NAMES = {NETWORK: "network service", COMPUTE: "compute service", OBJECT_STORE: "object store"}
_PASSING = frozenset({408, 429, 498})
"""Beside all of 5xx. 498: Swift's own 429."""
_LIMIT = 1 << 20
"""Bytes of an answer."""
_REMEMBER = 300.0
"""Seconds that the catalogue's answer is used."""
_LOG = log.get(__name__)
_T = TypeVar("_T")


class Catalogue(Protocol):
    """`keystone_service.Keystone`."""

    @property
    def tls(self) -> ssl.SSLContext | bool: ...

    async def endpoint(self, service: str, interface: str, region: str) -> str | None: ...

    async def identity(self) -> tuple[str, str]: ...


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    service: str

    def decode(self, kind: type[_T]) -> _T:
        """Problem 503 for what is not what it should be."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _LOG.error("a service of the cloud answers what it should not", service=self.service, status=self.status)
            raise _away(self.service) from None


class TenantCloud:
    """One client, whose connections all requests share. `seconds`: for each answer."""

    def __init__(self, keystone: Catalogue, *, interface: str, region: str, seconds: float) -> None:
        self._keystone = keystone
        self._interface = interface
        self._region = region
        self._seconds = seconds
        self._known: dict[str, tuple[str, float]] = {}
        self._client: aiohttp.ClientSession | None = None

    async def ask(
        self, token: str, service: str, method: str, path: str, *, headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """`path`: encoded, below the service's address. Problem 503 where nothing useful comes back, 501 where the
        cloud has no such service."""
        return await self._send(token, service, method, await self._endpoint(service) + path, headers or {})

    async def ask_store(
        self, token: str, project: str, method: str, path: str, *, headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """As `ask`, in the account that the project has in the object store."""
        own, _ = await self.own_user()
        address = await self._endpoint(OBJECT_STORE)
        if not address.endswith(own):
            _LOG.error("the catalogue's address of the object store does not end with a project's id")
            raise _away(OBJECT_STORE)
        address = address.removesuffix(own) + project
        return await self._send(token, OBJECT_STORE, method, address + path, headers or {})

    async def own_user(self) -> tuple[str, str]:
        """The ids of the project and of the user that Keystone is asked as."""
        try:
            return await self._keystone.identity()
        except Away as away:
            raise _unknown(str(away)) from None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _endpoint(self, service: str) -> str:
        found, until = self._known.get(service, ("", 0.0))
        if time.monotonic() >= until:
            try:
                found = await self._keystone.endpoint(service, self._interface, self._region) or ""
            except Away as away:
                raise _unknown(str(away)) from None
            if not found:
                raise Problem(501, f"Region {self._region} has no {_NAMES[service]}.")
            self._known[service] = found, time.monotonic() + _REMEMBER
        return found

    async def _send(
        self, token: str, service: str, method: str, url: str, headers: Mapping[str, str],
    ) -> Reply:
        if self._client is None:  # made here because it needs a running loop
            self._client = aiohttp.ClientSession(
                auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None),
                headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "coffer-api"},
            )
        try:
            async with asyncio.timeout(self._seconds), self._client.request(
                method, URL(url, encoded=True), headers={**headers, "X-Auth-Token": token}, allow_redirects=False,
                ssl=self._keystone.tls,
            ) as answer:
                body = await _body(answer)
        except TimeoutError:
            raise _away(service, f"no answer within {self._seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # its text may hold the request, and that holds the token
            raise _away(service, type(error).__name__) from None
        if answer.status in _PASSING or answer.status >= 500:
            raise _away(service, f"it answered {answer.status}")
        return Reply(answer.status, answer.headers, body, service)


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > _LIMIT:
            raise aiohttp.ClientPayloadError
    return bytes(body)


def _away(service: str, why: str = "") -> Problem:
    if why:
        _LOG.warning("a service of the cloud cannot be asked", service=service, why=why)
    return Problem(503, f"The {_NAMES[service]} cannot be asked; try again.", {RETRY: "2"})


def _unknown(why: str) -> Problem:
    _LOG.warning("the cloud's catalogue cannot be asked", why=why)
    return Problem(503, "The identity service cannot be asked; try again.", {RETRY: "2"})
