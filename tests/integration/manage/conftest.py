"""`coffer-manage` against a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import coffer_datastores
from coffer_manage import database, foundation, main

if TYPE_CHECKING:
    from support.postgres import Server

Run = Callable[[str], str]
EVERY = coffer_datastores.specs()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.postgres")


@pytest.fixture(autouse=True)
def one_datastore(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of the one that these tests name, however many there are."""
    monkeypatch.setattr(coffer_datastores, "specs", lambda: {"postgresql": EVERY["postgresql"]})


@pytest.fixture
def run(
    postgres: Server, empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """A command line without its `--state`; what it prints. SystemExit where it fails."""
    (tmp_path / "database-password").write_text(postgres.password)
    (tmp_path / "role-passwords.json").write_text("{}")
    (tmp_path / "master-fingerprint").write_text("0" * 16)
    for name, value in (("HOST", postgres.host), ("PORT", str(postgres.port)), ("NAME", empty_database)):
        monkeypatch.setenv(f"COFFER_DATABASE_{name}", value)

    def run(line: str) -> str:
        monkeypatch.setattr("sys.argv", ["coffer-manage", *line.split(), "--state", str(tmp_path)])
        main.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def fails(run: Run, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command line that fails; what it says."""

    def fails(line: str) -> str:
        with pytest.raises(SystemExit) as ended:
            run(line)
        assert ended.value.code
        said = capsys.readouterr()
        assert said.out == ""
        return said.err

    return fails


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
