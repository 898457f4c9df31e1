"""Bringing a database to this release's schema, and comparing the two.

Revisions are written by hand under `migrations/versions`; `check_drift` says what one has forgotten. It makes the
models' tables in a schema of their own, inside a transaction that is rolled back, and compares what PostgreSQL says of
both, so it sees partial indexes, defaults, checks and storage parameters as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

import coffer_db.tables  # noqa: F401 - declares the tables

_MIGRATIONS = Path(__file__).parent / "migrations"
_SCRATCH = "coffer_drift"


async def upgrade(database_url: str | URL) -> None:
    """Apply every missing revision, all or none. Of several that start at once one works and the others wait."""
    await _run(database_url, _upgrade)


async def current(database_url: str | URL) -> str | None:
    """The revision that the database is at; None when it is empty."""
    found: list[str | None] = []
    await _run(database_url, lambda c: found.append(MigrationContext.configure(c).get_current_revision()))
    return found[0]


def newest() -> str | None:
    """The revision that this release wants."""
    return ScriptDirectory.from_config(_config()).get_current_head()


async def check_drift(database_url: str | URL) -> list[str]:
    """How the database differs from the models, a line each; empty when it does not."""
    found: list[str] = []
    await _run(database_url, lambda c: found.extend(_drift(c)))
    return found


async def _run(database_url: str | URL, work: Any) -> None:
    engine = create_async_engine(database_url, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(work)
    finally:
        await engine.dispose()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _upgrade(connection: Connection) -> None:
    with connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('coffer migrations', 0))"))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _drift(connection: Connection) -> list[str]:
    transaction = connection.begin()
    try:
        connection.execute(text(f"CREATE SCHEMA {_SCRATCH}"))
        connection.execute(text(f"SET LOCAL search_path = {_SCRATCH}"))
        connection.execute(text("CREATE SEQUENCE operation_seq"))
        SQLModel.metadata.create_all(connection, checkfirst=False)
        wanted = _describe(connection, _SCRATCH)
        connection.execute(text("SET LOCAL search_path = public"))
        there = _describe(connection, "public")
    finally:
        transaction.rollback()
    return [f"missing: {line}" for line in sorted(wanted - there)] + [
        f"unknown: {line}" for line in sorted(there - wanted)
    ]


def _describe(connection: Connection, schema: str) -> set[str]:
    lines = {" ".join(str(part) for part in row) for row in connection.execute(_DESCRIBE, {"schema": schema})}
    return {line.replace(f"{schema}.", "") for line in lines if "alembic_version" not in line}


_DESCRIBE = text("""
    WITH tables AS (
        SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = :schema
    )
    SELECT 'table', relname::text, relkind::text, coalesce(array_to_string(reloptions, ','), ''), ''
    FROM tables WHERE relkind IN ('r', 'S', 'v')
    UNION ALL
    SELECT 'column', t.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attnotnull THEN 'not null' ELSE 'null' END,
        coalesce('default ' || pg_get_expr(d.adbin, d.adrelid), 'no default')
    FROM tables t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = t.oid AND d.adnum = a.attnum
    WHERE t.relkind = 'r'
    UNION ALL
    SELECT 'index', pg_get_indexdef(i.indexrelid), '', '', ''
    FROM tables t JOIN pg_index i ON i.indrelid = t.oid
    UNION ALL
    SELECT 'constraint', t.relname || '.' || c.conname, pg_get_constraintdef(c.oid), '', ''
    FROM tables t JOIN pg_constraint c ON c.conrelid = t.oid WHERE c.contype <> 'n'
""")
