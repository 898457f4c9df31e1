"""Facts about the installation that somebody has confirmed, kept where its services and its operator see them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

MASTER_KEY = "master-key"
"""Fingerprint of the installation's master key."""
EXPORTED = "master-key-export"
"""Fingerprint of the key in the export that was last verified."""


async def set_mark(session: AsyncSession, name: str, value: str) -> None:
    await session.execute(_SET, {"name": name, "value": value})


async def get_mark(session: AsyncSession, name: str) -> tuple[str, datetime] | None:
    """Its value, and since when it is confirmed."""
    row = (await session.execute(_GET, {"name": name})).first()
    return None if row is None else (row.value, row.at)


_SET = text("""
    INSERT INTO marks (name, value) VALUES (:name, :value)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value, at = now()
""")
_GET = text("SELECT value, at FROM marks WHERE name = :name")
