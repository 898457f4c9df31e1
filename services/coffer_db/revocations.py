"""What the revoker keeps in PostgreSQL: that it is the only one, whom to revoke, and the last `iat` it reserved."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import asyncpg
from sqlalchemy import Text, cast, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import SQLModel

import coffer_db.tables  # noqa: F401 - declares the tables
from coffer_db.database import Database
from coffer_db.listening import LOST
from coffer_shared.errors import Unavailable

_LOCK = 0x636F666672657631
"""The advisory lock of the one active revoker."""

_revocations = SQLModel.metadata.tables["revocations"]


class RevocationStore:
    """The revoker's store. Lock and reservations share one connection, so who has lost the lock reserves nothing."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._connection: asyncpg.Connection[Any] | None = None

    async def acquire(self) -> bool:
        """Whether this process is the active revoker now; asks again (or for the first time) at every call."""
        if self._connection is not None:
            try:
                await self._connection.execute("SELECT 1")
            except LOST:
                await self.release()
            else:
                return True
        connection = await self._db.connect_alone()
        try:
            held = bool(await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK))
        except LOST as error:
            connection.terminate()
            raise Unavailable("the connection to PostgreSQL was lost") from error
        if held:
            self._connection = connection
        else:
            await connection.close()
        return held

    async def release(self) -> None:
        """Let another revoker become active."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    async def revocations(self, since: float = 0.0) -> list[tuple[str, float]]:
        """(nkey, revoked at) of the unexpired, oldest first. A row shows up when it is committed, a moment after its
        time: who asks only for news goes back some minutes."""

        async def rows(connection: AsyncConnection) -> list[tuple[str, float]]:
            r = _revocations.c
            found = await connection.execute(
                select(r.nkey, func.extract("epoch", r.revoked_at))
                .where(r.expires_at > func.now(), r.revoked_at >= datetime.fromtimestamp(since, UTC))
                .order_by(r.revoked_at, r.nkey),
            )
            return [(nkey, float(at)) for nkey, at in found]

        return await self._db.read(rows)

    async def reserve_iat(self, account: str, now: int) -> int:
        """An `iat` for the next JWT of `account`: at least `now` and larger than every one before."""
        if self._connection is None:
            raise Unavailable("this process is not the active revoker")
        try:
            return int(await self._connection.fetchval(_RESERVE, account, now))
        except LOST as error:
            await self.release()
            raise Unavailable("the connection to PostgreSQL was lost") from error


async def revoke(
    session: AsyncSession | AsyncConnection, nkey: str, *, instance: str, expires_at: datetime, reason: str,
) -> None:
    """Record that `nkey` may not connect until its last JWT has expired. A second time only lengthens that."""
    row = insert(_revocations).values(
        nkey=nkey, instance_id=instance, expires_at=expires_at, reason=cast(reason, Text),
    )
    later = func.greatest(_revocations.c.expires_at, row.excluded.expires_at)
    await session.execute(row.on_conflict_do_update(index_elements=["nkey"], set_={"expires_at": later}))


_RESERVE = """
    INSERT INTO account_writes (account, iat) VALUES ($1, $2)
    ON CONFLICT (account) DO UPDATE SET iat = greatest(account_writes.iat + 1, excluded.iat)
    RETURNING iat
"""
