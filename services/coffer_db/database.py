"""One process's way to PostgreSQL: a small pool, transactions, single statements, notifications.

What is written and read is in the modules beside this one. A statement that fails because its connection was lost is
never repeated by itself, since it may have been carried out; `read` repeats a read once, so that a restart of
PostgreSQL costs a reader nothing. Testing each connection before its use would cost a round trip a statement.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import asyncpg
import msgspec
from sqlalchemy import URL, event, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine

from coffer_db.listening import Listener
from coffer_shared.errors import Unavailable

T = TypeVar("T")

_CONNECTING = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what the driver makes of a server that dies in the middle of a message
    exc.TimeoutError,
)


class DatabaseSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where PostgreSQL is. A process's own settings inherit from this."""

    database_host: str
    database_port: int = 5432
    database_name: str = "coffer"
    database_user: str
    database_password: str
    database_pool: int = 5
    database_connect_seconds: float = 5.0
    database_statement_seconds: float = 30.0
    """How long one statement may take; a server that does not answer is noticed after that."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.database_user}@{self.database_host}:{self.database_port})"

    def url(self) -> URL:
        return URL.create(
            "postgresql+asyncpg",
            username=self.database_user,
            password=self.database_password,
            host=self.database_host,
            port=self.database_port,
            database=self.database_name,
        )


class Lost(Unavailable):
    """The connection broke under a statement; whether the statement was carried out is not known."""


class Database:
    """Made once a process. `statements` counts what was sent, transaction control not included."""

    def __init__(self, settings: DatabaseSettings, *, name: str = "coffer") -> None:
        self._settings = settings
        self._name = name
        self.statements = 0
        self._engine = create_async_engine(
            settings.url(),
            pool_size=settings.database_pool,
            max_overflow=settings.database_pool,
            hide_parameters=True,  # they would be in the text of every error
            pool_timeout=settings.database_connect_seconds,
            connect_args={
                "timeout": settings.database_connect_seconds,
                "command_timeout": settings.database_statement_seconds,
                "server_settings": {"application_name": name, "jit": "off"},
            },
        )
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._listener = Listener(self._connect_alone)
        event.listen(self._engine.sync_engine, "before_cursor_execute", self._count)

    @contextlib.asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncSession]:
        """A transaction: committed at the end of the block, rolled back when the block raises."""
        session = AsyncSession(self._engine, expire_on_commit=False)
        try:
            with _connecting():
                await session.connection()
            with _using():
                yield session
                await session.commit()
        finally:
            await session.close()

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[AsyncConnection]:
        """A connection on which every statement is a transaction of its own: one round trip each."""
        with _connecting():
            connection = await self._single.connect()
        try:
            with _using():
                yield connection
        finally:
            await connection.close()

    async def read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run `work`, which only reads; once more on a new connection if its connection was lost."""
        try:
            async with self.connect() as connection:
                return await work(connection)
        except Lost:
            async with self.connect() as connection:
                return await work(connection)

    async def listen(self, channel: str, callback: Callable[[str], None]) -> None:
        """Call `callback` with the payload of every notification on `channel`, until `close`.

        After a lost connection was made again it is called with an empty payload: some may have been missed.
        """
        await self._listener.add(channel, callback)

    async def ready(self) -> bool:
        try:
            await self.read(_ask)
        except Unavailable:
            return False
        return True

    async def close(self) -> None:
        await self._listener.close()
        await self._engine.dispose()

    async def connect_alone(self) -> asyncpg.Connection[Any]:
        """A connection outside the pool, for what belongs to a session: locks and notifications."""
        with _connecting():
            return await self._connect_alone()

    async def _connect_alone(self) -> asyncpg.Connection[Any]:
        settings = self._settings
        return await asyncpg.connect(
            host=settings.database_host,
            port=settings.database_port,
            database=settings.database_name,
            user=settings.database_user,
            password=settings.database_password,
            timeout=settings.database_connect_seconds,
            command_timeout=settings.database_connect_seconds,
            server_settings={"application_name": f"{self._name}-alone"},
        )

    def _count(self, *_: Any) -> None:
        self.statements += 1


async def _ask(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT 1"))


@contextlib.contextmanager
def _connecting() -> Iterator[None]:
    try:
        yield
    except _CONNECTING as error:
        raise Unavailable(f"PostgreSQL cannot be reached: {type(error).__name__}") from error
    except exc.DBAPIError as error:
        if not _is_lost(error):
            raise
        raise Unavailable("PostgreSQL cannot be reached") from error


@contextlib.contextmanager
def _using() -> Iterator[None]:
    try:
        yield
    except exc.DBAPIError as error:
        if not _is_lost(error):
            raise
        raise Lost("the connection to PostgreSQL was lost") from error
    except asyncpg.InternalClientError as error:
        raise Lost("the connection to PostgreSQL was lost") from error
    except TimeoutError as error:
        # Nothing but the database is awaited inside these blocks, so the time that ran out is the statement's.
        raise Lost("PostgreSQL did not answer in time") from error


def _is_lost(error: exc.DBAPIError) -> bool:
    return error.connection_invalidated or isinstance(error.orig, OSError) or _sqlstate(error).startswith(("08", "57P"))


def _sqlstate(error: exc.DBAPIError) -> str:
    return str(getattr(error.orig, "sqlstate", None) or "")
