"""What is PostgreSQL's own in a snapshot, and in what opens on one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

pytestmark = pytest.mark.docker

BACKUPS = ("6f1c2d0e-64a0-4be3-8f0e-0c8f1d7f4a21", "6f1c2d0e-64a0-4be3-8f0e-0c8f1d7f4a22")
OF_BACKUPS = [f"coffer_backup_{backup.replace('-', '_')}" for backup in BACKUPS]
ALL = "SELECT slot_name FROM pg_replication_slots ORDER BY 1"


@pytest.fixture
async def postgres(postgres: Any) -> AsyncIterator[Any]:
    yield postgres
    async with postgres.session() as session:
        await session.fetch("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")


async def test_before_it_all_is_written_out(postgres: Any) -> None:
    reached = "SELECT redo_lsn > $1::text::pg_lsn AS later FROM pg_control_checkpoint()"
    async with postgres.session() as session:
        (at,) = await session.fetch("SELECT pg_current_wal_insert_lsn()::text AS lsn")
        await session.execute("CREATE TABLE written AS SELECT generate_series(1, 1000) AS n")
        try:
            (before,) = await session.fetch(reached, at["lsn"])
            await postgres.driver.before_snapshot(postgres)
            (after,) = await session.fetch(reached, at["lsn"])
        finally:
            await session.execute("DROP TABLE written")
    assert (before["later"], after["later"]) == (False, True)


async def test_in_a_copy_the_originals_backups_hold_nothing_and_a_tenants_slots_stay(postgres: Any) -> None:
    async with postgres.session() as session:
        for slot in (*OF_BACKUPS, "theirs", "coffer"):
            await session.fetch("SELECT pg_create_physical_replication_slot($1, true)", slot)
        for _ in range(2):
            await postgres.driver.after_adoption(postgres)
            assert [row["slot_name"] for row in await session.fetch(ALL)] == ["coffer", "theirs"]
