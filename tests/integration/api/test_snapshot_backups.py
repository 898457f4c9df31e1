"""Backups that are snapshots of the volume, through the API: made, refused, shown, restored, deleted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from coffer_api.settings import Settings
from coffer_db.tables import OperationState
from integration.api.service import GIB, VERSION, Caller, World, serving

FS = "f5f5f5f5-9999-4999-8999-999999999999"


def wanted(instance: str, **more: Any) -> dict[str, Any]:
    return {"backup": {"name": "before the move", "instance": instance, "storage_driver": "cinder", **more}}


def again(backup: str, size: int = 5, **more: Any) -> dict[str, Any]:
    plain = {"name": "again", "flavorRef": 1, "volume": {"size": size}, "restorePoint": {"backupRef": backup}}
    return {"instance": {**plain, "nics": [{"net-id": FS}], **more}}


@pytest.fixture
async def api(choose: Callable[..., Settings]) -> AsyncIterator[Caller]:
    """Of a site whose machines are in an OpenStack cloud."""
    async with serving(choose(cloud="openstack", cloud_without_tokens=True)) as caller:
        yield caller


@pytest.fixture
async def snapshot(world: World) -> str:
    return await world.backup(
        await world.instance(), storage="cinder", container="", prefix="", location="cinder://snap", volume_gib=5,
        fs_uuid=FS, raw_bytes=GIB,
    )


async def test_it_is_filed_in_one_go(api: Caller, world: World):
    instance = await world.instance()
    answer = await api("POST", "/backups", wanted(instance))
    made = answer.must(202)["backup"]
    assert (made["storage"], made["container"], made["status"], made["locationRef"]) == ("cinder", "", "NEW", None)
    (row,) = await world.sql("SELECT * FROM backups")
    assert (row["storage"], row["container"], row["prefix"]) == ("cinder", "", "")
    (filed,) = await world.sql("SELECT *, extract(epoch FROM deadline - created_at) AS within FROM operations")
    assert (filed["id"], filed["kind"]) == (answer.headers["x-coffer-operation"], "create_snapshot")
    assert (filed["args"], filed["lifecycle"], filed["beside"]) == ({"backup": made["id"]}, True, True)
    assert round(filed["within"]) == 3600
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    assert (shown["status"], shown["operating_status"]) == ("BACKUP", "HEALTHY")
    assert (await api("POST", "/backups", wanted(instance))).status == 422


async def test_it_needs_no_backup_image(api: Caller, world: World):
    instance = await world.instance()
    await world.sql("UPDATE datastore_versions SET backup_image = '', backup_image_digest = ''")
    (await api("POST", "/backups", wanted(instance))).must(202)


async def test_what_it_cannot_be(api: Caller, world: World):
    instance = await world.instance()
    answer = await api("POST", "/backups", wanted(instance, swift_container="mine"))
    assert (answer.status, "swift_container" in answer.problem) == (400, True)
    answer = await api("POST", "/backups", wanted(instance, incremental=1))
    assert answer.status == 501
    await world.sql("UPDATE datastore_versions SET manager = 'other' WHERE id = :id", id=VERSION)
    answer = await api("POST", "/backups", wanted(instance))
    assert answer.problem == "The 'snapshot' operation is not supported for the 'postgresql' datastore."
    assert await world.count("backups") + await world.count("operations") == 0


async def test_a_cloud_without_snapshots_refuses(choose: Callable[..., Settings], world: World):
    instance = await world.instance()
    async with serving(choose()) as api:
        answer = await api("POST", "/backups", wanted(instance))
    assert answer.status == 400
    assert answer.problem == "The storage driver 'cinder' is not supported: this cloud takes no snapshots of volumes."


async def test_it_is_restored_as_the_file_system_that_it_is(api: Caller, world: World, snapshot: str):
    await world.sql("UPDATE datastore_versions SET backup_image = '', backup_image_digest = ''")
    shown = (await api("GET", f"/backups/{snapshot}")).must(200)["backup"]
    assert (shown["locationRef"], shown["size"], shown["storage"]) == ("cinder://snap", 1.0, "cinder")
    made = (await api("POST", "/instances", again(snapshot))).must(200)["instance"]
    (row,) = await world.sql("SELECT * FROM instances WHERE id = :id", id=made["id"])
    assert (row["fs_uuid"], row["formatted"], row["started_once"]) == (FS, True, False)
    (filed,) = await world.sql("SELECT * FROM operations")
    assert filed["args"]["restore"] == snapshot


async def test_a_volume_cannot_be_smaller_than_the_one_it_is_of(api: Caller, world: World, snapshot: str):
    answer = await api("POST", "/instances", again(snapshot, 4))
    assert answer.status == 403
    assert answer.problem == (
        "Backup is too large for given flavor or volume. Backup size: 5.0 GBs. Available size: 4 GBs."
    )


async def test_it_is_deleted_whatever_becomes_of_containers(api: Caller, world: World, snapshot: str):
    (await api("DELETE", f"/backups/{snapshot}")).must(202)
    ended = await world.finish(OperationState.SUCCEEDED)
    assert (ended.kind, ended.args) == ("delete_backup", {"backup": snapshot})
