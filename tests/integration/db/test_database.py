"""Connections that break, servers that go away, and what callers see of that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from coffer_db.database import Database, Lost
from coffer_shared.errors import Unavailable
from support.postgres import Server

KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'test%'"


class Proxy:
    """Stands between a Database and its server, and can cut, refuse or freeze what passes."""

    def __init__(self, server: Server) -> None:
        self._target = server
        self._pipes: set[asyncio.Task[None]] = set()
        self._listening: asyncio.Server | None = None
        self.port = 0
        self._open = asyncio.Event()
        self._open.set()

    async def listen(self) -> None:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def go_away(self) -> None:
        assert self._listening
        self._listening.close()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)
        await self._listening.wait_closed()

    def freeze(self) -> None:
        self._open.clear()

    def thaw(self) -> None:
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._pipes.add(task)
        there, to = await asyncio.open_connection(self._target.host, self._target.port)
        try:
            done = [asyncio.create_task(self._pump(reader, to)), asyncio.create_task(self._pump(there, writer))]
            await asyncio.wait(done, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.cancel()
            await asyncio.gather(*done, return_exceptions=True)
        except asyncio.CancelledError:
            for pump in done:
                pump.cancel()
        finally:
            to.close()
            writer.close()
            self._pipes.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            writer.write(data)
            await writer.drain()


@pytest.fixture
async def proxy(postgres: Server) -> AsyncIterator[Proxy]:
    proxy = Proxy(postgres)
    await proxy.listen()
    yield proxy
    proxy.thaw()
    await proxy.go_away()


@pytest.fixture
async def behind(proxy: Proxy, postgres: Server, empty_database: str) -> AsyncIterator[Database]:
    there = Server(postgres.host, proxy.port, postgres.user, postgres.password)
    settings = msgspec.structs.replace(
        there.settings(empty_database), database_statement_seconds=0.3, database_connect_seconds=0.5)
    database = Database(settings, name="behind")
    yield database
    await database.close()


async def one(connection: AsyncConnection) -> int:
    return int((await connection.execute(text("SELECT 1"))).scalar_one())


async def test_a_transaction_is_committed_or_rolled_back(db: Database) -> None:
    insert = text("INSERT INTO account_writes VALUES (:a, 1)")
    async with db.begin() as session:
        await session.execute(insert, {"a": "kept"})
    with pytest.raises(KeyError):
        async with db.begin() as session:
            await session.execute(insert, {"a": "dropped"})
            raise KeyError
    with pytest.raises(IntegrityError):
        async with db.begin() as session:
            await session.execute(insert, {"a": "kept"})
    async with db.connect() as connection:
        assert (await connection.execute(text("SELECT account FROM account_writes"))).scalars().all() == ["kept"]


async def test_statements_are_counted(db: Database) -> None:
    before = db.statements
    async with db.begin() as session:
        await session.execute(text("SELECT 1"))
        await session.execute(text("SELECT 2"))
    assert db.statements - before == 2


async def test_a_read_survives_a_restart_and_a_write_says_unavailable(db: Database, postgres: Server) -> None:
    assert await db.read(one) == 1
    postgres.restart()
    assert await db.read(one) == 1
    postgres.restart()
    with pytest.raises(Unavailable):
        async with db.begin() as session:
            await session.execute(text("SELECT 1"))
    async with db.begin() as session:
        await session.execute(text("SELECT 1"))


async def test_one_error_clears_the_pool_of_all_dead_connections(db: Database, postgres: Server) -> None:
    await asyncio.gather(*(db.read(one) for _ in range(8)))
    postgres.restart()
    assert await asyncio.gather(*(db.read(one) for _ in range(8))) == [1] * 8


async def test_a_connection_lost_within_a_block_is_unavailable(db: Database, postgres: Server) -> None:
    with pytest.raises(Lost):
        async with db.begin() as session:
            await session.execute(text("SELECT 1"))
            await asyncio.to_thread(postgres.run, KILL)
            await session.execute(text("SELECT 1"))
    with pytest.raises(Lost):
        async with db.begin() as session:
            await session.execute(text("SELECT 1"))
            await asyncio.to_thread(postgres.run, KILL)
    with pytest.raises(Lost):
        async with db.connect() as connection:
            await connection.execute(text("SELECT 1"))
            await asyncio.to_thread(postgres.run, KILL)
            await connection.execute(text("SELECT 1"))
    assert await db.ready()


async def test_a_server_that_is_away_is_unavailable_and_comes_back(behind: Database, proxy: Proxy) -> None:
    assert await behind.ready()
    await proxy.go_away()
    assert not await behind.ready()
    for context in (behind.begin(), behind.connect()):
        with pytest.raises(Unavailable):
            async with context:
                pytest.fail("connected to nothing")
    await proxy.listen()
    assert await behind.ready()


async def test_a_server_that_does_not_answer_is_unavailable(behind: Database, proxy: Proxy) -> None:
    assert await behind.ready()
    proxy.freeze()
    with pytest.raises(Unavailable):
        async with behind.connect() as connection:
            await one(connection)
    with pytest.raises(Unavailable):
        async with behind.begin() as session:
            await session.execute(text("SELECT 1"))
    proxy.thaw()
    assert await behind.read(one) == 1


async def test_a_cancelled_statement_leaves_the_pool_usable(db: Database) -> None:
    async def sleep() -> None:
        async with db.connect() as connection:
            await connection.execute(text("SELECT pg_sleep(30)"))

    for _ in range(12):
        task = asyncio.create_task(sleep())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await db.read(one) == 1


async def test_notifications_come_and_come_again_after_the_connection_was_lost(db: Database, postgres: Server) -> None:
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    await db.listen("one", lambda payload: heard.put_nowait(("one", payload)))
    await db.listen("two", lambda payload: heard.put_nowait(("two", payload)))

    async def say(channel: str, payload: str) -> tuple[str, str]:
        async with db.connect() as connection:
            await connection.execute(text("SELECT pg_notify(:c, :p)"), {"c": channel, "p": payload})
        async with asyncio.timeout(5):
            return await heard.get()

    assert await say("one", "a") == ("one", "a")
    assert await say("two", "b") == ("two", "b")
    postgres.restart()
    async with asyncio.timeout(10):
        assert {await heard.get(), await heard.get()} == {("one", ""), ("two", "")}
    assert await db.ready()
    assert await say("two", "c") == ("two", "c")


async def test_settings_never_show_the_password(postgres: Server) -> None:
    assert postgres.password not in repr(postgres.settings("x"))
    assert postgres.password not in str(postgres.settings("x").url())
