"""What the OpenStack driver promises of snapshots beyond the contract, and what goes wrong with them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from coffer_provisioner.cloud.interface import Cloud, CloudBusy, CloudRefused, Resource
from support.faulty_proxy import Asked, Decide, Fault
from support.openstack_ground import DoubleGround
from support.openstack_stage import PROJECT, Instance, Stage, reached

FAULTS = [
    Fault(status=500), Fault(status=503), Fault(status=429), Fault(broken=True), Fault(lost=True), Fault(after=1e9),
]


def first(method: str, path: str, fault: Fault) -> tuple[list[Asked], Decide]:
    """The first such request fails; it is in the list then."""
    seen: list[Asked] = []

    def decide(asked: Asked) -> Fault | None:
        if seen or asked.method != method or not asked.path.startswith(path):
            return None
        seen.append(asked)
        return fault

    return seen, decide


async def with_volume(stage: Stage) -> Instance:
    """Its volume is listed, whatever the stage's proxy hides."""
    one = stage.instance()
    async with stage.aside() as aside:
        await one.volume(aside.door())
    return one


async def drop(cloud: Cloud, backup: str, *instances: Instance) -> None:
    """The snapshot, between the volumes that were made of it and the one that it is of."""
    *copies, source = instances
    for one in copies:
        await reached(lambda one=one: cloud.drop_volume(one.instance))  # type: ignore[misc]
    await reached(lambda: cloud.drop_snapshot(backup))
    await reached(lambda: cloud.drop_volume(source.instance))


async def test_names_and_marks(stage: Stage) -> None:
    cloud, one, two, backup = stage.door(), stage.instance(), stage.instance(), str(uuid4())
    await one.everything(cloud)
    made = await one.snapshot(cloud, backup)
    (snapshot,) = stage.ground.snapshots(stage.stack)
    source = stage.ground.volumes(stage.stack)[0]
    assert source["status"] == "in-use"
    assert snapshot["id"] == made.id
    assert snapshot["name"] == f"trove-{backup}-backup"
    assert snapshot["volume_id"] == source["id"]
    assert snapshot["metadata"] == {
        "coffer_stack": stage.stack, "coffer_instance": one.instance, "coffer_operation": one.operation,
        "coffer_project": PROJECT, "coffer_backup": backup,
    }
    copy = await two.volume(cloud, made.id)
    found = {volume["id"]: volume for volume in stage.ground.volumes(stage.stack)}
    assert found[copy.id]["snapshot_id"] == made.id
    assert found[copy.id]["name"] == f"trove-{two.instance}"
    assert found[copy.id]["metadata"] == {
        "coffer_stack": stage.stack, "coffer_instance": two.instance, "coffer_operation": two.operation,
        "coffer_project": PROJECT,
    }, "its own marks, and not that it has held a database yet"
    await two.nothing(cloud)
    await reached(lambda: cloud.drop_snapshot(backup))
    await one.nothing(cloud)
    assert stage.left_over() == []


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", ["snapshots", "volumes"])
async def test_making_that_fails_is_busy_and_makes_nothing_twice(stage: Stage, path: str, fault: Fault) -> None:
    patience = stage.ground.patience
    fault = replace(fault, after=patience + 1) if fault.after else fault
    cloud, one, two, backup = stage.door(call_seconds=patience), stage.instance(), stage.instance(), str(uuid4())
    await one.volume(cloud)
    snapshot = await one.snapshot(cloud, backup) if path == "volumes" else None
    seen, stage.proxy.decide = first("POST", path, fault)
    with pytest.raises(CloudBusy) as busy:
        if snapshot is None:
            await cloud.ensure_snapshot(one.tags, backup=backup)
        else:
            await cloud.ensure_volume(two.tags, gib=1, volume_type=None, snapshot=snapshot.id)
    assert "OpenStack" in str(busy.value)
    assert len(seen) == 1
    made = snapshot or await one.snapshot(cloud, backup)
    copy = await two.volume(cloud, made.id)
    if fault.after:
        await asyncio.sleep(2)  # the request that nobody waits for any more comes through
    kept = await one.snapshot(cloud, backup)
    assert (await two.volume(cloud, kept.id)).id == copy.id
    assert [s["id"] for s in stage.ground.snapshots(stage.stack) if s["status"] != "deleting"] == [kept.id]
    assert len([v for v in stage.ground.volumes(stage.stack) if v["status"] != "deleting"]) == 2
    await drop(cloud, backup, two, one)
    assert stage.left_over() == []


