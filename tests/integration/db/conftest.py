"""Fixtures of the tests that need PostgreSQL."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from coffer_db import operations
from coffer_db.catalogue import register
from coffer_db.database import Database
from coffer_db.operations import NewOperation
from integration.db.rows import CATALOGUE, KEY, FileOperation, MakeInstance, new_instance


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.postgres")


@pytest.fixture
async def catalogue(db: Database) -> None:
    async with db.begin() as session:
        await register(session, CATALOGUE)


@pytest.fixture
def make_instance(db: Database, catalogue: None) -> MakeInstance:
    async def make() -> str:
        instance = new_instance()
        async with db.begin() as session:
            session.add(instance)
        return instance.id

    return make


@pytest.fixture
async def instance(make_instance: MakeInstance) -> str:
    return await make_instance()


@pytest.fixture
def file(db: Database, instance: str) -> FileOperation:
    """File an operation of kind `toy`; keywords are those of NewOperation."""

    async def file(**more: Any) -> str:
        new: dict[str, Any] = {
            "instance_id": instance, "project_id": "p", "kind": "toy", "within": timedelta(minutes=5),
        }
        async with db.begin() as session:
            return await operations.file(session, NewOperation(**new | more), KEY.public)

    return file
