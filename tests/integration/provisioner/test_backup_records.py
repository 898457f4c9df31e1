"""The rows and keys of backups under the provisioner's own role, also when several ask at once."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import text

from coffer_db.backup_tables import BackupState
from coffer_db.secrets import MasterKey
from coffer_db.tables import OPEN_STATES, OperationState
from coffer_provisioner.backup_records import PostgresBackups
from coffer_shared.backups import BackedUp
from coffer_shared.errors import GiveUp, Unavailable
from integration.provisioner.actors import MASTER, execute

FOUND = BackedUp(
    manifest_sha256="ab" * 32, raw_bytes=5_000_000_000, stored_bytes=4_000_000_000, segments=120,
    position={"end": "0/3000028"}, tools={"pg_basebackup": "17.6"},
)
NOBODY = "66666666-6666-4666-8666-666666666666"


async def raw(db, backup):
    async with db.connect() as connection:
        return (await connection.execute(text("SELECT * FROM backups WHERE id = :b"), {"b": backup})).one()


async def count(db, table):
    async with db.connect() as connection:
        return (await connection.exec_driver_sql(f"SELECT count(*) FROM {table}")).scalar_one()


async def refused(awaitable):
    with pytest.raises(GiveUp) as caught:
        await awaitable
    return caught.value.code


@pytest.fixture
def others(as_role):
    """Four more provisioners, each with connections of its own."""
    return [PostgresBackups(as_role("coffer_provisioner"), MASTER) for _ in range(4)]


async def test_a_backup_is_told_with_what_its_version_needs(db, instance, make_backup, backups):
    backup = await make_backup(instance)
    await execute(db, "UPDATE datastore_versions SET backup_image = 'coffer/b:17', backup_image_digest = 'sha256:1'")
    row = await backups.backup(backup)
    assert (row["manager"], row["version"]) == ("postgresql", "17.6")
    assert (row["backup_image"], row["backup_image_digest"]) == ("coffer/b:17", "sha256:1")
    assert (row["state"], row["prefix"], row["position"]) == ("NEW", f"{instance}/{backup}/", {})


@pytest.mark.parametrize("how", ["never there", "deleted", "state only"])
async def test_what_is_gone_is_given_up(db, instance, make_backup, backups, how):
    backup = NOBODY if how == "never there" else await make_backup(instance)
    if how == "deleted":
        await backups.forget(backup)
    elif how == "state only":
        await execute(db, "UPDATE backups SET state = 'DELETED'")
    assert await refused(backups.backup(backup)) == "backup_gone"


# --- containers ---


async def test_a_containers_keys_are_drawn_once_and_sealed(db, instance, make_backup, backups, others):
    row = await backups.backup(await make_backup(instance))
    first = await backups.container(row)
    assert (first.project, first.name) == ("p", "database_backups")
    assert len(set(first.keys)) == 2
    assert min(map(len, first.keys)) >= 32
    assert [await one.container(row) for one in (backups, *others)] == [first] * 5
    async with db.connect() as connection:
        stored = (await connection.exec_driver_sql("SELECT * FROM backup_containers")).one()
    assert not any(key.encode() in stored.keys or bytes.fromhex(key) in stored.keys for key in first.keys)


async def test_all_who_draw_at_once_get_the_same_containers_keys(instance, make_backup, backups, others, db):
    row = await backups.backup(await make_backup(instance))
    for number in range(8):
        row["container"] = f"container-{number}"
        drawn = await asyncio.gather(*(one.container(row) for one in (backups, *others)))
        assert len({container.keys for container in drawn}) == 1
    assert await count(db, "backup_containers") == 8


async def test_a_container_is_one_by_project_storage_and_name(instance, make_backup, backups):
    row = await backups.backup(await make_backup(instance))
    keys = {(await backups.container(row | change)).keys for change in (
        {}, {"project_id": "other"}, {"storage": "s3"}, {"container": "other"},
    )}
    assert len(keys) == 4


async def test_keys_moved_to_another_containers_row_do_not_open(db, instance, make_backup, backups):
    row = await backups.backup(await make_backup(instance))
    await backups.container(row)
    await execute(db, "UPDATE backup_containers SET project_id = 'other'")
    with pytest.raises(Unavailable):
        await backups.container(row | {"project_id": "other"})


# --- data keys ---


async def test_a_data_key_is_drawn_once_and_wrapped(db, instance, make_backup, backups, others):
    backup = await make_backup(instance)
    row = await backups.backup(backup)
    key = await backups.data_key(row)
    assert len(key) == 32
    assert [await one.data_key(row) for one in (backups, *others)] == [key] * 5
    assert key not in (await raw(db, backup)).data_key
    assert await count(db, "project_keys") == 1
    other = await backups.backup(await make_backup(instance))
    assert await backups.data_key(other) != key
    assert await count(db, "project_keys") == 1


async def test_all_who_draw_at_once_get_the_same_data_key(db, make_instance, make_backup, backups, others):
    """Also of a project that has no key yet."""
    for number in range(8):
        await execute(db, "DELETE FROM project_keys")
        backup = await make_backup(await make_instance(project_id=f"p{number}"))
        row = await backups.backup(backup)
        keys = await asyncio.gather(*(one.data_key(row) for one in (backups, *others)))
        assert len(set(keys)) == 1
        assert await count(db, "project_keys") == 1


async def test_all_who_draw_in_the_same_moment_get_the_same_data_key(db, instance, make_backup, backups, others):
    await backups.data_key(await backups.backup(await make_backup(instance)))  # the project's key is there
    backup = await make_backup(instance)
    row = await backups.backup(backup)
    async with db.begin() as session:
        await session.execute(text("SELECT FROM backups WHERE id = :b FOR UPDATE"), {"b": backup})
        asked = [asyncio.create_task(one.data_key(row)) for one in (backups, *others)]
        await waiting_for_a_lock(db, 5)  # each has seen that there is none
    assert len(set(await asyncio.gather(*asked))) == 1


async def test_a_data_key_in_another_backups_row_does_not_open(db, instance, make_backup, backups):
    one, another = await make_backup(instance), await make_backup(instance)
    for backup in (one, another):
        await backups.data_key(await backups.backup(backup))
    await execute(
        db, "UPDATE backups SET data_key = (SELECT data_key FROM backups WHERE id = :o) WHERE id = :a",
        o=one, a=another,
    )
    with pytest.raises(Unavailable):
        await backups.data_key(await backups.backup(another))


@pytest.mark.parametrize("state", ["SAVING", "COMPLETED", "FAILED", "DELETING"])
async def test_a_backup_that_was_made_without_a_key_gets_none(instance, make_backup, backups, state, db):
    backup = await make_backup(instance, state=state)
    assert await refused(backups.data_key(await backups.backup(backup))) == "backup_gone"
    assert (await raw(db, backup)).data_key is None


async def test_a_forgotten_backup_has_no_key_any_more(db, instance, make_backup, backups):
    backup = await make_backup(instance)
    row = await backups.backup(backup)
    await backups.data_key(row)
    await backups.forget(backup)
    gone = await raw(db, backup)
    assert (gone.state, gone.data_key) == ("DELETED", None)
    assert gone.deleted_at is not None
    assert await refused(backups.data_key(row)) == "backup_gone"
    await backups.forget(backup)
    assert (await raw(db, backup)).deleted_at == gone.deleted_at


async def test_with_the_wrong_master_key_it_is_tried_again_and_nothing_is_overwritten(
    db, instance, make_backup, backups, provisioner_db,
):
    backup = await make_backup(instance)
    row = await backups.backup(backup)
    key, container, before = await backups.data_key(row), await backups.container(row), await raw(db, backup)
    wrong = PostgresBackups(provisioner_db, MasterKey.generate())
    for ask in (wrong.data_key, wrong.container):
        with pytest.raises(Unavailable):
            await ask(row)
    assert await raw(db, backup) == before
    assert (await backups.data_key(row), await backups.container(row)) == (key, container)


# --- states ---


REACHED = {
    "BUILDING": {"NEW", "BUILDING"},
    "SAVING": {"NEW", "BUILDING", "SAVING"},
    "DELETING": set(BackupState) - {"DELETED"},
}


@pytest.mark.parametrize("to", sorted(REACHED))
async def test_a_state_only_goes_forward(db, instance, make_backup, backups, to):
    for before in BackupState:
        backup = await make_backup(instance, state=before.value)
        moved_at = (await raw(db, backup)).updated_at
        await backups.set_state(backup, to)
        after = await raw(db, backup)
        if before in REACHED[to]:
            assert after.state == to
            assert after.updated_at > moved_at
        else:
            assert (after.state, after.updated_at) == (before, moved_at)


async def test_a_failure_is_told_and_not_wiped_by_a_later_state(instance, make_backup, backups):
    backup = await make_backup(instance)
    await backups.fail(backup, "no room")
    await backups.fail(backup, "another reason")
    assert (await backups.backup(backup))["failure_text"] == "no room"
    await backups.set_state(backup, BackupState.DELETING)
    assert (await backups.backup(backup))["failure_text"] == "no room"


@pytest.mark.parametrize("let_in", [False, True])
async def test_a_failure_files_what_removes_the_rest_once(db, instance, make_backup, backups, let_in):
    """Nothing is filed where no grant was ever given out; whoever was killed and does it again files no second."""
    backup = await make_backup(instance, state="BUILDING")
    if let_in:
        await backups.note_grant(backup, time.time() + 30)
    await asyncio.gather(*(backups.fail(backup, "no room") for _ in range(5)))
    async with db.connect() as connection:
        filed = (await connection.exec_driver_sql(
            "SELECT instance_id, project_id, lifecycle, beside, args FROM operations WHERE kind = 'clear_backup'",
        )).all()
    assert [tuple(row) for row in filed] == [(instance, "p", False, True, {"backup": backup})] * let_in


async def test_what_is_deleted_does_not_fail_any_more(db, instance, make_backup, backups):
    backup = await make_backup(instance)
    await backups.forget(backup)
    await backups.fail(backup, "no room")
    assert (await raw(db, backup)).state == "DELETED"


# --- grants and completion ---


async def test_a_noted_grant_only_ever_ends_later(instance, make_backup, backups):
    backup = await make_backup(instance, state="BUILDING")
    now = time.time()
    for given, kept in ((30, 30), (60, 60), (45, 60)):
        await backups.note_grant(backup, now + given)
        assert (await backups.backup(backup))["grant_until"].timestamp() == pytest.approx(now + kept, abs=0.001)


@pytest.mark.parametrize("state", [s for s in BackupState if s is not BackupState.BUILDING])
async def test_only_a_backup_in_building_is_written_to(db, instance, make_backup, backups, state):
    backup = await make_backup(instance, state=state.value)
    assert await refused(backups.note_grant(backup, time.time() + 30)) == "backup_closed"
    assert (await raw(db, backup)).grant_until is None


@pytest.mark.parametrize("state", list(OperationState))
async def test_only_while_its_operation_goes_forward(db, instance, make_backup, backups, state):
    for at, work in (
        ("BUILDING", lambda b: backups.note_grant(b, time.time() + 30)),
        ("SAVING", lambda b: backups.complete(b, FOUND, "here")),
    ):
        backup = await make_backup(instance, state=at)
        await execute(
            db, "UPDATE operations SET state = :s WHERE id = (SELECT operation_id FROM backups WHERE id = :b)",
            s=state.value, b=backup,
        )
        if state in OPEN_STATES and state is not OperationState.UNDOING:
            await work(backup)
        else:
            assert await refused(work(backup)) == "backup_closed"
            assert (await raw(db, backup)).state == at
        await execute(db, "UPDATE operations SET state = 'failed'")


async def test_a_grant_waits_for_the_undo_that_is_being_stored(db, instance, make_backup, backups):
    """Otherwise it could be given out after the undo has looked for the last one."""
    backup = await make_backup(instance, state="BUILDING")
    async with db.begin() as session:
        await session.execute(text("UPDATE operations SET state = 'undoing'"))
        asked = asyncio.create_task(backups.note_grant(backup, time.time() + 30))
        await waiting_for_a_lock(db)
    assert await refused(asked) == "backup_closed"


async def test_a_grant_waits_for_the_closing_that_is_being_stored(db, instance, make_backup, backups):
    backup = await make_backup(instance, state="BUILDING")
    async with db.begin() as session:
        await session.execute(text("UPDATE backups SET state = 'SAVING'"))
        asked = asyncio.create_task(backups.note_grant(backup, time.time() + 30))
        await waiting_for_a_lock(db)
    assert await refused(asked) == "backup_closed"
    assert (await raw(db, backup)).grant_until is None


async def waiting_for_a_lock(db, many=1):
    waiting = "pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(5):
        while await count(db, waiting) < many:
            await asyncio.sleep(0.01)


async def test_a_completed_backup_has_its_facts(db, instance, make_backup, backups):
    backup = await make_backup(instance, state="SAVING")
    await backups.complete(backup, FOUND, "http://store/v1/p/c/manifest.json")
    row = await raw(db, backup)
    assert (row.state, row.location) == ("COMPLETED", "http://store/v1/p/c/manifest.json")
    assert (row.manifest_sha256, row.raw_bytes, row.stored_bytes, row.segments, row.position, row.tools) == (
        FOUND.manifest_sha256, FOUND.raw_bytes, FOUND.stored_bytes, FOUND.segments, FOUND.position, FOUND.tools)
    assert row.completed_at is not None
    await backups.complete(backup, FOUND, "http://store/v1/p/c/manifest.json")
    assert (await raw(db, backup)).completed_at == row.completed_at


@pytest.mark.parametrize("state", ["NEW", "BUILDING", "FAILED", "DELETING", "DELETED"])
async def test_only_a_backup_in_saving_is_completed(db, instance, make_backup, backups, state):
    backup = await make_backup(instance, state=state)
    assert await refused(backups.complete(backup, FOUND, "here")) == "backup_closed"
    assert (await raw(db, backup)).manifest_sha256 is None


async def test_what_decides_on_a_grant_is_told_to_the_own_guest_only(db, make_instance, make_backup, backups):
    mine, other = await make_instance(), await make_instance()
    await make_backup(mine)
    async with db.connect() as connection:
        operation = (await connection.exec_driver_sql("SELECT id FROM operations")).scalar_one()
    asking = await backups.asking(mine, operation)
    assert (asking["kind"], asking["state"], asking["cancel_requested"], asking["guest_state"]) == (
        "create_backup", "pending", False, "")
    assert await backups.asking(other, operation) is None
    assert await backups.asking(mine, NOBODY) is None