@pytest.mark.parametrize("fault", FAULTS)
async def test_dropping_that_fails_is_busy_and_can_be_asked_for_again(stage: Stage, fault: Fault) -> None:
    patience = stage.ground.patience
    fault = replace(fault, after=patience + 1) if fault.after else fault
    cloud, one, backup = stage.door(call_seconds=patience), stage.instance(), str(uuid4())
    await one.volume(cloud)
    await one.snapshot(cloud, backup)
    seen, stage.proxy.decide = first("DELETE", "snapshots/", fault)
    with pytest.raises(CloudBusy) as busy:
        await cloud.drop_snapshot(backup)
    assert "OpenStack" in str(busy.value)
    assert len(seen) == 1
    await drop(cloud, backup, one)
    assert await cloud.find_snapshot(backup) is None
    assert stage.left_over() == []


@pytest.mark.parametrize("fault", FAULTS)
async def test_looking_that_fails_is_busy(stage: Stage, fault: Fault) -> None:
    """Never that there is none."""
    patience = stage.ground.patience
    fault = replace(fault, after=patience + 1) if fault.after else fault
    cloud, one, backup = stage.door(call_seconds=patience), stage.instance(), str(uuid4())
    await one.volume(cloud)
    made = await one.snapshot(cloud, backup)
    for path, call in (
        ("snapshots", lambda: cloud.find_snapshot(backup)),
        ("snapshots", lambda: cloud.ensure_snapshot(one.tags, backup=backup)),
        ("snapshots", lambda: cloud.drop_snapshot(backup)),
        ("snapshots/", lambda: cloud.ensure_volume(
            stage.instance().tags, gib=1, volume_type=None, snapshot=made.id,
        )),
        ("snapshots", cloud.resources),
    ):
        seen, stage.proxy.decide = first("GET", path, fault)
        with pytest.raises(CloudBusy):
            await call()
        assert len(seen) == 1
    stage.proxy.clear()
    assert await cloud.find_snapshot(backup) == made
    await drop(cloud, backup, one)
    assert stage.left_over() == []


@pytest.mark.parametrize("hidden", [0.0, 1.5])
async def test_a_lost_answer_while_listings_lag(stage: Stage, hidden: float) -> None:
    cloud, one, backup = stage.door(), await with_volume(stage), str(uuid4())
    seen, stage.proxy.decide = first("POST", "snapshots", Fault(lost=True))
    stage.proxy.hidden_for = hidden
    await one.snapshot(cloud, backup)
    assert len(seen) == 1
    await asyncio.sleep(hidden)
    stage.proxy.clear()
    kept = await one.snapshot(cloud, backup)
    left = [s for s in stage.ground.snapshots(stage.stack) if s["status"] != "deleting"]
    assert [s["id"] for s in left] == [kept.id]
    await drop(cloud, backup, one)
    assert stage.left_over() == []


async def test_two_provisioners_that_see_nothing_of_each_other(stage: Stage) -> None:
    one, backup, doors = await with_volume(stage), str(uuid4()), [stage.door(settle_seconds=0.0) for _ in range(2)]
    stage.proxy.hidden_for = 5.0
    for _ in range(2):
        await asyncio.gather(*(
            door.ensure_snapshot(one.tags, backup=backup) for door in doors
        ), return_exceptions=True)
    made = sorted(stage.ground.snapshots(stage.stack), key=lambda s: (s["created_at"], s["id"]))
    assert len(made) > 1
    stage.proxy.clear()
    kept = await asyncio.gather(*(one.snapshot(door, backup) for door in doors))
    assert {snapshot.id for snapshot in kept} == {made[0]["id"]}, "the first that was made"
    assert len([s for s in stage.ground.snapshots(stage.stack) if s["status"] != "deleting"]) == 1
    await drop(doors[1], backup, one)
    assert stage.left_over() == []


async def test_snapshots_made_at_once_are_seen_in_time(stage: Stage) -> None:
    one, backup, doors = await with_volume(stage), str(uuid4()), [stage.door(settle_seconds=3.0) for _ in range(3)]
    for door in doors:
        await reached(lambda door=door: door.find_snapshot(backup))  # type: ignore[misc]
    stage.proxy.hidden_for = 1.5
    made = await asyncio.gather(*(door.ensure_snapshot(one.tags, backup=backup) for door in doors))
    assert len({snapshot.id for snapshot in made}) == 1, "all keep the same one, from the start"
    await one.snapshot(doors[0], backup)
    left = [s for s in stage.ground.snapshots(stage.stack) if s["status"] != "deleting"]
    assert [s["id"] for s in left] == [made[0].id]
    stage.proxy.clear()
    await drop(doors[0], backup, one)
    assert stage.left_over() == []


