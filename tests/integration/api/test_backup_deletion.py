"""The end of backups (deleted, cancelled, gone with their increments), and of instances that are being backed up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from coffer_api.settings import Settings
from coffer_db.tables import OperationState
from integration.api.service import Caller, World, serving


def wanted(instance: str) -> dict[str, Any]:
    return {"backup": {"name": "nightly", "instance": instance}}


async def test_delete_is_filed_once(api: Caller, world: World):
    instance = await world.instance()
    backup = await world.backup(instance)
    await world.sql("UPDATE instances SET deleted_at = now()")
    answers = await asyncio.gather(*(api("DELETE", f"/backups/{backup}") for _ in range(5)))
    assert {(a.status, a.body) for a in answers} == {(202, "")}
    (operation,) = {a.headers["x-coffer-operation"] for a in answers}
    (filed,) = await world.sql("SELECT *, extract(epoch FROM deadline - created_at) AS within FROM operations")
    assert (filed["id"], filed["kind"], filed["args"]) == (operation, "delete_backup", {"backup": backup})
    assert (filed["lifecycle"], filed["beside"], filed["instance_id"]) == (False, True, instance)
    assert round(filed["within"]) == 3600
    assert (await api("GET", f"/backups/{backup}")).must(200)["backup"]["status"] == "COMPLETED"
    assert (await world.sql("SELECT state FROM backups"))[0]["state"] == "DELETING"
    await world.finish(OperationState.FAILED, failure_code="storage")
    again = await api("DELETE", f"/backups/{backup}")
    again.must(202)
    assert again.headers["x-coffer-operation"] != operation
    assert (await world.finish()).args == {"backup": backup}
    await world.sql("UPDATE backups SET state = 'DELETED', deleted_at = now()")
    for method in ("DELETE", "GET"):
        assert (await api(method, f"/backups/{backup}")).status == 404


async def test_a_failed_backup_can_be_deleted(api: Caller, world: World):
    backup = await world.backup(await world.instance(), "FAILED")
    (await api("DELETE", f"/backups/{backup}")).must(202)
    assert (await world.finish()).kind == "delete_backup"


@pytest.mark.parametrize("state", ["NEW", "BUILDING", "SAVING"])
async def test_weakness_21_a_running_backup_is_cancelled_not_deleted(api: Caller, world: World, state: str):
    instance = await world.instance()
    made = (await api("POST", "/backups", wanted(instance))).must(202)["backup"]
    await world.sql("UPDATE backups SET state = :state", state=state)
    answer = await api("DELETE", f"/backups/{made['id']}")
    assert answer.status == 422
    assert answer.problem == (
        f"Backup {made['id']} cannot be deleted because it is running; its operation {made['operation_id']} can be "
        "cancelled."
    )
    (await api("POST", f"/operations/{made['operation_id']}/cancel")).must(202)
    assert (await api("DELETE", f"/backups/{made['id']}")).status == 422
    await world.finish(OperationState.CANCELLED)
    (await api("DELETE", f"/backups/{made['id']}")).must(202)  # its operation has ended, whatever the row still says


async def test_increments_go_with_what_they_are_increments_to(api: Caller, world: World):
    instance = await world.instance()
    full, alone = await world.backup(instance), await world.backup(instance)
    child = await world.backup(instance, parent_id=full)
    grandchild = await world.backup(instance, parent_id=child)
    await world.backup(instance, "DELETED", parent_id=full)
    await world.sql("UPDATE backups SET deleted_at = now() WHERE state = 'DELETED'")
    (await api("DELETE", f"/backups/{child}")).must(202)
    answer = await api("DELETE", f"/backups/{full}")
    filed = {row["args"]["backup"]: row["id"] for row in await world.sql("SELECT * FROM operations")}
    assert filed.keys() == {full, child, grandchild}
    assert await world.count("operations") == 3
    assert answer.headers["x-coffer-operation"] == filed[full]
    kept = await world.sql("SELECT id FROM backups WHERE state = 'COMPLETED'")
    assert [row["id"] for row in kept] == [alone]


async def test_a_running_increment_keeps_its_parent(api: Caller, world: World):
    instance = await world.instance()
    full = await world.backup(instance)
    running = (await api("POST", "/backups", wanted(instance))).must(202)["backup"]["id"]
    await world.sql("UPDATE backups SET parent_id = :full WHERE id = :id", full=full, id=running)
    answer = await api("DELETE", f"/backups/{full}")
    assert (answer.status, running in answer.problem) == (422, True)
    assert {row["state"] for row in await world.sql("SELECT state FROM backups")} == {"COMPLETED", "NEW"}


async def test_deleting_the_instance_ends_its_backup_first(api: Caller, world: World):
    instance = await world.instance()
    (await api("POST", "/backups", wanted(instance))).must(202)
    deletions = [asyncio.create_task(api("DELETE", f"/instances/{instance}")) for _ in range(3)]
    while not (await world.sql("SELECT 1 FROM operations WHERE cancel_requested")):
        await asyncio.sleep(0.01)
    await world.finish(OperationState.CANCELLED)
    answers = await asyncio.gather(*deletions)
    assert {a.status for a in answers} == {202}
    assert {a.headers["x-coffer-operation"] for a in answers} == {(await world.finish()).id}


async def test_a_backup_that_takes_long_to_end_keeps_the_instance_for_now(
    choose: Callable[..., Settings], world: World,
):
    instance = await world.instance()
    async with serving(choose(cancel_wait=0.2)) as api:
        (await api("POST", "/backups", wanted(instance))).must(202)
        for _ in range(2):
            answer = await api("DELETE", f"/instances/{instance}")
            assert (answer.status, answer.headers["x-coffer-retry-after"]) == (422, "5")
            assert "create_backup is being cancelled" in answer.problem
        (row,) = await world.sql("SELECT cancel_requested, kind FROM operations")
        assert dict(row) == {"cancel_requested": True, "kind": "create_backup"}
        await world.finish(OperationState.CANCELLED)
        (await api("DELETE", f"/instances/{instance}")).must(202)
