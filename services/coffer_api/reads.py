"""Plain SQL reads for the hot routes: one statement, one round trip, rows as asyncpg gives them.

They borrow a connection of the process's one pool and go around the ORM, which costs more than the query itself.
"""

from __future__ import annotations

from typing import Any, cast

import asyncpg

from coffer_db.database import Database, Lost

_LOST = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what the driver says when the server's last words came while it was idle
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)


class Reads:
    def __init__(self, db: Database, pool: int) -> None:
        """`pool`: connections that may be kept idle, which a restart of PostgreSQL breaks all at once."""
        self._db = db
        self._tries = pool + 1

    async def fetch(self, sql: str, *values: Any) -> list[asyncpg.Record]:
        """Again on another connection if one was lost: nothing is changed by reading twice."""
        for left in reversed(range(self._tries)):
            try:
                return await self._fetch(sql, values)
            except Lost:
                if not left:
                    raise
        raise AssertionError("at least one try is made")

    async def one(self, sql: str, *values: Any) -> asyncpg.Record | None:
        rows = await self.fetch(sql, *values)
        return rows[0] if rows else None

    async def _fetch(self, sql: str, values: tuple[Any, ...]) -> list[asyncpg.Record]:
        async with self._db.connect() as connection:
            driver = cast("asyncpg.Connection[Any]", (await connection.get_raw_connection()).driver_connection)
            try:
                return cast("list[asyncpg.Record]", await driver.fetch(sql, *values))
            except _LOST as error:
                await connection.invalidate()
                raise Lost("the connection to PostgreSQL was lost") from error