async def test_both_are_dropped_though_one_was_not_listed(stage: Stage) -> None:
    one, backup, doors = await with_volume(stage), str(uuid4()), [stage.door(settle_seconds=0.0) for _ in range(2)]
    stage.proxy.hidden_for = 5.0
    await asyncio.gather(*(door.ensure_snapshot(one.tags, backup=backup) for door in doors))
    assert len(stage.ground.snapshots(stage.stack)) == 2
    stage.proxy.clear()
    await drop(doors[0], backup, one)
    assert stage.left_over() == []


async def test_a_quota_that_cinder_does_not_call_one(stage: Stage) -> None:
    cloud, one, backup = stage.door(), stage.instance(), str(uuid4())
    await one.volume(cloud)
    for text in (
        "SnapshotLimitExceeded: Maximum number of snapshots allowed (10) exceeded",
        "VolumeSizeExceedsAvailableQuota: Requested volume or snapshot exceeds allowed gigabytes quota.",
    ):
        _, stage.proxy.decide = first("POST", "snapshots", Fault(
            status=413, body={"overLimit": {"message": text, "code": 413, "retryAfter": "0"}},
        ))
        with pytest.raises(CloudRefused) as refused:
            await cloud.ensure_snapshot(one.tags, backup=backup)
        assert refused.value.code == "quota"
    _, stage.proxy.decide = first("POST", "snapshots", Fault(
        status=413, body={"overLimit": {"message": "slow down", "code": 413, "retryAfter": "1"}},
    ))
    with pytest.raises(CloudBusy):
        await cloud.ensure_snapshot(one.tags, backup=backup)
    stage.proxy.clear()
    await drop(cloud, backup, one)
    assert stage.left_over() == []


# --- what only the double can be brought to ---


async def test_what_cinder_will_not_delete_yet(double_stage: Stage, double_ground: DoubleGround) -> None:
    stage, double = double_stage, double_ground.double
    cloud, one, two, backup = stage.door(), stage.instance(), stage.instance(), str(uuid4())
    await one.volume(cloud)
    double.delay = 0.6
    early = await cloud.ensure_snapshot(one.tags, backup=backup)
    with pytest.raises(CloudBusy) as busy:
        await cloud.drop_snapshot(backup)
    assert "is creating" in str(busy.value)
    with pytest.raises(CloudBusy) as busy:
        await cloud.ensure_volume(two.tags, gib=1, volume_type=None, snapshot=early.id)
    assert "being made" in str(busy.value)
    double.delay = 0.02
    double.storage.keeps_copied_from = True
    made = await one.snapshot(cloud, backup)
    await two.volume(cloud, made.id)
    with pytest.raises(CloudBusy) as busy:
        await cloud.drop_snapshot(backup)
    assert "there is a volume that was made of it" in str(busy.value)
    assert await cloud.find_snapshot(backup) == made
    await drop(cloud, backup, two, one)
    assert stage.left_over() == []


async def test_a_snapshot_in_error(double_stage: Stage, double_ground: DoubleGround) -> None:
    stage, storage = double_stage, double_ground.double.storage
    cloud, one, backup = stage.door(), stage.instance(), str(uuid4())
    await one.volume(cloud)
    made = await one.snapshot(cloud, backup)
    storage.snapshots[made.id]["status"] = "error"
    storage.messages[made.id] = "create snapshot:Snapshot failed to create."
    for found in (await cloud.find_snapshot(backup), await cloud.ensure_snapshot(one.tags, backup=backup)):
        assert found is not None
        assert (found.id, found.ready) == (made.id, False)
        assert found.fault == "the block storage reports error: create snapshot:Snapshot failed to create."
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_volume(stage.instance().tags, gib=1, volume_type=None, snapshot=made.id)
    assert refused.value.code == "no_snapshot"
    assert "status must be" in str(refused.value)
    storage.snapshots[made.id]["status"] = "error_deleting"
    await drop(cloud, backup, one)
    assert stage.left_over() == []


