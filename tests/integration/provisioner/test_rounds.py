"""The keeper's rounds on a real database under the provisioner's role, with the cloud in memory."""

from __future__ import annotations

from uuid import uuid4

import pytest

from coffer_db import operations
from coffer_db.secrets import MasterKey
from coffer_provisioner.cloud.fake import FakeCloud
from coffer_provisioner.cloud.interface import CloudBusy, MachineSpec, MachineState, Tags
from coffer_provisioner.endings import ending
from coffer_provisioner.loop import Loop
from coffer_provisioner.plans import PLANS
from coffer_provisioner.reach import Reach
from coffer_provisioner.rounds import Rounds
from coffer_shared.errors import GuestSilent
from integration.db.rows import instance_row
from integration.provisioner.actors import execute

LONG_AGO = "now() - interval '1 day'"


@pytest.fixture
def cloud():
    return FakeCloud()


@pytest.fixture
def rounds(provisioner_db, cloud):
    filed = []
    made = Rounds(provisioner_db, cloud, every=15, filed=lambda: filed.append(1))
    made.told = filed
    return made


@pytest.fixture
def built(db, cloud, file):
    """Everything that an operation of this kind made for the instance, and the operation, ended so."""

    async def build(instance, *, state="succeeded", kind="create_instance", public=True):
        operation = await file(instance, kind)
        await end(db, operation, state)
        await resources_of(cloud, instance, operation, public=public)
        return operation

    return build


async def end(db, operation, state, finished=LONG_AGO):
    await execute(db, f"UPDATE operations SET state = :s, finished_at = {finished} WHERE id = :o", s=state, o=operation)


async def resources_of(cloud, instance, operation, *, public=True):
    tags = Tags(instance, operation, f"project of {instance}")
    port = await cloud.ensure_port(tags, network=None, address=None)
    volume = await cloud.ensure_volume(tags, gib=1, volume_type=None)
    await cloud.ensure_machine(MachineSpec(tags, "db", 512, 1.0, port, volume, b"user data"))
    if public:
        await cloud.ensure_public_address(tags, port=port, tcp_port=5432, allowed_cidrs=())


async def filed(db, kind="recover_instance"):
    async with db.connect() as connection:
        rows = await connection.exec_driver_sql("SELECT instance_id, kind, state FROM operations ORDER BY seq")
        return [row.instance_id for row in rows if row.kind == kind]


async def all_of(cloud):
    return sorted((r.kind, r.id) for r in await cloud.resources())


async def kinds(cloud):
    return sorted(r.kind for r in await cloud.resources())


# --- machines that are down ---


async def test_a_stopped_machine_is_filed_for_a_start_once(db, make_instance, built, cloud, rounds):
    stopped, running = await make_instance(started_once=True), await make_instance(started_once=True)
    await built(stopped)
    await built(running)
    cloud.set_machine(stopped, MachineState.STOPPED)
    for _ in range(3):
        await rounds.once()
    assert await filed(db) == [stopped]
    assert rounds.counts["recovered"] == 1
    assert rounds.told


async def test_after_a_recovery_that_failed_it_is_filed_again(db, make_instance, built, cloud, rounds):
    instance = await make_instance(started_once=True)
    await built(instance)
    cloud.set_machine(instance, MachineState.STOPPED)
    await rounds.once()
    await execute(db, "UPDATE operations SET state = 'failed', finished_at = now() WHERE kind = 'recover_instance'")
    await rounds.once()
    assert await filed(db) == [instance] * 2


@pytest.mark.parametrize("how", ["busy", "behind a user", "deleted", "failed", "never started", "gone", "error"])
async def test_what_is_not_to_be_started_is_left_alone(db, make_instance, built, cloud, rounds, file, how):
    instance = await make_instance(started_once=how != "never started", failed=how == "failed")
    await built(instance)
    cloud.set_machine(instance, MachineState.ERROR if how == "error" else MachineState.STOPPED, "it broke")
    if how == "busy":
        await file(instance, "restart_instance")
    elif how == "behind a user":
        await file(instance, "create_users", lifecycle=False)
    elif how == "deleted":
        await execute(db, f"UPDATE instances SET deleted_at = {LONG_AGO}")
    elif how == "gone":
        await cloud.drop_machine(instance)
    await rounds.once()
    assert await filed(db) == []
    assert rounds.counts["recovered"] == 0


