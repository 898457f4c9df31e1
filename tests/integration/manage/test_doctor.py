"""The doctor at a real database, healthy and ill; the orphans that an operator lists and lets go."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from coffer_db import orphans as found_orphans
from coffer_db.database import Database
from coffer_db.migrate import newest
from coffer_manage import database, doctor_database, foundation, orphans
from coffer_manage.finding import Finding, Level
from coffer_shared.errors import Refused

EXPORT = "master key export"


async def execute(db: Database, statement: str, **values: Any) -> None:
    async with db.connect() as connection:
        await connection.execute(text(statement), values)


async def ill(state: Path) -> dict[str, Finding]:
    """What is not well, by what it is about."""
    return {one.about: one for one in await doctor_database.findings(state) if one.level is not Level.OK}


async def confirm(state: Path) -> None:
    await database.confirm_export(state, foundation.master_key(state).public.fingerprint)


async def test_an_export_must_be_confirmed_and_again_for_another_key(state: Path):
    (only,) = (await ill(state)).values()
    assert (only.level, only.about) == (Level.PROBLEM, EXPORT)
    assert "verify" in only.remedy
    await confirm(state)
    assert await ill(state) == {}
    await database.confirm_export(state, "another")
    assert "another" in (await ill(state))[EXPORT].text
    await confirm(state)
    assert await ill(state) == {}


async def test_one_that_was_verified_where_no_database_is_is_confirmed_by_the_next_migration(state: Path):
    foundation.note_export(state, foundation.master_key(state).public.fingerprint)
    assert EXPORT in await ill(state)
    for _ in range(2):
        await database.migrate(state / "manage")
        assert await ill(state) == {}
    foundation.note_export(state, "of long ago")
    await database.migrate(state / "manage")
    assert "of long ago" in (await ill(state))[EXPORT].text


async def test_the_collector_tells_of_a_confirmed_export(state: Path, db: Database):
    from coffer_status_collector.installation_metrics import InstallationMetrics
    from coffer_status_collector.store import OwnConnection

    connection = OwnConnection(db)
    shown = InstallationMetrics(connection)
    try:
        assert "coffer_master_key_export_confirmed 0\n" in await shown.render()
        await confirm(state)
        assert "coffer_master_key_export_confirmed 1\n" in await shown.render()
        await database.confirm_export(state, "another")
        assert "coffer_master_key_export_confirmed 0\n" in await shown.render()
    finally:
        await connection.close()


FLAVOR = """
    INSERT INTO flavors (id, name, ram_mb, vcpus, disk_gib, ephemeral_gib) VALUES ('one', 'one', 512, 1, 0, 0)
"""
INSTANCE = """
    INSERT INTO instances (id, project_id, user_id, name, flavor_id, datastore_version_id, volume_gib, fs_uuid,
        formatted, started_once, region, is_public, failed)
    SELECT :id, 'p', 'u', 'n', f.id, v.id, 1, :id, true, true, 'R', false, false
    FROM flavors f, datastore_versions v LIMIT 1
"""
OPERATION = """
    INSERT INTO operations (id, instance_id, project_id, user_id, request_id, trace, kind, lifecycle, state, step,
        progress, progress_text, attempts, cancel_requested, guest_state, guest_code, guest_text, deadline)
    VALUES (:id, :id, 'p', '', '', '', 'restart_instance', true, 'waiting', 'restart_database', 0, 'no answer',
        :attempts, false, '', '', '', now() + make_interval(secs => :left))
"""


@pytest.mark.parametrize(("statements", "about", "level", "says"), [
    (["GRANT DELETE ON instances TO coffer_api"], "roles", Level.PROBLEM, "not meant: coffer_api delete on instances"),
    (["REVOKE SELECT ON marks FROM coffer_collector"], "roles", Level.PROBLEM,
     "missing: coffer_collector select on marks"),
    (["GRANT UPDATE (failed) ON instances TO coffer_door"], "roles", Level.PROBLEM, "(failed)"),
    (["UPDATE datastore_versions SET image_digest = ''"], "images", Level.PROBLEM, "postgresql 17"),
    (["UPDATE datastore_versions SET backup_image_digest = ''"], "images", Level.PROBLEM, "postgresql 17"),
    ([INSTANCE, OPERATION.replace(":left", "-5").replace(":attempts", "1")], "operations", Level.PROBLEM, "deadline"),
    ([INSTANCE, OPERATION.replace(":left", "99").replace(":attempts", "20")], "operations", Level.WARNING,
     "at restart_database (no answer)"),
    ([INSTANCE], "guests", Level.WARNING, "nothing is heard"),
    (["INSERT INTO orphans (kind, id, instance_id, operation_id) VALUES ('machine', 'm', :id, :id)"], "orphans",
     Level.WARNING, "1 resources"),
], ids=str)
async def test_what_is_not_well_is_found(
    state: Path, db: Database, statements: list[str], about: str, level: Level, says: str,
):
    await confirm(state)
    if INSTANCE in statements:
        statements = [FLAVOR, *statements]
    identity = str(uuid4())
    for statement in statements:
        await execute(db, statement, **({"id": identity} if ":id" in statement else {}))
    found = await ill(state)
    assert (found[about].level, says in found[about].text) == (level, True), found
    assert found[about].remedy


@pytest.mark.parametrize(("statement", "undo", "says"), [
    ("ALTER TABLE instances ADD COLUMN note text", "ALTER TABLE instances DROP COLUMN note", "instances.note"),
    ("UPDATE alembic_version SET version_num = '0002'", f"UPDATE alembic_version SET version_num = '{newest()}'",
     "at revision 0002"),
], ids=["drift", "older"])
async def test_another_schema_is_found(state: Path, db: Database, statement: str, undo: str, says: str):
    await confirm(state)
    await execute(db, statement)
    try:
        found = await ill(state)
    finally:
        await execute(db, undo)
    assert (found.keys(), says in found["schema"].text) == ({"schema"}, True), found
    assert await ill(state) == {}


async def test_a_database_that_is_away_is_one_problem(
    state: Path, postgres: Any, monkeypatch: pytest.MonkeyPatch,
):
    away = postgres.settings("there_is_none")
    monkeypatch.setattr(doctor_database, "settings", lambda _state: away)
    assert {one.about for one in await doctor_database.findings(state)} == {"database"}


async def test_orphans_are_listed_and_let_go(state: Path, db: Database):
    assert await orphans.listed(state) == "There are none.\n"
    instance = str(uuid4())
    await found_orphans.note(db, [
        found_orphans.Found("machine", "m-1", instance, "op", held_data=False),
        found_orphans.Found("volume", "v-1", instance, "op", held_data=True),
    ])
    with pytest.raises(Refused, match="--with-data"):
        await orphans.delete(state, "volume", "v-1", with_data=False)
    await orphans.delete(state, "machine", "m-1", with_data=False)
    head, machine, volume = (await orphans.listed(state)).splitlines()
    assert head.split()[:3] == ["KIND", "ID", "INSTANCE"]
    assert machine.split()[:3] == ["machine", "m-1", instance]
    assert machine.endswith("to be dropped")
    assert volume.endswith("held a database")
    with pytest.raises(Refused, match="no orphan"):
        await orphans.delete(state, "machine", "m-2", with_data=False)
