"""What the backup-scheduler's housekeeping removes, and that two of them do not do it twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from coffer_backup_scheduler import chores
from coffer_backup_scheduler.chores import CHORES, prune_operation_events, prune_revocations
from coffer_backup_scheduler.rounds import Rounds
from coffer_db.catalogue import register
from coffer_db.database import Database
from integration.collector.scene import until
from integration.db.rows import CATALOGUE, new_instance, run
from support.nats_server import free_port


@pytest.fixture
async def connection(db: Database) -> AsyncIterator[Any]:
    made = await db.connect_alone()
    yield made
    await made.close()


@pytest.fixture
async def events(db: Database) -> None:
    """Five events each of an operation that is open, one that ended lately, and one that ended long ago."""
    instance = new_instance()
    async with db.begin() as session:
        await register(session, CATALOGUE)
        session.add(instance)
    for state, finished in (("running", "NULL"), ("failed", "now() - interval '29 days'"),
                            ("succeeded", "now() - interval '31 days'")):
        await run(db, f"""
            WITH made AS (
                INSERT INTO operations (id, instance_id, project_id, user_id, request_id, trace, kind, lifecycle, state,
                    step, progress, progress_text, attempts, cancel_requested, deadline, finished_at, guest_state,
                    guest_code, guest_text)
                VALUES ('{uuid4()}', '{instance.id}', 'p', '', '', '', '{state}', false, '{state}', '', 0, '', 0, false,
                    now(), {finished}, '', '', '')
                RETURNING id
            )
            INSERT INTO operation_events (operation_id, n, kind, percent, text, at)
            SELECT id, n, 'progress', 0, '', now() FROM made, generate_series(0, 4) AS n
        """)


async def kinds(connection: Any) -> dict[str, int]:
    rows = await connection.fetch(
        "SELECT o.kind, count(*) FROM operation_events AS e JOIN operations AS o ON o.id = e.operation_id GROUP BY 1",
    )
    return {row[0]: row[1] for row in rows}


async def test_events_of_long_ended_operations_go_and_no_others(connection: Any, events: None) -> None:
    assert await prune_operation_events(connection) == 5
    assert await kinds(connection) == {"running": 5, "failed": 5}
    assert await prune_operation_events(connection) == 0
    assert await connection.fetchval("SELECT count(*) FROM operations") == 3


async def test_a_batch_is_bounded_and_what_another_holds_is_left(
    connection: Any, db: Database, events: None, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chores, "BATCH", 3)
    other = await db.connect_alone()
    async with other.transaction():
        await other.execute(
            "SELECT FROM operation_events WHERE operation_id IN (SELECT id FROM operations WHERE kind = 'succeeded')"
            " AND n < 4 FOR UPDATE",
        )
        assert await prune_operation_events(connection) == 1
    assert await prune_operation_events(connection) == 3
    await other.close()


async def test_revocations_go_a_day_after_the_last_jwt_has_expired(connection: Any) -> None:
    for name, expires in (("valid", "1 day"), ("just expired", "-1 hour"), ("old", "-25 hours")):
        await connection.execute(
            "INSERT INTO revocations (nkey, instance_id, reason, expires_at)"
            " VALUES ($1, '', '', now() + $2::text::interval)", name, expires,
        )
    assert await prune_revocations(connection) == 1
    left = await connection.fetch("SELECT nkey FROM revocations ORDER BY nkey")
    assert [row[0] for row in left] == ["just expired", "valid"]


async def test_two_schedulers_at_once_do_each_chore_once(db: Database, events: None) -> None:
    both = [Rounds(db, CHORES) for _ in range(4)]
    await asyncio.gather(*(rounds.turn() for rounds in both))
    assert sum(rounds.removed()["prune_operation_events",] for rounds in both) == 5
    assert all(outcome in {"done", "elsewhere"} for rounds in both for _, outcome in rounds.runs())


async def test_the_service_starts_works_and_ends_by_a_signal(
    db: Database, postgres: Any, empty_database: str, events: None, connection: Any,
) -> None:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from coffer_backup_scheduler.main import main; main()",
        env={
            **os.environ, "COFFER_DATABASE_HOST": postgres.host, "COFFER_DATABASE_PORT": str(postgres.port),
            "COFFER_DATABASE_NAME": empty_database, "COFFER_DATABASE_USER": postgres.user,
            "COFFER_DATABASE_PASSWORD": postgres.password, "COFFER_METRICS_PORT": str(port),
            "COFFER_METRICS_HOST": "127.0.0.1",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await until(lambda: _answers(port, "/readyz", "database: ok"), within=20)
        await until(lambda: _answers(port, "/metrics", 'removed_rows_total{what="prune_operation_events"} 5.0'))
        assert await kinds(connection) == {"running": 5, "failed": 5}
        process.send_signal(signal.SIGTERM)
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert postgres.password not in out.decode()


async def _answers(port: int, path: str, wanted: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
            return wanted in await answer.text()
    except aiohttp.ClientConnectionError:
        return False
