"""Each service's role does its work and nothing else."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from coffer_db import operation_views, operations, roles
from coffer_db.catalogue import register
from coffer_db.database import Database
from coffer_db.guest_events import GuestEvent, note_events
from coffer_db.operations import NOW, NewOperation, Turned, claim, extend, save, wake
from coffer_db.revocations import RevocationStore, revoke
from coffer_db.tables import OperationState
from coffer_db.waiting import Waiter
from coffer_shared.errors import Refused
from integration.db.rows import CATALOGUE, KEY, new_instance
from support.postgres import Server

PASSWORDS = {role: f"{role} pass'word" for role in roles.GRANTS}
As = Callable[[str], AbstractAsyncContextManager[Database]]


@pytest.fixture
async def applied(db: Database, postgres: Server, empty_database: str) -> None:
    admin = await postgres.admin(empty_database)
    await roles.apply(admin, PASSWORDS)
    await roles.apply(admin, PASSWORDS)
    await admin.close()


@pytest.fixture
def as_role(applied: None, postgres: Server, empty_database: str) -> As:
    @contextlib.asynccontextmanager
    async def connect(role: str) -> AsyncIterator[Database]:
        database = Database(postgres.settings(empty_database, role, PASSWORDS[role]))
        try:
            yield database
        finally:
            await database.close()

    return connect


ALLOWED = {
    "coffer_api": (
        "SELECT * FROM instances, heartbeats, operation_events, root_history",
        "SELECT id, args, state FROM operations", "SELECT xpub, xpub_old FROM guests",
        "UPDATE instances SET name = 'x'", "UPDATE operations SET cancel_requested = true",
        "SELECT version_num FROM alembic_version",
    ),
    "coffer_provisioner": (
        "SELECT * FROM instances, operations, guests, revocations, heartbeats",
        "UPDATE instances SET deleted_at = now()", "UPDATE guests SET nkey = 'x'", "DELETE FROM heartbeats",
        "INSERT INTO root_history (instance_id, user_id) SELECT id, 'u' FROM instances WHERE false",
    ),
    "coffer_revoker": (
        "SELECT * FROM revocations", "SELECT instance_id, nkey, nkey_old, revoked_at FROM guests",
        "SELECT * FROM account_writes",
    ),
    "coffer_door": (
        "SELECT instance_id, nkey, nkey_old, revoked_at FROM guests", "SELECT id, deleted_at FROM instances",
        "SELECT nkey FROM revocations",
    ),
    "coffer_scheduler": (
        "SELECT * FROM instances, heartbeats, flavors", "SELECT id, state FROM operations",
        "SELECT 1 FROM revocations FOR UPDATE SKIP LOCKED", "DELETE FROM revocations",
        "SELECT 1 FROM operation_events FOR UPDATE SKIP LOCKED", "DELETE FROM operation_events",
    ),
    "coffer_collector": (
        """INSERT INTO heartbeats (instance_id, seq, received_at, engine) VALUES ('i', 1, now(), 'healthy')
           ON CONFLICT (instance_id) DO UPDATE SET seq = excluded.seq WHERE heartbeats.seq < excluded.seq""",
        "SELECT xpub FROM guests", "SELECT * FROM instances",
    ),
}

REFUSED = {
    "coffer_api": (
        "SELECT secret_args FROM operations", "SELECT * FROM operations", "SELECT lease_token FROM operations",
        "UPDATE operations SET state = 'succeeded'", "DELETE FROM operations", "SELECT boot_hash FROM guests",
        "SELECT nkey FROM guests", "UPDATE guests SET xpub = null", "UPDATE instances SET deleted_at = now()",
        "UPDATE instances SET project_id = 'x'", "UPDATE instances SET formatted = false", "DELETE FROM instances",
        "SELECT * FROM revocations", "SELECT * FROM account_writes", "UPDATE heartbeats SET seq = 0",
        "INSERT INTO operation_events (operation_id, n, kind, percent, text, at) VALUES ('a', 1, 'done', 0, '', now())",
        "UPDATE flavors SET ram_mb = 1", "CREATE TABLE x (a int)", "CREATE TEMP TABLE x (a int)",
        "UPDATE alembic_version SET version_num = 'x'", "SELECT rolpassword FROM pg_authid",
    ),
    "coffer_provisioner": (
        "UPDATE instances SET project_id = 'x'", "UPDATE instances SET id = 'x'", "DELETE FROM instances",
        "DELETE FROM operations", "DELETE FROM revocations", "SELECT * FROM account_writes",
        "INSERT INTO instances SELECT * FROM instances", "UPDATE heartbeats SET seq = 0",
        "DELETE FROM operation_events",
        "UPDATE flavors SET ram_mb = 1", "CREATE TABLE x (a int)",
    ),
    "coffer_door": (
        "SELECT * FROM guests", "SELECT xpub FROM guests", "SELECT boot_hash FROM guests", "SELECT * FROM revocations",
        "SELECT name FROM instances", "SELECT id FROM operations", "UPDATE guests SET nkey = 'x'",
        "INSERT INTO revocations (nkey) VALUES ('x')", "SELECT * FROM account_writes", "DELETE FROM instances",
    ),
    "coffer_revoker": (
        "SELECT * FROM guests", "SELECT xpub FROM guests", "SELECT boot_hash FROM guests", "SELECT id FROM operations",
        "SELECT id FROM instances", "DELETE FROM revocations", "UPDATE revocations SET reason = 'x'",
        "INSERT INTO revocations (nkey) VALUES ('x')", "DELETE FROM account_writes", "SELECT * FROM heartbeats",
    ),
    "coffer_scheduler": (
        "SELECT secret_args FROM operations", "UPDATE operations SET state = 'failed'", "DELETE FROM operations",
        "UPDATE instances SET name = 'x'", "SELECT xpub FROM guests", "SELECT * FROM account_writes",
    ),
    "coffer_collector": (
        "SELECT secret_args FROM operations", "UPDATE operations SET state = 'succeeded'",
        "UPDATE operations SET lease_token = 'x'", "UPDATE operations SET cancel_requested = true",
        "DELETE FROM operation_events", "UPDATE operation_events SET percent = 1", "UPDATE instances SET failed = true",
        "SELECT boot_hash FROM guests", "UPDATE guests SET xpub = null", "DELETE FROM heartbeats",
        "INSERT INTO operations SELECT * FROM operations", "SELECT * FROM revocations",
    ),
}


@pytest.mark.parametrize("role", roles.GRANTS)
async def test_a_role_may_do_its_work_and_is_refused_the_rest(as_role: As, role: str) -> None:
    async with as_role(role) as own:
        for statement in ALLOWED[role]:
            async with own.connect() as connection:
                await connection.execute(text(statement))
        for statement in REFUSED[role]:
            with pytest.raises(ProgrammingError, match="permission denied"):
                async with own.connect() as connection:
                    await connection.execute(text(statement))


async def test_the_services_work_together_each_under_its_role(db: Database, as_role: As) -> None:
    async with db.begin() as session:
        await register(session, CATALOGUE)
    instance = new_instance()
    async with (
        as_role("coffer_api") as api, as_role("coffer_provisioner") as provisioner,
        as_role("coffer_collector") as collector, as_role("coffer_scheduler") as scheduler,
    ):
        new = NewOperation(
            instance_id=instance.id, project_id="p", kind="toy", within=timedelta(minutes=1), secret_args={"a": "b"},
            idempotency_key="k", request_hash="h",
        )
        async with api.begin() as session:
            session.add(instance)
            await session.flush()
            op = await operations.file(session, new, KEY.public)
        waiter = Waiter(api)
        await waiter.start()
        now = await claim(provisioner, "w", 30)
        assert now
        assert await extend(provisioner, op, now.token, 30)
        assert await note_events(collector, [GuestEvent(instance=instance.id, op=op, n=0, kind="done", at=1.0)])
        await wake(collector, op)
        async with api.begin() as session:
            assert await operations.request_cancel(session, op)
        end = Turned(state=OperationState.FAILED, step="a", context={}, instance_changes={"deleted_at": NOW})
        assert await save(provisioner, op, now.token, end)
        assert await waiter.until_finished(op, 5)
        await waiter.stop()
        async with scheduler.begin() as session:
            await operations.file(session, NewOperation(
                instance_id=instance.id, project_id="p", kind="backup", within=timedelta(1), lifecycle=False), None)
        async with api.connect() as connection:
            assert len(await operation_views.list_for_project(connection, "p", limit=5)) == 2


async def test_the_revoker_works_under_its_role(as_role: As) -> None:
    async with as_role("coffer_provisioner") as provisioner, as_role("coffer_revoker") as revoker:
        async with provisioner.begin() as session:
            later = (await session.execute(text("SELECT now() + interval '1 day'"))).scalar_one()
            await revoke(session, "U", instance=str(uuid4()), expires_at=later, reason="deleted")
        store = RevocationStore(revoker)
        assert await store.acquire()
        assert await store.reserve_iat("A", 7) == 7
        assert [nkey for nkey, _ in await store.revocations()] == ["U"]
        await store.release()


async def test_a_grant_that_is_not_listed_goes(
    db: Database, postgres: Server, empty_database: str, as_role: As,
) -> None:
    admin = await postgres.admin(empty_database)
    await admin.execute("GRANT SELECT ON operations TO coffer_scheduler; GRANT UPDATE (name) ON flavors TO coffer_api")
    await roles.apply(admin, {})
    await admin.close()
    async with as_role("coffer_scheduler") as scheduler, as_role("coffer_api") as api:
        refused = ((scheduler, "SELECT secret_args FROM operations"), (api, "UPDATE flavors SET name = ''"))
        for own, statement in refused:
            with pytest.raises(ProgrammingError, match="permission denied"):
                async with own.connect() as connection:
                    await connection.execute(text(statement))


async def test_a_changed_password_is_the_only_one_that_works(
    applied: None, postgres: Server, empty_database: str,
) -> None:
    admin = await postgres.admin(empty_database)
    try:
        await roles.apply(admin, {"coffer_api": "another"})
        with pytest.raises(Refused):
            await roles.apply(admin, {"nobody": "x"})
        with pytest.raises(Refused):
            await roles.apply(admin, {"coffer_api": "ü"})
        for password, works in ((PASSWORDS["coffer_api"], False), ("another", True)):
            attempt = asyncpg.connect(
                host=postgres.host, port=postgres.port, user="coffer_api", password=password, database=empty_database)
            if works:
                await (await attempt).close()
            else:
                with pytest.raises(asyncpg.InvalidPasswordError):
                    await attempt
    finally:
        await roles.apply(admin, PASSWORDS)
        await admin.close()
