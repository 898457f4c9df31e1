"""`coffer-manage parameters`, and what `coffer-manage migrate` loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

import coffer_datastores
from coffer_manage import database, main

if TYPE_CHECKING:
    from support.postgres import Server

SHIPPED = coffer_datastores.parameters("postgresql", "17")
TROVES = {"configuration-parameters": [
    {"name": "shared_buffers", "restart_required": True, "type": "string"},
    {"name": "max_connections", "restart_required": True, "min": 0, "type": "integer"},
    {"name": "fsync", "restart_required": False, "type": "boolean"},
    {"name": "long_query_time", "restart_required": False, "min": 0, "max": 10.5, "type": "float"},
]}


@pytest.fixture
def run(
    postgres: Server, empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    (tmp_path / "role-passwords.json").write_text("{}")
    (tmp_path / "master-fingerprint").write_text("of no key")
    monkeypatch.setattr(database, "settings", lambda _: postgres.settings(empty_database))

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["coffer-manage", *arguments, "--state", str(tmp_path)])
        try:
            main.main()
        except SystemExit:
            return capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.fixture
def ask(postgres: Server, empty_database: str) -> Callable[[str], list[Any]]:
    def ask(sql: str) -> list[Any]:
        from support.postgres import in_thread

        async def fetch() -> list[Any]:
            connection = await postgres.admin(empty_database)
            try:
                return [tuple(row) for row in await connection.fetch(sql)]
            finally:
                await connection.close()

        return in_thread(fetch())

    return ask


def test_migrate_loads_what_is_shipped_and_leaves_what_an_administrator_did(
    run: Any, ask: Any, monkeypatch: pytest.MonkeyPatch,
):
    assert "revision" in run("migrate")
    names = [row[0] for row in ask("SELECT name FROM configuration_parameters ORDER BY lower(name)")]
    assert names == [parameter.name for parameter in SHIPPED]
    before = ask("SELECT * FROM configuration_parameters ORDER BY name")
    run("migrate")
    assert ask("SELECT * FROM configuration_parameters ORDER BY name") == before
    ask("DELETE FROM configuration_parameters WHERE name = 'jit'")
    ask("UPDATE configuration_parameters SET restart_required = true WHERE name = 'work_mem'")
    ask("INSERT INTO configuration_parameters SELECT version_id, 'own', 'string', true, '{}' "
        "FROM configuration_parameters WHERE name = 'geqo'")
    later = [
        *(p for p in SHIPPED if p.name != "geqo"), replace(SHIPPED[0], name="own"), replace(SHIPPED[0], name="brought"),
    ]
    later = [replace(p, restart_required=True) if p.name == "array_nulls" else p for p in later]
    monkeypatch.setattr(coffer_datastores, "parameters", lambda *_: later)
    run("migrate")
    rows = {name: (kind, restart) for name, kind, restart in ask(
        "SELECT name, data_type, restart_required FROM configuration_parameters",
    )}
    assert rows.keys() == {*names, "own", "brought"} - {"jit"}
    assert rows["work_mem"] == ("integer", True)
    assert rows["own"] == ("string", True)
    assert rows["array_nulls"] == ("boolean", True)


def test_removed_parameters_and_deleted_versions_do_not_come_back(run: Any, ask: Any):
    run("migrate")
    run("parameters", "remove", "postgresql", "17")
    run("migrate")
    assert ask("SELECT count(*) FROM configuration_parameters") == [(0,)]
    assert "deleted" in run("version", "delete", "postgresql/17")
    assert "revision" in run("migrate")


def test_what_is_shipped_is_loaded_and_listed_and_removed(run: Any, ask: Any):
    run("migrate")
    assert run("parameters", "remove", "postgresql", "17") == (
        f"{len(SHIPPED)} parameters of postgresql 17 are removed.\n"
    )
    assert len(run("parameters", "list", "postgresql", "17").splitlines()) == 1
    ((own,),) = ask("SELECT id FROM datastore_versions")
    for version in ("17", "17/17", own):
        assert run("parameters", "load", "postgresql", version).startswith(f"{len(SHIPPED)} parameters of postgresql")
    lines = run("parameters", "list", "postgresql", "17").splitlines()
    assert len(lines) == len(SHIPPED) + 1
    found = {line.split()[0]: line.split()[1:] for line in lines}
    assert found["NAME"] == ["TYPE", "MIN", "MAX", "UNIT", "RESTART", "CHOICES"]
    assert found["work_mem"] == ["integer", "64", "2147483647", "kB", "no", "-"]
    assert found["log_statement"] == ["string", "-", "-", "-", "no", "none,", "ddl,", "mod,", "all"]
    assert found["wal_log_hints"] == ["boolean", "-", "-", "-", "yes", "-"]
    assert found["random_page_cost"] == ["float", "0.0", "-", "-", "no", "-"]


def test_a_version_of_an_administrator_gets_the_list_of_its_number(run: Any, ask: Any):
    run("migrate")
    run("version", "add", "postgresql", "stable", "--number", "17.5")
    assert run("parameters", "load", "postgresql", "stable").startswith(f"{len(SHIPPED)} parameters")
    run("version", "add", "postgresql", "next", "--number", "99")
    assert "there is nothing to load" in run("parameters", "load", "postgresql", "next")


def test_a_file_of_trove_is_loaded_beside_what_is_there(run: Any, ask: Any, tmp_path: Path):
    run("migrate")
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(TROVES))
    assert run("parameters", "load", "postgresql", "17", "--file", str(path)).startswith("4 parameters")
    found = ask("SELECT name, data_type, restart_required, rule FROM configuration_parameters")
    rows = {name: (kind, restart, json.loads(rule)) for name, kind, restart, rule in found}
    assert len(rows) == len(SHIPPED) + 2
    assert rows["shared_buffers"] == ("string", True, {})
    assert rows["max_connections"] == ("integer", True, {"min": 0})
    assert rows["long_query_time"] == ("float", False, {"min": 0, "max": 10.5})
    assert rows["fsync"][0] == "boolean"


def test_what_cannot_be_loaded_says_why_and_changes_nothing(run: Any, ask: Any, tmp_path: Path):
    run("migrate")
    before = ask("SELECT * FROM configuration_parameters ORDER BY name")
    path = tmp_path / "rules.json"
    for content, why in [("{}", "not a list of parameters"), ('{"configuration-parameters": []}', "nothing to load")]:
        path.write_text(content)
        assert why in run("parameters", "load", "postgresql", "17", "--file", str(path))
    assert "No such file" in run("parameters", "load", "postgresql", "17", "--file", str(tmp_path / "none"))
    ((own,),) = ask("SELECT id FROM datastore_versions")
    for datastore, version in [("postgresql", "9"), ("oracle", "17"), ("oracle", own), ("postgresql", "17/9")]:
        for verb in ("load", "list", "remove"):
            said = run("parameters", verb, datastore, version)
            assert "cannot be found" in said or "is not of datastore" in said
    assert ask("SELECT * FROM configuration_parameters ORDER BY name") == before


def test_several_versions_of_a_name_are_told_apart_by_number(run: Any, ask: Any):
    run("migrate")
    run("version", "add", "postgresql", "17", "--number", "17.7")
    assert "may be each of postgresql/17/17, postgresql/17/17.7" in run("parameters", "load", "postgresql", "17")
    assert "parameters of" in run("parameters", "load", "postgresql", "17/17.7")
    assert ask("SELECT count(*) FROM configuration_parameters") == [(2 * len(SHIPPED),)]
