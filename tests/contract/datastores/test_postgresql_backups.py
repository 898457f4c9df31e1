"""What is PostgreSQL's own in a backup: the slot, the role, and who may be it."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from coffer_datastores.postgresql.session import BACKUP_USER
from coffer_shared.datastore import EngineError
from contract.datastores.conftest import Run

pytestmark = pytest.mark.docker

BACKUP, STALE = "6f1c2d0e-64a0-4be3-8f0e-0c8f1d7f4a11", "6f1c2d0e-64a0-4be3-8f0e-0c8f1d7f4a12"
SLOT, STALE_SLOT = (f"coffer_backup_{backup.replace('-', '_')}" for backup in (BACKUP, STALE))
READ = "pg_basebackup -D - -Ft -X fetch -c fast --no-password > /dev/null"


@pytest.fixture
async def postgres(postgres: Any) -> AsyncIterator[Any]:
    yield postgres
    for backup in (BACKUP, STALE):
        await postgres.driver.after_backup(postgres, backup)


async def slots(postgres: Any) -> dict[str, bool]:
    """By name, whether it keeps the log from now on."""
    async with postgres.session() as session:
        rows = await session.fetch(
            "SELECT slot_name, slot_type, restart_lsn IS NOT NULL AND wal_status = 'reserved' AS keeps "
            "FROM pg_replication_slots"
        )
    assert {row["slot_type"] for row in rows} <= {"physical"}
    return {row["slot_name"]: row["keeps"] for row in rows}


async def tell(postgres: Any, *statements: str) -> None:
    async with postgres.session() as session:
        for statement in statements:
            await session.execute(statement)


async def test_a_slot_keeps_the_log_from_before_to_after(postgres: Any) -> None:
    await postgres.driver.before_backup(postgres, BACKUP)
    assert await slots(postgres) == {SLOT: True}
    await postgres.driver.before_backup(postgres, BACKUP)
    assert await slots(postgres) == {SLOT: True}
    await postgres.driver.after_backup(postgres, BACKUP)
    assert await slots(postgres) == {}


async def test_stale_slots_go_and_a_tenants_stay(postgres: Any) -> None:
    await tell(postgres, "SELECT pg_create_physical_replication_slot('theirs', true)")
    try:
        await postgres.driver.before_backup(postgres, STALE)
        await postgres.driver.before_backup(postgres, BACKUP)
        assert await slots(postgres) == {"theirs": True, SLOT: True}
        await postgres.driver.after_backup(postgres, STALE)
        assert await slots(postgres) == {"theirs": True, SLOT: True}
    finally:
        await tell(postgres, "SELECT pg_drop_replication_slot('theirs')")


async def test_a_forgotten_slot_cannot_fill_the_volume(postgres: Any) -> None:
    async with postgres.session() as session:
        (found,) = await session.fetch(
            "SELECT a.setting::int8 AS mib, b.setting::int AS most FROM pg_settings a, pg_settings b "
            "WHERE a.name = 'max_slot_wal_keep_size' AND b.name = 'max_wal_senders'"
        )
    assert found["mib"] << 20 == postgres.order.volume_bytes // 4
    assert found["most"] >= 5


@pytest.mark.parametrize("backup", ["", "x" * 60, "A", "a b", "a'b", "../a"])
async def test_what_names_no_slot_is_refused(postgres: Any, backup: str) -> None:
    with pytest.raises(EngineError):
        await postgres.driver.before_backup(postgres, backup)
    assert await slots(postgres) == {}


# --- the role ---


async def test_the_role_can_replicate_and_nothing_else_whatever_was_done_to_it(postgres: Any) -> None:
    await postgres.driver.before_backup(postgres, BACKUP)
    await tell(
        postgres,
        f"ALTER ROLE {BACKUP_USER} SUPERUSER CREATEDB CREATEROLE BYPASSRLS NOREPLICATION NOLOGIN PASSWORD 'x' "
        "CONNECTION LIMIT 0 VALID UNTIL '2001-01-01'",
        f"ALTER ROLE {BACKUP_USER} SET statement_timeout = 1",
    )
    await postgres.driver.before_backup(postgres, BACKUP)
    async with postgres.session() as session:
        (role,) = await session.fetch(
            "SELECT rolsuper, rolcreatedb, rolcreaterole, rolbypassrls, rolreplication, rolcanlogin, rolconnlimit, "
            "rolpassword, rolvaliduntil::text AS until, "
            "(SELECT count(*) FROM pg_db_role_setting WHERE setrole = a.oid) AS settings "
            f"FROM pg_authid a WHERE rolname = '{BACKUP_USER}'"
        )
    assert list(role.values()) == [False, False, False, False, True, True, -1, None, "infinity", 0]
    assert BACKUP_USER not in [user.name for user in await postgres.driver.list_users(postgres)]


async def test_nobody_is_it_over_tcp_even_with_a_password(postgres: Any) -> None:
    await postgres.driver.before_backup(postgres, BACKUP)
    await tell(postgres, f"ALTER ROLE {BACKUP_USER} PASSWORD 'known'")
    for database in ("postgres", "replication"):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="rejects|no pg_hba"):
            async with postgres.tenant(BACKUP_USER, "known", database):
                pass
    where = ["-h", postgres.order.listen[0], "-p", str(postgres.order.port), "-U", BACKUP_USER]
    done = subprocess.run(
        ["docker", "exec", "-e", "PGPASSWORD=known", postgres.container, "psql", *where, "replication=1"],
        input="IDENTIFY_SYSTEM",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "pg_hba.conf rejects replication connection" in done.stderr


async def test_the_container_reads_a_backup_over_the_socket_and_no_table(postgres: Any, in_container: Run) -> None:
    await postgres.driver.before_backup(postgres, BACKUP)
    reads = postgres.driver.backup_container(postgres.order, postgres.backup_image)
    code, words = await in_container(reads, f"id -u; id -g; {READ}")
    assert code == 0, words
    for conninfo, statement, why in (
        ("dbname=postgres", "SELECT 1", "rejects connection"),
        ("dbname=postgres replication=database", "SELECT 1", "rejects connection"),
        ("replication=1", "SELECT * FROM pg_authid", "cannot execute SQL commands"),
    ):
        code, words = await in_container(reads, f"psql -XAt '{conninfo}' -c '{statement}' > /dev/null")
        assert code != 0, conninfo
        assert why in words, conninfo


async def test_another_local_user_is_not_it(postgres: Any, in_container: Run) -> None:
    await postgres.driver.before_backup(postgres, BACKUP)
    reads = postgres.driver.backup_container(postgres.order, postgres.backup_image)
    run = Path(postgres.order.run)
    closed = [path for path in (run, *run.parents) if not path.stat().st_mode & 0o001]
    for path in closed:
        path.chmod(0o711)
    try:
        code, words = await in_container(replace(reads, uid=998), READ)
    finally:
        for path in closed:
            path.chmod(0o700)
    assert code != 0
    assert "Peer authentication failed" in words or "local user with ID 998 does not exist" in words


async def test_a_server_that_an_older_release_started_is_told_of_it_first(postgres: Any, in_container: Run) -> None:
    """The agent writes the files anew; from when `before_backup` returns, the server knows them."""
    file = Path(postgres.order.config) / "pg_hba.conf"
    written = file.read_text()
    older = "".join(line for line in written.splitlines(keepends=True) if BACKUP_USER not in line)
    reads = postgres.driver.backup_container(postgres.order, postgres.backup_image)
    try:
        file.write_text(older)
        await tell(postgres, "SELECT pg_reload_conf()")
        code, words = await in_container(reads, READ)
        assert code != 0
        assert "pg_hba.conf" in words
    finally:
        file.write_text(written)
    await postgres.driver.before_backup(postgres, BACKUP)
    code, words = await in_container(reads, READ)
    assert code == 0, words


async def test_after_a_backup_its_sessions_end(postgres: Any, in_container: Run) -> None:
    await postgres.driver.before_backup(postgres, BACKUP)
    reads = postgres.driver.backup_container(postgres.order, postgres.backup_image)
    slow = asyncio.create_task(in_container(reads, "pg_basebackup -D - -Ft -X fetch -c fast --max-rate 32 > /dev/null"))
    async with asyncio.timeout(20), postgres.session() as session:
        query = "SELECT FROM pg_stat_activity WHERE usename = $1"
        while not await session.fetch(query, BACKUP_USER):
            await asyncio.sleep(0.02)
        await postgres.driver.after_backup(postgres, BACKUP)
        code, _ = await slow
        assert code != 0
        assert not await session.fetch(query, BACKUP_USER)


# --- what was restored ---


async def test_a_restored_server_is_secured_whatever_its_tenant_had_dropped(postgres: Any) -> None:
    await tell(postgres, "ALTER DATABASE template1 RENAME TO gone", "GRANT CONNECT ON DATABASE postgres TO PUBLIC")
    try:
        async with postgres.session() as session:
            await postgres.driver.after_first_start(session)
            (found,) = await session.fetch("SELECT has_database_privilege('public', 'postgres', 'CONNECT') AS may")
        assert found["may"] is False
    finally:
        await tell(postgres, "ALTER DATABASE gone RENAME TO template1")
