"""How the Swift driver takes a store's answers: a stand-in says what a test wants. The real Swift is in contract."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web

from coffer_provisioner.storage.interface import Container
from coffer_provisioner.storage.swift import SwiftSettings, SwiftStorage
from coffer_shared.errors import GiveUp, TryAgain

CONTAINER = Container("demo", "my backups", ("first-key", "second-key"))
SETTINGS = SwiftSettings(
    url="http://127.0.0.1:1", guest_url="http://swift.coffer:8080/", setup_user="coffer:setup",
    setup_key="setup-secret", user="coffer:backup", key="daily-secret",
)
SECRETS = ("first-key", "second-key", "setup-secret", "daily-secret", "token-")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class StandIn:
    """Hands out tokens that it takes, and answers everything else as the test says."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        """Method, path with query, user."""
        self.logins: Counter[str] = Counter()
        self.tokens: dict[str, str] = {}
        self.login_status = 200
        self.answer: Answer = self.nothing
        self.url = ""

    async def nothing(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=204)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/auth/v1.0":
            user = request.headers["X-Auth-User"]
            self.logins[user] += 1
            self.tokens = {token: whose for token, whose in self.tokens.items() if whose != user}
            token = f"token-{user}-{self.logins[user]}"
            self.tokens[token] = user
            await asyncio.sleep(0)
            return web.Response(status=self.login_status, headers={"X-Auth-Token": token})
        user = self.tokens.get(request.headers["X-Auth-Token"], "")
        self.asked.append((request.method, request.raw_path, user))
        return await self.answer(request) if user else web.Response(status=401)

    def says(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.Response(status=status, body=body, headers=headers)

        self.answer = answer

    def door(self, **changed: object) -> SwiftStorage:
        settings = {name: getattr(SETTINGS, name) for name in SETTINGS.__slots__} | {"url": self.url} | changed
        return SwiftStorage(SwiftSettings(**settings))


@pytest.fixture
async def stand_in() -> AsyncIterator[StandIn]:
    made = StandIn()
    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()


@pytest.fixture
async def store(stand_in: StandIn) -> AsyncIterator[SwiftStorage]:
    made = stand_in.door()
    yield made
    await made.close()


def page(*names: str) -> bytes:
    return json.dumps([{"name": f"i/b/{name}", "bytes": 1, "hash": "h", "more": "m"} for name in names]).encode()


def first_page_of(request: web.Request, *names: str) -> web.Response:
    """All names on the first page; the second is empty."""
    return web.Response(body=page(*names) if request.raw_path.endswith("&marker=") else b"[]")


@pytest.mark.parametrize("status", [408, 409, 429, 498, 500, 502, 503, 504, 507])
async def test_what_passes_is_tried_again(stand_in: StandIn, store: SwiftStorage, status: int) -> None:
    stand_in.says(status)
    for call in (
        store.ensure_container(CONTAINER), store.listing(CONTAINER, "i/b/"), store.read(CONTAINER, "x", limit=1),
        store.remove(CONTAINER, "i/b/"),
    ):
        with pytest.raises(TryAgain, match=f"it answered {status}"):
            await call


@pytest.mark.parametrize("status", [400, 402, 405, 412, 413, 301, 307])
async def test_what_is_refused_is_final(stand_in: StandIn, store: SwiftStorage, status: int) -> None:
    stand_in.says(status, headers={"Location": "http://elsewhere.invalid/"})
    for call in (
        store.ensure_container(CONTAINER), store.listing(CONTAINER, "i/b/"), store.read(CONTAINER, "x", limit=1),
        store.remove(CONTAINER, "i/b/"),
    ):
        with pytest.raises(GiveUp, match=f"it answered {status}") as refused:
            await call
        assert refused.value.code == "storage"


async def test_a_container_is_set_up_by_the_one_user_and_worked_in_by_the_other(
    stand_in: StandIn, store: SwiftStorage,
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status={"HEAD": 204, "PUT": 202}.get(request.method, 404))

    stand_in.answer = answer
    await store.ensure_container(CONTAINER)
    await store.listing(CONTAINER, "i/b/")
    await store.remove(CONTAINER, "i/b/")
    await store.read(CONTAINER, "i/b/x", limit=1)
    assert [(method, user) for method, _, user in stand_in.asked] == [
        ("HEAD", "coffer:setup"), ("PUT", "coffer:setup"), *[("GET", "coffer:backup")] * 3,
    ]


async def test_a_container_that_is_as_it_should_be_is_left_alone(stand_in: StandIn, store: SwiftStorage) -> None:
    stand_in.says(204, headers={
        "X-Container-Read": "friend:one, coffer:backup", "X-Container-Write": "coffer:backup",
        "X-Container-Meta-Temp-Url-Key": "first-key", "X-Container-Meta-Temp-Url-Key-2": "second-key",
    })
    await store.ensure_container(CONTAINER)
    assert [method for method, _, _ in stand_in.asked] == ["HEAD"]


async def test_a_403_is_looked_into(stand_in: StandIn, store: SwiftStorage) -> None:
    """Swift says it of a container that is not there, and of one that is closed to the service."""
    there = 404

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=there if request.method == "HEAD" else 403)

    stand_in.answer = answer
    assert await store.listing(CONTAINER, "i/b/") == []
    assert await store.read(CONTAINER, "x", limit=1) is None
    assert await store.remove(CONTAINER, "i/b/") == 0
    there = 204
    for call in (store.listing(CONTAINER, "i/b/"), store.read(CONTAINER, "x", limit=1)):
        with pytest.raises(GiveUp, match="it answered 403"):
            await call


async def test_a_token_is_kept_and_asked_for_anew_once(stand_in: StandIn, store: SwiftStorage) -> None:
    for _ in range(3):
        await store.listing(CONTAINER, "i/b/")
    assert stand_in.logins["coffer:backup"] == 1
    stand_in.tokens.clear()
    await store.listing(CONTAINER, "i/b/")
    assert stand_in.logins["coffer:backup"] == 2

    stand_in.says(401)
    with pytest.raises(TryAgain, match="it answered 401"):
        await store.listing(CONTAINER, "i/b/")
    assert stand_in.logins["coffer:backup"] == 3


async def test_many_calls_at_once_share_a_new_token(stand_in: StandIn, store: SwiftStorage) -> None:
    await store.listing(CONTAINER, "i/b/")
    stand_in.tokens.clear()
    await asyncio.gather(*(store.listing(CONTAINER, "i/b/") for _ in range(20)))
    assert stand_in.logins["coffer:backup"] == 2


@pytest.mark.parametrize("status", [401, 403, 503])
async def test_a_login_that_fails(stand_in: StandIn, store: SwiftStorage, status: int) -> None:
    stand_in.login_status = status
    with pytest.raises((TryAgain, GiveUp), match=f"logging in: it answered {status}"):
        await store.listing(CONTAINER, "i/b/")
    assert stand_in.asked == []
    stand_in.login_status = 200
    await store.listing(CONTAINER, "i/b/")


async def test_a_store_that_does_not_answer(stand_in: StandIn) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    stand_in.answer = answer
    store = stand_in.door(call_seconds=0.05)
    with pytest.raises(TryAgain, match="listing a backup: no answer in time"):
        await store.listing(CONTAINER, "i/b/")
    await store.close()


async def test_a_store_that_stops_in_the_middle(stand_in: StandIn, store: SwiftStorage) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.close()
        return response

    stand_in.answer = answer
    with pytest.raises(TryAgain, match="cannot be reached"):
        await store.read(CONTAINER, "x", limit=1000)


async def test_a_store_that_is_not_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        store = SwiftStorage(SwiftSettings(
            url=f"http://127.0.0.1:{taken.getsockname()[1]}", guest_url="http://g", setup_user="a:b", setup_key="k",
            user="a:c", key="k",
        ))
        with pytest.raises(TryAgain, match="logging in: it cannot be reached"):
            await store.listing(CONTAINER, "i/b/")
        await store.close()


async def test_something_else_answers_there() -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 mail.invalid ESMTP\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    standing = StandIn()
    standing.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    store = standing.door()
    with pytest.raises(TryAgain, match="what it answers is not HTTP") as failed:
        await store.listing(CONTAINER, "i/b/")
    assert not any(secret in told(failed.value) for secret in SECRETS)
    await store.close()
    server.close()


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'[{"name": "a"}]', b'[{"subdir": "a/"}]'])
async def test_a_listing_that_is_none(stand_in: StandIn, store: SwiftStorage, body: bytes) -> None:
    stand_in.says(200, body)
    with pytest.raises(TryAgain, match="no listing"):
        await store.listing(CONTAINER, "i/b/")


async def test_a_listing_is_read_until_a_page_is_empty(stand_in: StandIn, store: SwiftStorage) -> None:
    pages = {"": page("a", "b"), "i/b/b": page("c"), "i/b/c": b"[]"}

    async def answer(request: web.Request) -> web.StreamResponse:
        query = parse_qs(urlsplit(request.raw_path).query, keep_blank_values=True)
        assert (query["prefix"], query["format"], query["limit"]) == (["i/b/"], ["json"], ["10000"])
        return web.Response(body=pages[query["marker"][0]])

    stand_in.answer = answer
    assert [each.name for each in await store.listing(CONTAINER, "i/b/")] == ["a", "b", "c"]
    assert {path.partition("?")[0] for _, path, _ in stand_in.asked} == {"/v1/AUTH_demo/my%20backups"}


async def test_an_answer_without_end_is_not_read_to_its_end(stand_in: StandIn, store: SwiftStorage) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(2000):
            await response.write(b"x" * 65536)
            sent += 65536
        return response

    stand_in.answer = answer
    with pytest.raises(GiveUp, match="larger than the 1000 bytes"):
        await store.read(CONTAINER, "x", limit=1000)
    assert sent < 2000 * 65536


async def test_what_is_stored_packed_is_not_unpacked(stand_in: StandIn, store: SwiftStorage) -> None:
    stand_in.says(200, b"not gzip at all", {"Content-Encoding": "gzip"})
    assert await store.read(CONTAINER, "x", limit=100) == b"not gzip at all"


async def test_objects_are_removed_a_few_at_a_time(stand_in: StandIn, store: SwiftStorage) -> None:
    every = [f"{number:03}" for number in range(50)]
    gone: set[str] = set()
    now = most = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal now, most
        if request.method == "GET":
            return first_page_of(request, *every)
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.001)
        gone.add(request.path.rpartition("/")[2])
        now -= 1
        return web.Response(status=404 if request.path.endswith("7") else 204)

    stand_in.answer = answer
    assert await store.remove(CONTAINER, "i/b/") == 50
    assert gone == set(every)
    assert 1 < most <= 8


async def test_a_removal_that_fails_leaves_nothing_running(stand_in: StandIn, store: SwiftStorage) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return first_page_of(request, *map(str, range(50)))
        return web.Response(status=503)

    stand_in.answer = answer
    before = asyncio.all_tasks()
    with pytest.raises(TryAgain, match="deleting a backup: it answered 503"):
        await store.remove(CONTAINER, "i/b/")
    assert len([each for each in asyncio.all_tasks() - before if "_delete_each" in repr(each)]) == 0


async def test_nothing_secret_is_told(stand_in: StandIn) -> None:
    store = stand_in.door(call_seconds=0.05)
    failures = []
    for status in (401, 403, 500):
        stand_in.says(status)
        for call in (store.ensure_container(CONTAINER), store.listing(CONTAINER, "i/b/")):
            with pytest.raises((TryAgain, GiveUp)) as failed:
                await call
            failures.append(told(failed.value))
    stand_in.says(204)
    await store.listing(CONTAINER, "i/b/")
    shown = [*failures, repr(store), repr(vars(store)), repr(SETTINGS), repr(CONTAINER)]
    assert not [text for text in shown if any(secret in text for secret in SECRETS)]
    await store.close()


async def test_an_upload_lingers_no_longer_than_the_stacks_swift_lets_it() -> None:
    etc = Path(__file__).parents[3] / "deploy/images/swift/etc"
    told_of = {
        name: int(value)
        for file in ("object-server.conf", "proxy-server.conf")
        for name, value in re.findall(r"(?m)^(max_upload_time|client_timeout) = (\d+)$", (etc / file).read_text())
    }
    assert set(told_of) == {"max_upload_time", "client_timeout"}
    assert sum(told_of.values()) + 10 <= SwiftStorage(SETTINGS).lingering


def told(error: BaseException) -> str:
    """All that a log could show of it."""
    return f"{error!s} {error!r} {''.join(traceback.format_exception(error))}"
