"""The Swift driver against a server with faults on order: what is tried again, for how long, and with which grant."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from aiohttp import web

from coffer_backup.errors import Damaged, GiveUp
from coffer_backup.store.patience import Patience
from coffer_backup.store.swift import Swift
from coffer_shared.backups import Grant
from coffer_shared.messages import Failure
from unit.backup.fakes import Clock, content
from unit.backup.swift_server import (
    SECRET,
    SwiftServer,
    answering,
    cutting_short,
    dropping,
    reading_then_dropping,
)

DATA = content(1_500_000)
MD5 = hashlib.md5(DATA).hexdigest()
NAME = "segments/00000000"


class Grants:
    def __init__(self, grant: Grant) -> None:
        self.grant = grant

    def current(self) -> Grant:
        return self.grant


class Setting:
    """A server, a driver, and what the driver said."""

    def __init__(self, server: SwiftServer) -> None:
        self.server = server
        self.clock = Clock()
        self.grants = Grants(server.grant(expires_at=self.clock.time + 30))
        self.said: list[str] = []
        self.swift = Swift(self.grants, self.clock.patience(), self.said.append)

    async def put(self) -> None:
        await self.swift.put(NAME, memoryview(DATA), MD5)

    async def get(self, room: int = len(DATA)) -> bytes:
        into = memoryview(bytearray(room))
        size = await self.swift.get(NAME, into)
        return bytes(into[:size])

    async def refused(self) -> GiveUp:
        with pytest.raises(GiveUp) as caught:
            await self.put()
        assert SECRET not in caught.value.text
        assert SECRET not in repr(caught.value)
        assert not any(SECRET in said for said in self.said)
        assert caught.value.code == Failure.STORAGE
        return caught.value


@asynccontextmanager
async def setting() -> AsyncIterator[Setting]:
    async with SwiftServer() as server:
        made = Setting(server)
        try:
            yield made
        finally:
            await made.swift.close()


async def test_what_was_put_can_be_got() -> None:
    async with setting() as s:
        await s.put()
        assert s.server.objects == {NAME: DATA}
        assert await s.get() == DATA
        assert await s.get(len(DATA) + 100) == DATA
        await s.swift.put("manifest.json", b"{}", hashlib.md5(b"{}").hexdigest())
        assert s.server.objects["manifest.json"] == b"{}"


@pytest.mark.parametrize(
    "faults",
    [
        [answering(503), answering(500), answering(507)],
        [answering(408), answering(422), answering(429), answering(498)],
        [dropping, dropping],
        [reading_then_dropping(100_000), reading_then_dropping(1_000_000)],
        [answering(201, ETag="00" * 16), answering(201)],
    ],
)
async def test_what_passes_is_tried_again(faults: list[object]) -> None:
    async with setting() as s:
        s.server.faults = [*faults]  # type: ignore[list-item]
        await s.put()
        assert s.server.objects == {NAME: DATA}
        assert len(s.server.requests) >= len(faults) + 1
        assert s.clock.time > 1000
        assert s.said[-1] == ""
        assert any("trying again" in said for said in s.said)


async def test_reading_is_tried_again_too() -> None:
    async with setting() as s:
        await s.put()
        s.server.faults = [answering(503), cutting_short(DATA), dropping]
        assert await s.get() == DATA


async def test_a_connection_that_was_closed_meanwhile_is_no_trouble() -> None:
    """aiohttp sends such a request again by itself; the body must then start anew."""
    async with setting() as s:
        await s.put()
        s.server.faults = [reading_then_dropping(300_000)]
        await s.put()
        assert s.server.objects == {NAME: DATA}


@pytest.mark.parametrize("status", [400, 404, 405, 409, 411, 412, 413, 301, 302, 307, 308, 200, 202])
async def test_what_does_not_pass_is_final(status: int) -> None:
    """A redirect is not followed: the grant is for this store."""
    async with setting() as s:
        s.server.always = answering(status, Location="http://127.0.0.1:1/elsewhere")
        error = await s.refused()
        assert str(status) in error.text
        assert len(s.server.requests) == 1


async def test_patience_ends_ten_minutes_after_the_last_success() -> None:
    async with setting() as s:
        await s.put()
        began = s.clock.time = s.clock.time + 5000
        s.server.always = answering(503)
        error = await s.refused()
        assert "503" in error.text
        assert 600 <= s.clock.time - began <= 620
        assert 40 <= len(s.server.requests) <= 100


async def test_a_store_that_is_not_there() -> None:
    async with setting() as s:
        s.grants.grant = Grant("swift", "http://127.0.0.1:1/v1/a/c/p/", SECRET, "PUT", 1e12)
        error = await s.refused()
        assert "ClientConnectorError" in error.text


async def test_a_connection_that_stalls_is_given_up() -> None:
    async with SwiftServer() as server:
        done = asyncio.Event()

        async def stalling(_: web.Request) -> None:
            await done.wait()

        server.always = stalling
        clock = Clock()
        patience = Patience(0.0, stall_seconds=0.05, clock=lambda: clock.time, sleep=clock.sleep)
        swift = Swift(Grants(server.grant()), patience, lambda _: None)
        for call in (swift.put(NAME, DATA, MD5), swift.get(NAME, memoryview(bytearray(10)))):
            with pytest.raises(GiveUp, match="TimeoutError"):
                await call
        done.set()
        await swift.close()


# --- grants ---


async def test_the_newest_grant_is_used_for_each_request() -> None:
    async with setting() as s:
        await s.put()
        s.server.valid = {f"{SECRET}-1"}
        s.grants.grant = s.server.grant(1)
        await s.put()
        assert len(s.server.requests) == 2


async def test_after_an_expired_grant_the_next_is_waited_for() -> None:
    async with setting() as s:
        s.server.valid = {f"{SECRET}-1"}
        s.clock.time += 31
        s.clock.at(400, lambda: setattr(s.grants, "grant", s.server.grant(1)))
        await s.put()
        assert len(s.server.requests) == 2
        assert any("another grant" in said for said in s.said)


async def test_a_grant_that_expires_and_is_never_renewed() -> None:
    async with setting() as s:
        s.server.valid = set()
        s.clock.time += 31
        began = s.clock.time
        error = await s.refused()
        assert "expired" in error.text
        assert 600 <= s.clock.time - began <= 620


async def test_a_grant_that_is_refused_before_its_time_is_not_waited_for_so_long() -> None:
    async with setting() as s:
        s.server.valid = set()
        began = s.clock.time
        error = await s.refused()
        assert "refused" in error.text
        assert 60 <= s.clock.time - began <= 70


async def test_when_every_grant_is_refused_it_is_not_their_age() -> None:
    async with setting() as s:
        s.server.valid = set()
        for number in (1, 2, 3, 4):
            s.clock.at(10 * number, partial(setattr, s.grants, "grant", s.server.grant(number)))
        error = await s.refused()
        assert "every grant" in error.text
        assert len(s.server.requests) == 3


async def test_a_store_that_hangs_up_on_an_expired_grant_instead_of_answering() -> None:
    async with setting() as s:
        s.server.valid = {f"{SECRET}-1"}
        s.server.faults = [dropping, dropping]
        s.clock.at(1, lambda: setattr(s.grants, "grant", s.server.grant(1)))
        await s.put()
        assert s.server.objects == {NAME: DATA}


# --- what comes is bounded ---


async def test_no_such_object_and_one_that_is_too_large() -> None:
    async with setting() as s:
        with pytest.raises(Damaged, match="no such object"):
            await s.get()
        await s.put()
        with pytest.raises(Damaged, match="larger than 1000 bytes"):
            await s.get(1000)


async def test_names_are_quoted() -> None:
    async with setting() as s:
        await s.swift.put("a b/ü?c#d", b"x", hashlib.md5(b"x").hexdigest())
        assert list(s.server.objects) == ["a b/ü?c#d"]
