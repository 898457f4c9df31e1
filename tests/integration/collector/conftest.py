"""A collector with a real PostgreSQL, as its own database role, and a real nats-server, and guests to talk to it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from coffer_db import roles
from coffer_db.catalogue import register
from coffer_db.database import Database
from coffer_shared import identity, keyset
from coffer_shared.keyset import KeySet, ServiceKey
from coffer_shared.seal import KeyPair
from coffer_status_collector.main import CollectorSettings
from integration.collector.scene import Scene
from integration.db.rows import CATALOGUE
from support.nats_server import NatsServer

if TYPE_CHECKING:  # the plugin must be imported by pytest first
    from support.postgres import Server

ROOT = bytes(range(32))
PASSWORD = "collector-password"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.postgres")


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    server = NatsServer.start(tmp_path_factory.mktemp("nats"))
    yield server
    server.kill()


@pytest.fixture
async def database_role(postgres: Server, empty_database: str) -> None:
    admin: asyncpg.Connection[asyncpg.Record] = await postgres.admin(empty_database)
    try:
        await roles.apply(admin, {"coffer_collector": PASSWORD})
    finally:
        await admin.close()


@pytest.fixture
def keys() -> dict[str, KeyPair]:
    return {name: KeyPair.generate() for name in ("provisioner", "status-collector")}


@pytest.fixture
def state_dir(tmp_path: Path, nats: NatsServer, keys: dict[str, KeyPair]) -> Path:
    """The collector's folder, as the first start of a stack lays it."""
    folder = tmp_path / "status-collector"
    folder.mkdir()
    entries = tuple(
        ServiceKey(service=name, public=pair.public.hex(), kinds=(), not_before=0, not_after=time.time() + 3600)
        for name, pair in keys.items()
    )
    (folder / "keyset").write_text(keyset.sign(KeySet(entries, issued_at=time.time()), ROOT))
    (folder / "root.pub").write_text(keyset.root_public(ROOT))
    (folder / "key").write_text(keys["status-collector"].private.hex())
    (folder / "ca.pem").write_text(nats.ca_pem)
    identity.save(nats.service_creds("status-collector"), folder / "guests.creds")
    identity.save(nats.service_creds("status-collector", "CTL"), folder / "control.creds")
    return folder


@pytest.fixture
async def scene(
    db: Database, postgres: Server, empty_database: str, database_role: None, nats: NatsServer,
    keys: dict[str, KeyPair], state_dir: Path,
) -> AsyncIterator[Scene]:
    async with db.begin() as session:
        await register(session, CATALOGUE)
    settings = CollectorSettings(
        database_host=postgres.host, database_port=postgres.port, database_name=empty_database,
        database_user="coffer_collector", database_password=PASSWORD,
        state_dir=str(state_dir), nats_urls=(nats.url,), metrics_host="127.0.0.1", metrics_port=0,
    )
    async with AsyncExitStack() as stack:
        yield Scene(db, nats, settings, keys, stack)
