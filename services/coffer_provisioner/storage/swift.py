"""The storage driver for Swift, over its HTTP interface. Grants are made in `signing`.

Two users. The one that sets up may do anything in any project's account; it is used by `ensure_container`, and to learn
whether a container that seems closed is there at all. The daily one may read, write and delete in the containers that
were opened to it, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from coffer_provisioner.storage.interface import Container, Stored
from coffer_provisioner.storage.signing import new_grant
from coffer_shared.backups import Grant
from coffer_shared.errors import GiveUp, TryAgain

_READ, _WRITE = "X-Container-Read", "X-Container-Write"
_KEYS = ("X-Container-Meta-Temp-URL-Key", "X-Container-Meta-Temp-URL-Key-2")
_PASSING = frozenset({401, 408, 409, 429, 498})
"""Beside all of 5xx. 401: a new token did not help; 409: something newer came in between; 498: Swift's own 429."""
_DELETES = 8
"""How many at once."""
_LISTING_LIMIT = 64 * 1024 * 1024
_CHATTER_LIMIT = 64 * 1024
"""Of answers whose text nobody reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SwiftSettings:
    url: str
    """As the control plane reaches it."""
    guest_url: str
    """As guests reach it."""
    setup_user: str
    setup_key: str = field(repr=False)
    user: str
    key: str = field(repr=False)
    account_prefix: str = "AUTH_"
    """A project's account is this and its id."""
    upload_seconds: float = 40.0
    """How long an upload may go on in this Swift once it was begun: max_upload_time and client_timeout of its object
    servers, and what it takes to begin."""
    call_seconds: float = 30.0
    page: int = 10_000
    """Names that are asked for at a time; at most the store's container_listing_limit."""


class _Listed(msgspec.Struct, frozen=True):
    name: str
    bytes: int
    hash: str


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    whole: bool
    """False: there was more than the limit."""


@dataclass(slots=True)
class _Login:
    user: str
    key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)


