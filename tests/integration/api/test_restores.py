"""A new instance from a backup."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from coffer_api.settings import Settings
from coffer_db.tables import OperationState
from integration.api.service import GIB, MASTER, VERSION, Caller, World, serving

UNKNOWN = "99999999-9999-4999-8999-999999999999"


def wanted(backup: str, **more: Any) -> dict[str, Any]:
    plain = {"name": "again", "flavorRef": 1, "volume": {"size": 1}, "restorePoint": {"backupRef": backup}}
    return {"instance": {**plain, **more}}


@pytest.fixture
async def backup(world: World) -> str:
    return await world.backup(await world.instance())


async def add_version(world: World, name: str, *, kind: str = "postgresql", **more: Any) -> str:
    row = {"id": f"id-of-{name}", "version": name, "manager": "postgresql", "backup_image": "b", **more}
    await world.sql(
        "INSERT INTO datastores (id, name, default_version_id) VALUES (:kind, :kind, NULL) ON CONFLICT DO NOTHING",
        kind=kind,
    )
    await world.sql(
        "INSERT INTO datastore_versions (id, datastore_id, name, version, manager, image, image_digest, backup_image, "
        "backup_image_digest, active) "
        "SELECT :id, d.id, :name, :version, :manager, 'i', 'sha256:1', :backup_image, 'sha256:2', true "
        "FROM datastores d WHERE d.name = :kind", name=name, kind=kind, **row,
    )
    return str(row["id"])


async def test_it_is_filed_in_one_go(api: Caller, world: World, backup: str):
    await world.sql("UPDATE instances SET deleted_at = now()")
    body = wanted(
        backup, databases=[{"name": "more"}], users=[{"name": "app", "password": "s3cret-word"}],
    )
    answer = await api("POST", "/instances", body)
    made = answer.must(200)["instance"]
    assert (made["status"], made["datastore"]["version_number"]) == ("BUILD", "17.6")
    (filed,) = await world.sql("SELECT *, extract(epoch FROM deadline - created_at) AS within FROM operations")
    assert (filed["id"], filed["kind"]) == (answer.headers["x-coffer-operation"], "create_instance")
    assert filed["args"] == {"databases": [{"name": "more"}], "restore": backup}
    assert round(filed["within"]) == 6 * 3600
    secret = MASTER.unwrap(f"operation/{filed['id']}", bytes(filed["secret_args"]))
    assert [user["name"] for user in secret["users"]] == ["app"]


@pytest.mark.parametrize("ref", ["{}", "http://host/v1.0/p1/backups/{}", "https://host/backups/{}/"])
async def test_a_backup_is_taken_in_every_spelling(api: Caller, world: World, backup: str, ref: str):
    (await api("POST", "/instances", wanted(ref.format(backup.upper())))).must(200)
    assert (await world.sql("SELECT args FROM operations"))[0]["args"]["restore"] == backup


async def test_its_version_counts_not_the_default(api: Caller, world: World):
    older = await add_version(world, "16")
    backup = await world.backup(await world.instance(datastore_version_id=older), datastore_version_id=older)
    for given in ({}, {"datastore": {}}, {"datastore": {"type": "postgresql"}}, {"datastore": {"version": "16"}},
                  {"datastore": {"type": "postgresql", "version": older, "version_number": "16"}}):
        made = (await api("POST", "/instances", wanted(backup, **given))).must(200)["instance"]
        assert made["datastore"] == {"type": "postgresql", "version": "16", "version_number": "16"}
        await world.finish()
        await world.sql("UPDATE instances SET deleted_at = now() WHERE id = :id", id=made["id"])
    for given in ({"version": "17"}, {"version": VERSION}, {"version": "16", "version_number": "17.6"},
                  {"type": "postgresql", "version": "nonsense"}):
        answer = await api("POST", "/instances", wanted(backup, datastore=given))
        assert answer.status == 400
        assert answer.problem == (
            f"Backup {backup} is of version '16' (16) of datastore postgresql and can be restored to that version only."
        )


async def test_another_datastore_is_refused(api: Caller, world: World, backup: str):
    await add_version(world, "11", kind="mariadb")
    answer = await api("POST", "/instances", wanted(backup, datastore={"type": "mariadb", "version": "11"}))
    says = "from which the backup was taken, postgresql, does not match the destination datastore of mariadb."
    assert (answer.status, answer.problem) == (400, f"The datastore {says}")
    answer = await api("POST", "/instances", wanted(backup, datastore={"type": "oracle"}))
    assert (answer.status, answer.problem) == (404, "Datastore 'oracle' cannot be found.")


@pytest.mark.parametrize("change", ["active = false", "backup_image = ''"])
async def test_a_version_that_is_not_available(api: Caller, world: World, backup: str, change: str):
    await world.sql(f"UPDATE datastore_versions SET {change} WHERE id = :id", id=VERSION)
    answer = await api("POST", "/instances", wanted(backup))
    assert (answer.status, "is not available" in answer.problem) == (400, True)
    await world.sql("UPDATE datastore_versions SET active = true, backup_image = 'b', manager = 'other'")
    answer = await api("POST", "/instances", wanted(backup))
    assert answer.status == 400
    assert await world.count("operations") == 0


async def test_it_must_be_there_whole_and_fit(api: Caller, world: World):
    instance = await world.instance()
    for state in ("NEW", "BUILDING", "SAVING", "FAILED", "DELETING"):
        backup = await world.backup(instance, state)
        answer = await api("POST", "/instances", wanted(backup))
        assert (answer.status, answer.problem) == (
            409, f"Unable to create instance because backup {backup} is not completed. Actual state: {state}.",
        )
    big = await world.backup(instance, raw_bytes=3 * GIB // 2)
    answer = await api("POST", "/instances", wanted(big))
    assert (answer.status, answer.problem) == (
        403, "Backup is too large for given flavor or volume. Backup size: 1.5 GBs. Available size: 1 GBs.",
    )
    (await api("POST", "/instances", wanted(big, volume={"size": 2}))).must(200)
    gone = await world.backup(instance, "DELETED")
    await world.sql("UPDATE backups SET deleted_at = now() WHERE id = :id", id=gone)
    foreign = await world.backup(await world.instance("p2"), project="p2")
    for missing in (gone, foreign, UNKNOWN):
        answer = await api("POST", "/instances", wanted(missing))
        assert (answer.status, answer.problem) == (404, f"Backup {missing} cannot be found.")
    assert await world.count("operations") == 1


async def test_what_is_being_restored_from_stays(api: Caller, world: World, backup: str):
    made = (await api("POST", "/instances", wanted(backup))).must(200)["instance"]["id"]
    child = await world.backup(await world.instance(), parent_id=backup)
    answer = await api("DELETE", f"/backups/{backup}")
    assert (answer.status, answer.problem) == (
        422, f"Backup {backup} cannot be deleted because instance {made} is being restored from it.",
    )
    states = await world.sql("SELECT id, state FROM backups")
    assert {row["id"]: row["state"] for row in states} == {backup: "COMPLETED", child: "COMPLETED"}
    await world.finish(OperationState.FAILED, failure_code="storage")
    (await api("DELETE", f"/backups/{backup}")).must(202)


async def test_a_deletion_and_a_restore_never_both_win(choose: Callable[..., Settings], world: World):
    instance = await world.instance()
    seen: set[tuple[int, int]] = set()
    async with serving(choose(quota_instances=-1, quota_volumes=-1)) as api:
        for turn in range(40):
            backup = await world.backup(instance)
            calls = [api("DELETE", f"/backups/{backup}"), api("POST", "/instances", wanted(backup))]
            if turn % 2:
                second, first = await asyncio.gather(*reversed(calls))
            else:
                first, second = await asyncio.gather(*calls)
            seen.add((first.status, second.status))
            filed = await world.sql(
                "SELECT kind FROM operations WHERE args ->> 'restore' = :id OR args ->> 'backup' = :id", id=backup,
            )
            assert len(filed) == 1
    assert seen <= {(202, 409), (422, 200)}


async def test_a_restore_waits_for_a_deletion_that_is_being_filed(api: Caller, world: World, backup: str):
    async with world.db.begin() as session:
        await session.execute(text("SELECT FROM backups WHERE id = :id FOR UPDATE"), {"id": backup})
        restore = asyncio.create_task(api("POST", "/instances", wanted(backup)))
        while not await world.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            await asyncio.sleep(0.01)
        assert not restore.done()
        await session.execute(text("UPDATE backups SET state = 'DELETING' WHERE id = :id"), {"id": backup})
    assert (await restore).status == 409
    assert await world.count("operations") == 0


async def test_a_deletion_waits_for_a_restore_that_is_being_filed(api: Caller, world: World, backup: str):
    """The lock itself, held by a transaction that files a restore and has not committed."""
    async with world.db.begin() as session:
        await session.execute(text("SELECT FROM backups WHERE id = :id FOR SHARE"), {"id": backup})
        deletion = asyncio.create_task(api("DELETE", f"/backups/{backup}"))
        while not await world.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            await asyncio.sleep(0.01)
        assert not deletion.done()
        await session.execute(
            text("INSERT INTO operations (id, instance_id, project_id, kind, args, state, user_id, request_id, trace, "
                 "lifecycle, step, progress, progress_text, attempts, cancel_requested, guest_state, guest_code, "
                 "guest_text, deadline) SELECT 'r', i.id, 'p1', 'create_instance', "
                 "jsonb_build_object('restore', CAST(:id AS text)), 'pending', '', '', '', true, '', 0, '', 0, false, "
                 "'', '', '', now() FROM instances i"),
            {"id": backup},
        )
    assert (await deletion).status == 422


async def test_an_idempotency_key_outlives_the_backup(api: Caller, world: World, backup: str):
    key = {"Idempotency-Key": "k"}
    first, second = await asyncio.gather(*(api("POST", "/instances", wanted(backup), headers=key) for _ in range(2)))
    made = first.must(200)["instance"]["id"]
    assert second.must(200)["instance"]["id"] == made
    await world.finish()
    (await api("DELETE", f"/backups/{backup}")).must(202)
    assert (await api("POST", "/instances", wanted(backup), headers=key)).must(200)["instance"]["id"] == made
    assert (await api("POST", "/instances", wanted(backup))).status == 409
    assert (await api("POST", "/instances", wanted(backup, name="other"), headers=key)).status == 409


async def test_no_project_gets_the_data_of_another_not_even_an_administrators(api: Caller, backup: str):
    for user in ("bob", "root"):
        answer = await api.as_(user)("POST", "/instances", wanted(backup))
        assert answer.status == 404, user
    (await api("POST", "/instances", wanted(backup))).must(200)
