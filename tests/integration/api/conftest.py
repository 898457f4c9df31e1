"""Fixtures: the API as a running service over a real PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from coffer_db.catalogue import register
from coffer_db.database import Database
from integration.api.service import CATALOGUE, Caller, World, serving, settings, state_dir

if TYPE_CHECKING:
    from support.postgres import Server


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.postgres")


@pytest.fixture
async def world(db: Database) -> World:
    async with db.begin() as session:
        await register(session, CATALOGUE)
    return World(db)


@pytest.fixture
async def api(postgres: Server, empty_database: str, world: World, tmp_path: Path) -> AsyncIterator[Caller]:
    """Called as ann, a member of project p1."""
    chosen = settings(postgres.settings(empty_database), state_dir(tmp_path / "state"), quota_instances=5)
    async with serving(chosen) as caller:
        yield caller
