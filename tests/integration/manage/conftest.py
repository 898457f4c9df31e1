"""An installation whose database is a real one, at this release."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from coffer_manage import database, foundation

if TYPE_CHECKING:
    from support.postgres import Server


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.postgres")


@pytest.fixture
async def state(
    postgres: Server, empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, db: Any,
) -> Path:
    """Migrated, its images recorded."""
    foundation.lay(tmp_path, nats_urls=(), renewal_url="")
    chosen = postgres.settings(empty_database)
    monkeypatch.setattr(database, "settings", lambda _state: chosen)
    for module in ("coffer_manage.doctor_database.settings", "coffer_manage.orphans.settings"):
        monkeypatch.setattr(module, lambda _state: chosen)
    await database.migrate(tmp_path / "manage")
    digests = dict.fromkeys(("coffer/postgres:17", "coffer/postgres-backup:17"), f"sha256:{'0' * 64}")
    await database.record(tmp_path / "manage", digests)
    return tmp_path