async def test_another_operation_that_was_filed_meanwhile_has_precedence(
    db, make_instance, built, cloud, rounds, file,
):
    instance = await make_instance(started_once=True)
    await built(instance)
    cloud.set_machine(instance, MachineState.STOPPED)
    machines = cloud.machines

    async def while_it_looks():
        await file(instance, "delete_instance")
        return await machines()

    cloud.machines = while_it_looks
    await rounds.once()
    assert await filed(db) == []
    assert await filed(db, "delete_instance") == [instance]


async def test_only_one_provisioner_makes_the_round(db, make_instance, built, cloud, rounds, provisioner_db):
    instance = await make_instance(started_once=True)
    await built(instance)
    cloud.set_machine(instance, MachineState.STOPPED)
    other = Rounds(provisioner_db, cloud, every=15, filed=lambda: None)
    machines = cloud.machines

    async def while_it_looks():
        await other._with_lock()
        return await machines()

    cloud.machines = while_it_looks
    await rounds._with_lock()
    assert other.counts["recovered"] == 0
    assert await filed(db) == [instance]
    cloud.machines = machines
    await execute(db, "UPDATE operations SET state = 'failed', finished_at = now() WHERE kind = 'recover_instance'")
    await other._with_lock()
    assert other.counts["recovered"] == 1


async def test_a_machine_goes_down_while_a_backup_is_made_or_deleted(db, make_instance, built, cloud, rounds, file):
    """The backup has to end first, which it soon does; its deletion may wait long for the store, and nobody for it."""
    making, deleting = await make_instance(started_once=True), await make_instance(started_once=True)
    for instance in (making, deleting):
        await built(instance)
        cloud.set_machine(instance, MachineState.STOPPED)
    operation = await file(making, "create_backup", beside=True)
    await file(deleting, "delete_backup", lifecycle=False, beside=True)
    await rounds.once()
    assert await filed(db) == [deleting]
    await end(db, operation, "undoing", "NULL")
    await rounds.once()
    assert await filed(db) == [deleting]
    await end(db, operation, "failed")
    await rounds.once()
    assert await filed(db) == [deleting, making]
    claimed = {(await operations.claim(db, "w", 30)).kind for _ in range(3)}
    assert claimed == {"delete_backup", "recover_instance"}


# --- leftovers ---


async def test_a_backup_that_is_being_deleted_keeps_no_leftovers(db, make_instance, built, cloud, rounds, file):
    """It outlives its instance, and its store may be away for long."""
    instance = await make_instance()
    await built(instance)
    await execute(db, f"UPDATE instances SET deleted_at = {LONG_AGO}")
    await file(instance, "delete_backup", lifecycle=False, beside=True)
    for _ in range(2):
        await rounds.once()
    assert await cloud.resources() == []


@pytest.mark.parametrize("state", ["waiting", "undoing", "failed", "succeeded"])
async def test_a_backup_of_a_living_instance_sweeps_nothing(db, make_instance, built, cloud, rounds, file, state):
    instance = await make_instance(started_once=True)
    await built(instance)
    operation = await file(instance, "create_backup", beside=True)
    await end(db, operation, state, "NULL" if state in {"waiting", "undoing"} else LONG_AGO)
    before = await all_of(cloud)
    await rounds.once()
    assert await all_of(cloud) == before