class SwiftStorage:
    """`storage.interface.Storage`."""

    kind = "swift"

    def __init__(self, settings: SwiftSettings) -> None:
        self._settings = settings
        self._url = settings.url.rstrip("/")
        self._setup = _Login(settings.setup_user, settings.setup_key)
        self._daily = _Login(settings.user, settings.key)
        self._client: aiohttp.ClientSession | None = None

    @property
    def lingering(self) -> float:
        return self._settings.upload_seconds

    async def ensure_container(self, container: Container) -> None:
        path, what = self._path(container), "preparing a container"
        there = await self._ask(self._setup, "HEAD", path, what)
        _expect(what, there, 200, 204, 404)
        wanted = dict(zip(_KEYS, container.keys, strict=True))
        for header in (_READ, _WRITE):
            wanted[header] = _with_entry(there.headers.get(header, ""), self._settings.user)
        if there.status == 404 or any(there.headers.get(name, "") != value for name, value in wanted.items()):
            # on one that is there already this changes these headers and nothing else
            _expect(what, await self._ask(self._setup, "PUT", path, what, headers=wanted), 201, 202)

    def grant(self, container: Container, prefix: str, method: str, *, until: float) -> Grant:
        return new_grant(
            kind=self.kind, url=self._settings.guest_url, path=f"{self._path(container)}/{prefix}", method=method,
            until=until, key=container.keys[0],
        )

    async def listing(self, container: Container, prefix: str) -> list[Stored]:
        path, what = self._path(container), "listing a backup"
        query = {"format": "json", "prefix": prefix, "limit": str(self._settings.page), "marker": ""}
        found: list[Stored] = []
        while True:
            answer = await self._ask(self._daily, "GET", path, what, query=query, limit=_LISTING_LIMIT)
            if await self._is_gone(container, answer):
                return found
            _expect(what, answer, 200, 204)
            page = _page(answer)
            # a short page is not always the last one
            if not page:
                return found
            found += [Stored(each.name.removeprefix(prefix), each.bytes, each.hash) for each in page]
            query["marker"] = page[-1].name

    async def read(self, container: Container, name: str, *, limit: int) -> bytes | None:
        what = "reading an object"
        answer = await self._ask(self._daily, "GET", self._path(container, name), what, limit=limit)
        if await self._is_gone(container, answer):
            return None
        _expect(what, answer, 200)
        if not answer.whole:
            raise GiveUp("storage", f"an object in the object store is larger than the {limit} bytes it may have")
        return answer.body

    async def remove(self, container: Container, prefix: str) -> int:
        found = await self.listing(container, prefix)
        names = iter([prefix + each.name for each in found])
        await _side_by_side(*(self._delete_each(container, names) for _ in range(min(_DELETES, len(found)))))
        return len(found)

    def location(self, container: Container, name: str) -> str:
        return f"{self._url}{quote(self._path(container, name))}"

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # --- paths ---

    def _path(self, container: Container, name: str = "") -> str:
        """Not encoded. Whatever a project's id is, it makes one account's name, and no other project's."""
        if "/" in container.name or container.name in {"", ".", ".."}:
            raise GiveUp("storage", f"{container.name!r} cannot be the name of a container")
        account = self._settings.account_prefix + container.project.replace("%", "%25").replace("/", "%2F")
        return "/".join(("", "v1", account, container.name, *([name] if name else [])))

    # --- parts of the calls above ---

    async def _delete_each(self, container: Container, names: Iterator[str]) -> None:
        what = "deleting a backup"
        for name in names:
            answer = await self._ask(self._daily, "DELETE", self._path(container, name), what)
            if not await self._is_gone(container, answer):
                _expect(what, answer, 200, 204)

    async def _is_gone(self, container: Container, answer: _Answer) -> bool:
        """Whether what was asked for is not there. Swift says "not allowed" of a container that is not there either."""
        if answer.status != 403:
            return answer.status == 404
        what = "looking for a container"
        there = await self._ask(self._setup, "HEAD", self._path(container), what)
        _expect(what, there, 200, 204, 404)
        return there.status == 404

    async def _ask(
        self, login: _Login, method: str, path: str, what: str, *, query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None, limit: int = _CHATTER_LIMIT,
    ) -> _Answer:
        """One request with a token, which is asked for anew once if it is not taken any more."""
        url = self._url + quote(path) + (f"?{urlencode(query, quote_via=quote)}" if query else "")
        token = await self._token(login, stale=None)
        for last in (False, True):
            answer = await self._send(method, url, what, {"X-Auth-Token": token, **(headers or {})}, limit)
            if answer.status != 401 or last:
                break
            token = await self._token(login, stale=token)
        return answer

    async def _token(self, login: _Login, stale: str | None) -> str:
        """The login's token; another one than `stale`, whose holders all wait for one request."""
        async with login.turn:
            if login.token is None or login.token == stale:
                what = "logging in"
                headers = {"X-Auth-User": login.user, "X-Auth-Key": login.key}
                answer = await self._send("GET", f"{self._url}/auth/v1.0", what, headers, _CHATTER_LIMIT)
                _expect(what, answer, 200, 204)
                login.token = answer.headers.get("X-Auth-Token")
            if login.token is None:
                raise TryAgain("the object store, while logging in: it gave no token")
            return login.token

    async def _send(self, method: str, url: str, what: str, headers: Mapping[str, str], limit: int) -> _Answer:
        if self._client is None:
            # made here because it needs a running loop. Nothing is unpacked on the way: who stores an object may claim
            # anything of it
            self._client = aiohttp.ClientSession(
                auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), headers={"Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None),
            )
        try:
            async with asyncio.timeout(self._settings.call_seconds):
                address = URL(url, encoded=True)
                async with self._client.request(method, address, headers=headers, allow_redirects=False) as response:
                    body = await _body(response, limit)
                    return _Answer(response.status, response.headers, body[:limit], len(body) <= limit)
        except TimeoutError as error:
            raise TryAgain(f"the object store, while {what}: no answer in time") from error
        except aiohttp.ClientResponseError:
            # the error holds the request, and that holds the token
            raise TryAgain(f"the object store, while {what}: what it answers is not HTTP") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TryAgain(f"the object store, while {what}: it cannot be reached") from error


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """All of it, or more than `limit` of it."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)


def _expect(what: str, answer: _Answer, *statuses: int) -> None:
    if answer.status in statuses:
        return
    if answer.status in _PASSING or answer.status >= 500:
        raise TryAgain(f"the object store, while {what}: it answered {answer.status}")
    raise GiveUp("storage", f"the object store refused, while {what}: it answered {answer.status}")


def _page(answer: _Answer) -> list[_Listed]:
    if not answer.whole:
        raise GiveUp("storage", "the object store, while listing a backup: the names are too long to be a backup's")
    try:
        return msgspec.json.decode(answer.body or b"[]", type=list[_Listed])
    except msgspec.DecodeError as error:
        raise TryAgain("the object store, while listing a backup: what it answers is no listing") from error


def _with_entry(acl: str, entry: str) -> str:
    """The tenant's own entries stay."""
    entries = [each.strip() for each in acl.split(",") if each.strip()]
    return acl if entry in entries else ",".join([*entries, entry])


async def _side_by_side(*work: Coroutine[None, None, None]) -> None:
    """Nothing of it runs on once it has failed."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
