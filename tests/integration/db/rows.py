"""What the tests of the database write and look at, beside the fixtures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from coffer_db.catalogue import Catalogue, DatastoreOffer, VersionOffer, version_id
from coffer_db.database import Database
from coffer_db.secrets import MasterKey
from coffer_db.tables import Instance

POSTGRESQL = VersionOffer(name="17", version="17.6", manager="postgresql", image="coffer/postgres:17")
CATALOGUE = Catalogue((DatastoreOffer("postgresql", (POSTGRESQL,), POSTGRESQL),))
KEY = MasterKey.generate()

MakeInstance = Callable[[], Awaitable[str]]
FileOperation = Callable[..., Coroutine[Any, Any, str]]


def new_instance() -> Instance:
    columns: dict[str, Any] = {
        "id": str(uuid4()), "project_id": "p", "name": "one", "flavor_id": "2",
        "datastore_version_id": version_id("postgresql", POSTGRESQL), "volume_gib": 1, "fs_uuid": str(uuid4()),
    }
    return Instance(**columns)


async def row(db: Database, operation: str) -> Any:
    """The whole row, and `due_in` seconds."""

    async def look(connection: AsyncConnection) -> Any:
        found = await connection.execute(
            text("SELECT *, extract(epoch FROM wake_at - now())::float8 AS due_in FROM operations WHERE id = :id"),
            {"id": operation},
        )
        return found.one()

    return await db.read(look)


async def instance_row(db: Database, instance: str) -> Any:
    async with db.connect() as connection:
        return (await connection.execute(text("SELECT * FROM instances WHERE id = :id"), {"id": instance})).one()


async def end_leases(db: Database) -> None:
    """As if the time of every lease had passed."""
    await run(db, "UPDATE operations SET lease_until = now() - interval '1 s', wake_at = now() - interval '1 s'"
                  " WHERE lease_until IS NOT NULL")


async def end_waits(db: Database) -> None:
    """As if everything that waits had waited long enough."""
    await run(db, "UPDATE operations SET wake_at = now() WHERE lease_until IS NULL")


async def run(db: Database, sql: str) -> None:
    async with db.connect() as connection:
        await connection.execute(text(sql))
