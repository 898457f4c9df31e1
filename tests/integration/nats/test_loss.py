"""The supervised connection when the server goes away, for a while or for somebody."""

import asyncio
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer_shared import subjects
from coffer_shared.errors import Unavailable
from support.nats_server import NatsServer

from .conftest import Enter, Open, Pair, until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """One each: these tests kill it."""
    running = NatsServer.start(tmp_path)
    yield running
    running.kill()


async def test_the_server_is_killed_and_comes_back(pair: Pair, server: NatsServer) -> None:
    ups: list[int] = []

    async def came_up() -> None:
        ups.append(1)

    pair.guest.on_up(came_up)
    server.kill()
    await until(lambda: not pair.service.connected and not pair.guest.connected)
    with pytest.raises(Unavailable):
        await pair.ask()
    server.start_again()
    await pair.service.ready(5)
    await pair.guest.ready(5)

    assert await pair.ask() == b"hello"
    assert pair.guest.counters["reconnects"] == 1
    await until(lambda: ups == [1])


async def test_an_ask_under_way_ends_when_the_connection_does(pair: Pair, server: NatsServer) -> None:
    pair.hold = asyncio.Event()
    asked = asyncio.create_task(pair.ask(b"slow", timeout=30))
    await until(lambda: pair.handled == [b"slow"])
    server.kill()
    with pytest.raises(Unavailable):
        await asked


async def test_revoked_while_connected_and_kept_out_even_after_a_restart(
    server: NatsServer, open_link: Open, enter: Enter
) -> None:
    instance, other = str(uuid.uuid4()), str(uuid.uuid4())
    credentials = server.guest_creds(instance)
    link = await open_link(credentials, subjects.guest_inbox(instance))
    bystander = await open_link(server.guest_creds(other), subjects.guest_inbox(other))
    revoker = await enter(server.service_creds("revoker", "SYS"), inbox_prefix="_INBOX.revoker")
    claims = server.keys.account_jwt("GUESTS", {credentials.nkey: int(time.time())}, iat=int(time.time()))
    await revoker.client.request("$SYS.REQ.CLAIMS.UPDATE", claims.encode())
    await until(lambda: link.refused)

    assert bystander.counters["connects"] == 1
    assert bystander.connected
    server.kill()
    server.write_config()
    server.start_again()
    await bystander.ready(5)
    before = link.counters["refused"]
    await until(lambda: link.counters["refused"] > before)
    assert not link.connected


async def test_a_newer_preloaded_account_forgets_revocations(server: NatsServer, open_link: Open, enter: Enter) -> None:
    """Why preloaded accounts carry the oldest possible time: this is what the server does with a newer one."""
    instance = str(uuid.uuid4())
    credentials = server.guest_creds(instance)
    revoker = await enter(server.service_creds("revoker", "SYS"), inbox_prefix="_INBOX.revoker")
    claims = server.keys.account_jwt("GUESTS", {credentials.nkey: int(time.time())}, iat=1000)
    await revoker.client.request("$SYS.REQ.CLAIMS.UPDATE", claims.encode())
    link = await open_link(credentials, subjects.guest_inbox(instance), wait=False)
    await until(lambda: link.refused)
    public = server.keys.accounts["GUESTS"].public
    server.kill()
    old = next(line for line in server.config.read_text().splitlines() if line.startswith(f"  {public}: "))
    newer = server.keys.account_jwt("GUESTS", iat=1001)
    server.config.write_text(server.config.read_text().replace(old, f'  {public}: "{newer}"'))
    server.start_again()

    await link.ready(5)
    assert link.connected


async def test_changing_over_while_the_server_is_away(pair: Pair, server: NatsServer) -> None:
    server.kill()
    with pytest.raises(Unavailable):
        await pair.guest.reconnect(0.3)
    server.start_again()
    await pair.guest.ready(5)
    await pair.service.ready(5)
    assert await pair.ask() == b"hello"


async def test_ready_gives_up(server: NatsServer, open_link: Open) -> None:
    server.kill()
    link = await open_link(server.service_creds("provisioner"), wait=False)
    with pytest.raises(Unavailable):
        await link.ready(0.1)


async def test_close_while_connecting(server: NatsServer, open_link: Open) -> None:
    server.kill()
    link = await open_link(server.service_creds("provisioner"), wait=False)
    await until(lambda: link.counters["failed"] >= 1)
    async with asyncio.timeout(2):
        await link.close()
    assert not link.connected
