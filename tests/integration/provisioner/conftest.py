"""Fixtures of the provisioner's tests: PostgreSQL under the services' own roles, NATS, a provisioner that answers."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from coffer_db import operations, roles
from coffer_db.backup_tables import Backup
from coffer_db.catalogue import register
from coffer_db.database import Database
from coffer_provisioner.backup_grants import BackupGrants
from coffer_provisioner.backup_records import PostgresBackups
from coffer_provisioner.freezes import Freezes
from coffer_provisioner.guest_requests import GuestRequests
from coffer_provisioner.identities import Installation, MachineIdentities
from coffer_provisioner.main import _answering
from coffer_provisioner.records import PostgresRecords
from coffer_provisioner.storage.fake import FakeStorage
from coffer_shared import subjects
from coffer_shared.bus import Link, tls_context
from integration.db.rows import CATALOGUE, new_instance
from integration.provisioner.actors import LIFE, MASTER, PORTS, ROOT, SERVICES, SIGNED, Provisioner, StubGuest
from support.nats_server import NatsServer

MakeInstance = Callable[..., Any]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.postgres")


@pytest.fixture(scope="module")
def passwords(postgres, test_database: str) -> dict[str, str]:
    """Each module makes its own: the roles belong to the whole server, which other tests use too."""
    from support.postgres import in_thread  # after pytest has it as a plugin

    chosen = {role: secrets.token_hex(16) for role in roles.GRANTS}

    async def apply() -> None:
        admin = await postgres.admin(test_database)
        try:
            await roles.apply(admin, chosen)
        finally:
            await admin.close()

    in_thread(apply())
    return chosen


@pytest.fixture
async def as_role(passwords, postgres, empty_database) -> AsyncIterator[Callable[[str], Database]]:
    async with contextlib.AsyncExitStack() as stack:

        def connect(role: str) -> Database:
            database = Database(postgres.settings(empty_database, role, passwords[role]))
            stack.push_async_callback(database.close)
            return database

        yield connect


@pytest.fixture
def provisioner_db(as_role) -> Database:
    return as_role("coffer_provisioner")


@pytest.fixture
async def make_instance(db) -> MakeInstance:
    async with db.begin() as session:
        await register(session, CATALOGUE)

    async def make(**columns: Any) -> str:
        instance = new_instance()
        for name, value in columns.items():
            setattr(instance, name, value)
        async with db.begin() as session:
            session.add(instance)
        return instance.id

    return make


@pytest.fixture
async def instance(make_instance) -> str:
    return await make_instance()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[NatsServer]:
    running = NatsServer.start(tmp_path_factory.mktemp("nats"))
    yield running
    running.kill()


@pytest.fixture
async def link(server) -> AsyncIterator[Callable[..., Any]]:
    """A started and connected link with these credentials; closed at the end of the test."""
    made: list[Link] = []

    async def connect(credentials: Any, name: str, inbox: str = "") -> Link:
        one = Link(
            (server.url,), lambda: credentials, name=name, tls=tls_context(server.ca_pem), inbox=inbox,
            max_payload=128 * 1024,
        )
        made.append(one)
        await one.start()
        await one.ready(5)
        return one

    yield connect
    for one in made:
        await one.close(grace=0)


@pytest.fixture
def records(provisioner_db) -> PostgresRecords:
    return PostgresRecords(provisioner_db, PORTS, jwt_life=LIFE)


@pytest.fixture
def backups(provisioner_db) -> PostgresBackups:
    return PostgresBackups(provisioner_db, MASTER)


@pytest.fixture
def storage() -> FakeStorage:
    return FakeStorage()


@pytest.fixture
def make_backup(db, file) -> Callable[..., Any]:
    """A backup of this instance with the operation that makes it. Its former ones are over."""

    async def make(instance: str, kind: str = "create_backup", **columns: Any) -> str:
        backup = str(uuid4())
        async with db.connect() as connection:
            found = await connection.execute(_OF, {"i": instance})
            version, project = found.one()
            await connection.execute(_END, {"i": instance})
        operation = await file(instance, kind, beside=True, args={"backup": backup})
        row = {
            "id": backup, "project_id": project, "instance_id": instance, "operation_id": operation, "name": "nightly",
            "datastore_version_id": version, "container": "database_backups", "prefix": f"{instance}/{backup}/",
        }
        async with db.begin() as session:
            session.add(Backup(**(row | columns)))
        return backup

    return make


_OF = text("SELECT datastore_version_id, project_id FROM instances WHERE id = :i")
_END = text("""
    UPDATE operations SET state = 'succeeded', finished_at = now()
    WHERE instance_id = :i AND kind IN ('create_backup', 'create_snapshot') AND finished_at IS NULL
""")


@pytest.fixture
def identities(server, records) -> MachineIdentities:
    told = Installation(
        nats_urls=(server.url,), ca=server.ca_pem, root=ROOT, keyset=SIGNED, renewal_url="https://door:8443/renew",
    )
    return MachineIdentities(server.issuer, records, told, key=SERVICES["provisioner"].private)


@pytest.fixture
async def provisioner(server, provisioner_db, records, backups, storage, link) -> Provisioner:
    """Answers enrolments and requests over NATS as the service does."""
    awaited: list[str] = []

    async def woken(instance: str) -> None:
        await operations.wake_instance(provisioner_db, instance)
        awaited.append(instance)

    requests = GuestRequests(
        SERVICES["provisioner"], server.issuer, records, BackupGrants(backups, {"swift": storage}),
        Freezes(backups, woken), keyset=SIGNED, guest_life=LIFE, enrolled=woken,
    )
    own = await link(server.service_creds("provisioner"), "provisioner", "_INBOX.provisioner")
    await own.subscribe(subjects.ENROLMENTS, "enrol", _answering(requests.on_enrol))
    await own.subscribe(subjects.REQUESTS, "req", _answering(requests.on_request))
    return Provisioner(requests, own, awaited)


@pytest.fixture
def new_guest(identities, link) -> Callable[..., Any]:
    async def make(instance: str) -> StubGuest:
        return StubGuest(await identities.user_data(instance, str(uuid4())), link)

    return make


@pytest.fixture
def enrolled_guest(new_guest, provisioner) -> Callable[..., Any]:
    """A guest that has its identity, is connected, and has not said anything since."""

    async def make(instance: str) -> StubGuest:
        guest = await new_guest(instance)
        await guest.enrol()
        await guest.connect()
        return guest

    return make


@pytest.fixture
def file(db) -> Callable[..., Any]:
    async def file(instance: str, kind: str = "restart_instance", **more: Any) -> str:
        new = operations.NewOperation(
            instance_id=instance, project_id="p", kind=kind, **({"within": timedelta(minutes=5)} | more),
        )
        async with db.begin() as session:
            return await operations.file(session, new, None)

    return file