async def test_a_snapshot_keeps_the_volume_it_is_of_until_its_backup_is_deleted(
    db, make_instance, built, cloud, rounds, file, make_backup, backups,
):
    instance = await make_instance()
    await built(instance, public=False)
    backup = await make_backup(instance, "create_snapshot", storage="cinder", container="", prefix="")
    made = await backups.backup(backup)
    await cloud.ensure_snapshot(Tags(instance, made["operation_id"], "p"), backup=backup)
    await end(db, made["operation_id"], "succeeded")
    await execute(db, "UPDATE backups SET state = 'COMPLETED'")
    await execute(db, f"UPDATE instances SET deleted_at = {LONG_AGO}")
    for _ in range(2):
        await rounds.once()
    assert await kinds(cloud) == ["snapshot", "volume"]
    deleting = await file(instance, "delete_backup", lifecycle=False, beside=True)
    await rounds.once()
    assert await kinds(cloud) == ["snapshot", "volume"]
    await cloud.drop_snapshot(backup)
    await backups.forget(backup)
    await end(db, deleting, "succeeded")
    await rounds.once()
    assert await cloud.resources() == []


async def test_a_snapshot_that_no_backup_is_of_is_swept(
    db, make_instance, built, cloud, rounds, make_backup, backups,
):
    instance = await make_instance(started_once=True)
    await built(instance, public=False)
    backup = await make_backup(instance, "create_snapshot", storage="cinder", container="", prefix="")
    made = await backups.backup(backup)
    await cloud.ensure_snapshot(Tags(instance, made["operation_id"], "p"), backup=backup)
    await end(db, made["operation_id"], "failed", "now()")
    await execute(db, "UPDATE backups SET state = 'FAILED'")
    await rounds.once()
    assert "snapshot" in await kinds(cloud)
    await end(db, made["operation_id"], "failed")
    await rounds.once()
    assert "snapshot" not in await kinds(cloud)
    assert "volume" in await kinds(cloud)


async def test_exactly_the_leftovers_are_swept(db, make_instance, built, cloud, rounds):
    kept, deleted, never_made = [await make_instance() for _ in range(3)]
    await built(kept)
    await built(deleted)
    await built(never_made, state="failed")
    await execute(db, f"UPDATE instances SET deleted_at = {LONG_AGO} WHERE id = :i", i=deleted)
    before = {r.id for r in await cloud.resources() if r.instance == kept}
    for _ in range(2):  # a network can go once its last address has
        await rounds.once()
    left = await cloud.resources()
    assert {r.id for r in left} == before
    assert {r.instance for r in left} == {kept}
    assert len(before) == 4
    assert rounds.counts["swept"] == 8
    assert rounds.unknown == 0


async def test_one_that_cannot_be_dropped_does_not_keep_the_others(db, make_instance, built, cloud, rounds):
    instance = await make_instance()
    await built(instance, state="failed")
    cloud.fail_at("drop_resource", 1, CloudBusy("not now"))
    await rounds.once()
    assert await kinds(cloud) == ["machine", "volume"]  # the machine was refused, and holds its volume
    await rounds.once()
    assert await cloud.resources() == []


async def test_a_volume_that_held_a_database_outlives_its_failed_creation(db, make_instance, built, cloud, rounds):
    noted, only_said = await make_instance(started_once=True, failed=True), await make_instance(failed=True)
    for instance in (noted, only_said):
        await built(instance, state="failed")
    # the guest was done, but the deadline came before a turn could note it
    await execute(db, "UPDATE operations SET guest_state = 'done' WHERE instance_id = :i", i=only_said)
    await rounds.once()
    await rounds.once()
    assert [(r.kind, r.instance) for r in await cloud.resources()] == [("volume", noted), ("volume", only_said)]


@pytest.mark.parametrize("how", ["just ended", "still open", "another is open"])
async def test_what_may_still_be_in_work_is_kept(db, make_instance, built, cloud, rounds, file, how):
    instance = await make_instance()
    operation = await built(instance, state="failed")
    if how == "just ended":
        await end(db, operation, "failed", "now()")
    elif how == "still open":
        await end(db, operation, "undoing", "NULL")
    else:
        await file(instance, "delete_instance")
    before = await all_of(cloud)
    await rounds.once()
    assert await all_of(cloud) == before


