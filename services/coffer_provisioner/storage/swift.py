"""The storage driver for Swift, over its HTTP interface. Grants are made in `signing`.

`SwiftObjects` is daily work with objects, with the rights of one user. `SwiftStorage` is for a Swift with users of its
own, of which Coffer has two: the one that sets up may do anything in any project's account; it is used by
`ensure_container`, and to learn whether a container that seems closed is there at all. The daily one may read, write
and delete in the containers that were opened to it, and nothing else. For a Swift with Keystone see `swift_keystone`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec

from coffer_provisioner.storage.interface import Container, Stored
from coffer_provisioner.storage.signing import new_grant
from coffer_provisioner.storage.swift_http import CHATTER_LIMIT, Answer, Login, SwiftHttp, expect
from coffer_shared.backups import Grant
from coffer_shared.errors import GiveUp, TryAgain

KEYS = ("X-Container-Meta-Temp-URL-Key", "X-Container-Meta-Temp-URL-Key-2")
_READ, _WRITE = "X-Container-Read", "X-Container-Write"
_DELETES = 8
"""How many at once."""
_LISTING_LIMIT = 64 * 1024 * 1024


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


@dataclass(frozen=True, slots=True)
class Place:
    """Where accounts are: /v1/ACCOUNT below both addresses."""

    url: str
    guest_url: str
    account_prefix: str


class _Listed(msgspec.Struct, frozen=True):
    name: str
    bytes: int
    hash: str


class SwiftObjects(ABC):
    """`storage.interface.Storage`; `daily` is whose rights it uses."""

    kind = "swift"

    def __init__(self, daily: Login, http: SwiftHttp, *, page: int, lingering: float) -> None:
        self._daily = daily
        self._http = http
        self._page = page
        self._lingering = lingering

    @property
    def lingering(self) -> float:
        return self._lingering

    def grant(self, container: Container, prefix: str, method: str, *, until: float) -> Grant:
        return new_grant(
            kind=self.kind, url=self._place().guest_url, path=f"{self._path(container)}/{prefix}", method=method,
            until=until, key=container.keys[0],
        )

    async def listing(self, container: Container, prefix: str) -> list[Stored]:
        what = "listing a backup"
        query = {"format": "json", "prefix": prefix, "limit": str(self._page), "marker": ""}
        found: list[Stored] = []
        while True:
            answer = await self._ask(self._daily, "GET", container, what, query=query, limit=_LISTING_LIMIT)
            if await self._is_gone(container, answer):
                return found
            expect(what, answer, 200, 204)
            page = _page(answer)
            # a short page is not always the last one
            if not page:
                return found
            found += [Stored(each.name.removeprefix(prefix), each.bytes, each.hash) for each in page]
            query["marker"] = page[-1].name

    async def read(self, container: Container, name: str, *, limit: int) -> bytes | None:
        what = "reading an object"
        answer = await self._ask(self._daily, "GET", container, what, name=name, limit=limit)
        if await self._is_gone(container, answer):
            return None
        expect(what, answer, 200)
        if not answer.whole:
            raise GiveUp("storage", f"an object in the object store is larger than the {limit} bytes it may have")
        return answer.body

    async def remove(self, container: Container, prefix: str) -> int:
        found = await self.listing(container, prefix)
        names = iter([prefix + each.name for each in found])
        await _side_by_side(*(self._delete_each(container, names) for _ in range(min(_DELETES, len(found)))))
        return len(found)

    def location(self, container: Container, name: str) -> str:
        return self._url(container, name)

    async def close(self) -> None:
        await self._http.close()

    # --- what the two kinds of Swift differ in ---

    @abstractmethod
    async def ready(self) -> None: ...

    @abstractmethod
    async def ensure_container(self, container: Container) -> None: ...

    @abstractmethod
    def _place(self) -> Place:
        """TryAgain while it is not known yet: see `ready`."""

    @abstractmethod
    async def _is_gone(self, container: Container, answer: Answer) -> bool:
        """Whether what was asked for is not there. Swift says "not allowed" of a container that is not there either."""

    # --- paths ---

    def _path(self, container: Container, name: str = "") -> str:
        """Not encoded. Whatever a project's id is, it makes one account's name, and no other project's."""
        if "/" in container.name or container.name in {"", ".", ".."}:
            raise GiveUp("storage", f"{container.name!r} cannot be the name of a container")
        account = self._place().account_prefix + container.project.replace("%", "%25").replace("/", "%2F")
        return "/".join(("", "v1", account, container.name, *([name] if name else [])))

    def _url(self, container: Container, name: str = "") -> str:
        return f"{self._place().url}{quote(self._path(container, name))}"

    # --- parts of the calls above ---

    async def _delete_each(self, container: Container, names: Iterator[str]) -> None:
        what = "deleting a backup"
        for name in names:
            answer = await self._ask(self._daily, "DELETE", container, what, name=name)
            if not await self._is_gone(container, answer):
                expect(what, answer, 200, 204)

    async def _ask(
        self, login: Login, method: str, container: Container, what: str, *, name: str = "",
        query: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None, limit: int = CHATTER_LIMIT,
    ) -> Answer:
        await self.ready()
        url = self._url(container, name)
        return await self._http.ask(login, method, url, what, query=query, headers=headers, limit=limit)


@dataclass(slots=True)
class _User:
    """A user of Swift's own."""

    http: SwiftHttp
    url: str
    name: str
    key: str = field(repr=False)
    known: str | None = field(default=None, repr=False)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def token(self, stale: str | None) -> str:
        async with self.turn:
            if self.known is None or self.known == stale:
                what = "logging in"
                headers = {"X-Auth-User": self.name, "X-Auth-Key": self.key}
                answer = await self.http.send("GET", f"{self.url}/auth/v1.0", what, headers)
                expect(what, answer, 200, 204)
                self.known = answer.headers.get("X-Auth-Token")
            if self.known is None:
                raise TryAgain("the object store, while logging in: it gave no token")
            return self.known


class SwiftStorage(SwiftObjects):
    def __init__(self, settings: SwiftSettings) -> None:
        http, url = SwiftHttp(settings.call_seconds), settings.url.rstrip("/")
        daily = _User(http, url, settings.user, settings.key)
        super().__init__(daily, http, page=settings.page, lingering=settings.upload_seconds)
        self._setup = _User(http, url, settings.setup_user, settings.setup_key)
        self._user = settings.user
        self._where = Place(url, settings.guest_url, settings.account_prefix)

    async def ready(self) -> None:
        """The settings say it all."""

    async def ensure_container(self, container: Container) -> None:
        what = "preparing a container"
        there = await self._ask(self._setup, "HEAD", container, what)
        expect(what, there, 200, 204, 404)
        wanted = dict(zip(KEYS, container.keys, strict=True))
        for header in (_READ, _WRITE):
            wanted[header] = _with_entry(there.headers.get(header, ""), self._user)
        if there.status == 404 or any(there.headers.get(name, "") != value for name, value in wanted.items()):
            # on one that is there already this changes these headers and nothing else
            expect(what, await self._ask(self._setup, "PUT", container, what, headers=wanted), 201, 202)

    def _place(self) -> Place:
        return self._where

    async def _is_gone(self, container: Container, answer: Answer) -> bool:
        if answer.status != 403:
            return answer.status == 404
        what = "looking for a container"
        there = await self._ask(self._setup, "HEAD", container, what)
        expect(what, there, 200, 204, 404)
        return there.status == 404


def _page(answer: Answer) -> list[_Listed]:
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
