"""Fixtures: the API as a running service over a real PostgreSQL, with the database role that it has in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coffer_api.settings import Settings
from coffer_db import roles
from coffer_db.catalogue import register
from coffer_db.database import Database
from integration.api.guest import StubGuest, enrol, write_state
from integration.api.service import CATALOGUE, MASTER, Caller, World, serving, settings, state_dir
from support.nats_server import NatsServer

if TYPE_CHECKING:
    from support.postgres import Server

ROLE, WORD = "coffer_api", "api-word"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.postgres")
    config.pluginmanager.import_plugin("support.keystone")


@pytest.fixture
async def world(db: Database) -> World:
    async with db.begin() as session:
        await register(session, CATALOGUE)
    found = World(db)
    await found.parameters()
    return found


@pytest.fixture(scope="session")
def api_role(postgres: Server, test_database: str) -> str:
    from support.postgres import in_thread

    async def apply() -> None:
        admin = await postgres.admin(test_database)
        try:
            await roles.apply(admin, {ROLE: WORD})
        finally:
            await admin.close()

    in_thread(apply())
    return ROLE


@pytest.fixture
def choose(
    postgres: Server, empty_database: str, api_role: str, world: World, tmp_path: Path,
) -> Callable[..., Settings]:
    """Settings of a service, with those given."""

    def chosen(**more: Any) -> Settings:
        return settings(postgres.settings(empty_database, api_role, WORD), state_dir(tmp_path / "state"), **more)

    return chosen


@pytest.fixture
async def api(choose: Callable[..., Settings]) -> AsyncIterator[Caller]:
    """Called as ann, a member of project p1."""
    async with serving(choose(quota_instances=5)) as caller:
        yield caller


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Any:
    server = NatsServer.start(tmp_path_factory.mktemp("nats"))
    yield server
    server.kill()


@pytest.fixture
def guests_state(tmp_path: Path, nats: NatsServer) -> Path:
    found = state_dir(tmp_path / "guests-state")
    write_state(found, nats, MASTER)
    return found


@pytest.fixture
async def asking(
    postgres: Server, empty_database: str, world: World, nats: NatsServer, guests_state: Path,
) -> AsyncIterator[Caller]:
    """As `api`, connected to the guests."""
    chosen = settings(postgres.settings(empty_database), guests_state, nats_urls=(nats.url,), operation_wait=3.0)
    async with serving(chosen) as caller:
        yield caller


@pytest.fixture
async def guest(asking: Caller, world: World, nats: NatsServer) -> AsyncIterator[StubGuest]:
    """Of an instance of p1, which it enrolled for."""
    instance = await world.instance()
    made = StubGuest(instance, nats)
    await enrol(world, made)
    await made.start()
    while (await asking("GET", f"/instances/{instance}/root")).status == 503:
        await asyncio.sleep(0.02)  # the service is still connecting
    made.asked.clear()
    yield made
    await made.stop()