# --- a control plane that was restored from an older backup ---


async def test_a_control_plane_restored_from_yesterday_deletes_nothing(db, make_instance, built, cloud, rounds):
    """Today's instances and operations are unknown to it; yesterday's are known, in yesterday's states."""
    old, deleted_today = await make_instance(started_once=True), await make_instance(started_once=True)
    for instance in (old, deleted_today):
        await built(instance)
    await cloud.drop_machine(old)  # made anew today
    await cloud.drop_public_address(old)
    await resources_of(cloud, old, str(uuid4()))
    await cloud.drop_machine(deleted_today)
    for _ in range(3):
        await resources_of(cloud, str(uuid4()), str(uuid4()))
    before = await all_of(cloud)
    for _ in range(3):
        await rounds.once()
    assert await all_of(cloud) == before
    assert rounds.counts["swept"] == 0
    assert rounds.unknown == 3 * 4 + 2
    assert await filed(db) == []


async def test_an_empty_database_deletes_nothing(cloud, rounds):
    await resources_of(cloud, str(uuid4()), str(uuid4()))
    before = await all_of(cloud)
    await rounds.once()
    assert await all_of(cloud) == before
    assert rounds.unknown == 4


async def test_a_resource_whose_operation_belongs_to_another_instance_is_not_touched(
    db, make_instance, built, cloud, rounds,
):
    """As after two stacks were mixed up, or a tag was forged."""
    deleted = await make_instance()
    operation = await built(deleted)
    await execute(db, f"UPDATE instances SET deleted_at = {LONG_AGO}")
    bystander = str(uuid4())
    await resources_of(cloud, bystander, operation)
    await rounds.once()
    assert {r.instance for r in await cloud.resources()} == {bystander}
    assert rounds.unknown == 4


async def test_a_creation_that_yesterday_was_under_way_does_not_take_todays_data(
    db, make_instance, cloud, provisioner_db, records, file,
):
    """It is taken up where the backup left it, long past its deadline, and undone. By then the guest, which has been
    serving since, has reported: its volume stays, whatever yesterday's rows say."""
    instance = await make_instance()
    operation = await file(instance, "create_instance")
    await execute(db, f"UPDATE operations SET state = 'waiting', step = 'wait_enrolled', deadline = {LONG_AGO}")
    await resources_of(cloud, instance, operation)
    await execute(db, "INSERT INTO heartbeats (instance_id, seq, received_at, engine) VALUES (:i, 1, now(), 'healthy')",
                  i=instance)
    volume = [r for r in await all_of(cloud) if r[0] == "volume"]
    await _run(db, provisioner_db, cloud, records, operation)
    assert (await instance_row(db, instance)).started_once
    assert [r for r in await all_of(cloud) if r[0] == "volume"] == volume
    await execute(db, f"UPDATE operations SET finished_at = {LONG_AGO}")
    rounds = Rounds(provisioner_db, cloud, every=15, filed=lambda: None)
    await rounds.once()
    assert [r for r in await all_of(cloud) if r[0] == "volume"] == volume


async def _run(db, provisioner_db, cloud, records, operation):
    class Silent:
        async def send(self, *_args, **_more):
            raise GuestSilent("nobody")

    reach = Reach(
        cloud=cloud, guests=Silent(), records=records, identities=None, backups=None, storages={}, registry="r:5000",
    )
    loop = Loop(provisioner_db, dict(PLANS), reach, MasterKey.generate(), ending=ending)
    claimed = await operations.claim(provisioner_db, "w", 30)
    assert claimed.id == operation
    await loop._turns(claimed)
    async with db.connect() as connection:
        state = (await connection.exec_driver_sql("SELECT state, failure_code FROM operations")).one()
    assert tuple(state) == ("failed", "deadline")