async def test_a_deletion_that_the_storage_gives_up(double_stage: Stage, double_ground: DoubleGround) -> None:
    stage, storage = double_stage, double_ground.double.storage
    cloud, one, backup = stage.door(wait_seconds=0.5), stage.instance(), str(uuid4())
    await one.volume(cloud)
    made = await one.snapshot(cloud, backup)
    storage.snapshots[made.id]["status"] = "deleting"
    with pytest.raises(CloudBusy) as busy:
        await cloud.drop_snapshot(backup)
    assert "being deleted" in str(busy.value)
    giving_up = asyncio.create_task(cloud.drop_snapshot(backup))
    await asyncio.sleep(0.2)
    storage.snapshots[made.id]["status"] = "available"
    await giving_up
    assert await cloud.find_snapshot(backup) is None, "what another one's request did not do, an own one does"
    await drop(cloud, backup, one)


@pytest.mark.parametrize(("status", "error"), [
    ("attaching", CloudBusy), ("extending", CloudBusy), ("creating", CloudBusy), ("error", CloudRefused),
])
async def test_a_volume_as_it_is_now(
    double_stage: Stage, double_ground: DoubleGround, status: str, error: type[Exception],
) -> None:
    cloud, one, backup = double_stage.door(), double_stage.instance(), str(uuid4())
    volume = await one.volume(cloud)
    double_ground.double.storage.volumes[volume.id]["status"] = status
    with pytest.raises(error, match="status"):
        await cloud.ensure_snapshot(one.tags, backup=backup)
    assert double_stage.ground.snapshots(double_stage.stack) == []
    double_ground.double.storage.volumes[volume.id]["status"] = "available"
    await one.snapshot(cloud, backup)


async def test_the_oldest_stays_whatever_its_state(double_stage: Stage, double_ground: DoubleGround) -> None:
    """Else one that somebody has seen to be ready could go."""
    stage, snapshots = double_stage, double_ground.double.storage.snapshots
    cloud, one, backup = stage.door(), stage.instance(), str(uuid4())
    await one.volume(cloud)
    made = await one.snapshot(cloud, backup)
    later = {**snapshots[made.id], "id": str(uuid4()), "created_at": "2999-01-01T00:00:00.000000"}
    snapshots[later["id"]] = later
    snapshots[made.id]["status"] = "creating"
    assert await cloud.find_snapshot(backup) == replace(made, ready=False)
    later["status"] = "creating"
    snapshots[made.id]["status"] = "available"
    found = await cloud.ensure_snapshot(one.tags, backup=backup)
    assert found == replace(made, ready=False), "not before the other one is on its way out"
    later["status"] = "available"
    assert await cloud.ensure_snapshot(one.tags, backup=backup) == made
    await drop(cloud, backup, one)
    assert stage.left_over() == []


async def test_what_somebody_else_made(double_stage: Stage, double_ground: DoubleGround) -> None:
    """A snapshot without the marks, such as an operator's or another project's."""
    stage, storage = double_stage, double_ground.double.storage
    cloud, one, two, backup = stage.door(), stage.instance(), stage.instance(), str(uuid4())
    volume = await one.volume(cloud)
    made = await one.snapshot(cloud, backup)
    foreign = {**storage.snapshots[made.id], "id": str(uuid4()), "name": f"trove-{backup}-backup", "metadata": {}}
    storage.snapshots[foreign["id"]] = foreign
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_volume(two.tags, gib=1, volume_type=None, snapshot=foreign["id"])
    assert refused.value.code == "no_snapshot"
    assert foreign["id"] not in {resource.id for resource in await cloud.resources()}
    await cloud.drop_resource(Resource("snapshot", foreign["id"], one.instance, one.operation))
    await reached(lambda: cloud.drop_snapshot(backup))
    assert list(storage.snapshots) == [foreign["id"]]
    with pytest.raises(CloudBusy) as busy:
        await cloud.drop_volume(one.instance)
    assert "snapshots" in str(busy.value)
    assert volume.id in storage.volumes
    del storage.snapshots[foreign["id"]]
    await reached(lambda: cloud.drop_volume(one.instance))
    assert stage.left_over() == []


async def test_pages_of_snapshots(double_stage: Stage, double_ground: DoubleGround) -> None:
    cloud, one, backups = double_stage.door(), double_stage.instance(), [str(uuid4()) for _ in range(7)]
    await one.volume(cloud)
    for backup in backups:
        await one.snapshot(cloud, backup)
    double_ground.double.page = 3
    assert len([r for r in await cloud.resources() if r.kind == "snapshot"]) == len(backups)
