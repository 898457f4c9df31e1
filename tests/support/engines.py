"""Each kind of database as its tenants reach it, over TCP with a password, and what tests must know of it beside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiomysql
import asyncpg
import pymysql

from coffer_shared.datastore import Engine


class Tenant(Protocol):
    """One session."""

    async def execute(self, statement: str) -> Any: ...

    async def fetchval(self, statement: str) -> Any: ...


class Client(Protocol):
    @property
    def home(self) -> str:
        """A database that root can always go into."""
        ...

    @property
    def open_to_all(self) -> frozenset[str]:
        """Databases of the server's own that everybody may look into, and sees there what is his."""
        ...

    @property
    def tells_position(self) -> bool:
        """Whether its backups say where in the engine's log they are."""
        ...

    @property
    def reads_copy(self) -> bool:
        """Whether its backups are of a copy of its files, for which it need not run."""
        ...

    @property
    def denied(self) -> tuple[type[Exception], ...]:
        """What the engine's refusals are."""
        ...

    @property
    def ended(self) -> tuple[type[Exception], ...]:
        """What a session may give whose connection, right or database has gone."""
        ...

    @property
    def owned(self) -> tuple[str, ...]:
        """Settings that a tenant must not choose, among others."""
        ...

    def connect(
        self, host: str, port: int, user: str, password: str, database: str
    ) -> AbstractAsyncContextManager[Tenant]: ...

    async def settings(self, engine: Engine) -> Mapping[str, str]:
        """All that the server has, by name in lower case."""
        ...

    async def held(self, engine: Engine) -> list[Any]:
        """What is kept for a backup that runs, by the server or beside it."""
        ...

    def numbers(self, most: int) -> str:
        """A query for the numbers from 1, as `n`."""
        ...

    def digest(self, text: str) -> str:
        """Some sum of it."""
        ...


@dataclass(frozen=True)
class Postgres:
    home: str = "postgres"
    tells_position: bool = True
    reads_copy: bool = False
    open_to_all: frozenset[str] = frozenset()
    denied: tuple[type[Exception], ...] = (asyncpg.PostgresError,)
    ended: tuple[type[Exception], ...] = (
        asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError,
    )
    owned: tuple[str, ...] = (
        "data_directory", "hba_file", "listen_addresses", "port", "ssl", "archive_command", "restore_command",
        "shared_preload_libraries", "allow_alter_system", "unix_socket_directories", "max_replication_slots",
        "wal_level", "fsync", "search_path", "log_destination", "zero_damaged_pages",
    )

    @asynccontextmanager
    async def connect(self, host: str, port: int, user: str, password: str, database: str) -> AsyncIterator[Tenant]:
        connection = await asyncpg.connect(
            host=host, port=port, user=user, password=password, database=database, ssl=False, timeout=5
        )
        try:
            yield connection
        finally:
            connection.terminate()

    async def settings(self, engine: Engine) -> Mapping[str, str]:
        async with engine.session() as session:
            rows = await session.fetch("SELECT name, current_setting(name) AS value FROM pg_settings")
        return {row["name"].lower(): row["value"] for row in rows}

    async def held(self, engine: Engine) -> list[Any]:
        async with engine.session() as session:
            return [row["slot_name"] for row in await session.fetch("SELECT slot_name FROM pg_replication_slots")]

    def numbers(self, most: int) -> str:
        return f"SELECT n FROM generate_series(1, {most}) n"

    def digest(self, text: str) -> str:
        return f"md5({text})"


class MySQLTenant:
    def __init__(self, connection: aiomysql.Connection) -> None:
        self._connection = connection

    async def execute(self, statement: str) -> None:
        await self.fetchval(statement)

    async def fetchval(self, statement: str) -> Any:
        async with self._connection.cursor() as cursor:
            await cursor.execute(statement)
            row = await cursor.fetchone()
            return row and row[0]


@dataclass(frozen=True)
class MariaDB:
    home: str = "mysql"
    tells_position: bool = True
    reads_copy: bool = False
    first: str = "SET SESSION max_error_count = 0"
    """In each session: the client makes Python's warnings of the server's."""
    open_to_all: frozenset[str] = frozenset({"information_schema", "performance_schema"})
    denied: tuple[type[Exception], ...] = (pymysql.MySQLError,)
    ended: tuple[type[Exception], ...] = (pymysql.MySQLError, OSError, RuntimeError)
    owned: tuple[str, ...] = (
        "datadir", "tmpdir", "bind_address", "port", "socket", "init_file", "init_connect", "secure_file_priv",
        "skip_name_resolve", "plugin_dir", "log_error", "general_log_file", "read_only", "server_id", "log_bin",
        "innodb_force_recovery", "innodb_doublewrite", "innodb_flush_method", "lower_case_table_names", "ssl_key",
    )

    @asynccontextmanager
    async def connect(self, host: str, port: int, user: str, password: str, database: str) -> AsyncIterator[Tenant]:
        # this client would send what Latin-1 makes of the password; all others send the bytes that were typed
        password = password.encode().decode("latin-1")
        connection = await aiomysql.connect(
            host=host, port=port, user=user, password=password, db=database, autocommit=True, connect_timeout=5,
            charset="utf8mb4",
            init_command=self.first,
        )
        try:
            yield MySQLTenant(connection)
        finally:
            connection.close()

    async def settings(self, engine: Engine) -> Mapping[str, str]:
        async with engine.session() as session:
            rows = await session.fetch("SHOW GLOBAL VARIABLES")
        return {row["Variable_name"]: row["Value"] for row in rows}

    async def held(self, engine: Engine) -> list[Any]:
        async with engine.session() as session:
            rows = await session.fetch("SELECT USER AS user, ID AS id FROM information_schema.PROCESSLIST")
        return [row["id"] for row in rows if row["user"] == "coffer_backup"]

    def numbers(self, most: int) -> str:
        return f"SELECT seq AS n FROM seq_1_to_{most}"

    def digest(self, text: str) -> str:
        return f"sha2({text}, 256)"


@dataclass(frozen=True)
class MySQL(MariaDB):
    first: str = "DO 0"
    tells_position: bool = False
    reads_copy: bool = True

    async def held(self, engine: Engine) -> list[Any]:
        copies = Path(f"{engine.order.data}.copies")
        return await asyncio.to_thread(lambda: [path.name for path in copies.glob("*")])

    def numbers(self, most: int) -> str:
        listed = f"CONCAT('[0', REPEAT(',0', {most} - 1), ']')"
        return f"SELECT n FROM JSON_TABLE({listed}, '$[*]' COLUMNS (n FOR ORDINALITY)) numbers"


CLIENTS: Mapping[str, Client] = {"mariadb": MariaDB(), "mysql": MySQL(), "postgresql": Postgres()}
