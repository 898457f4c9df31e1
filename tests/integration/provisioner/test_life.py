"""One instance from its creation to its deletion, with the real loop, rows and roles; guest and cloud are stubs."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from hashlib import sha256

import msgspec
import pytest
from sqlalchemy import text

from coffer_db import operations
from coffer_db.guest_events import GuestEvent, note_events
from coffer_provisioner import backup_store
from coffer_provisioner.cloud.fake import FakeCloud
from coffer_provisioner.cloud.interface import CloudRefused, MachineState, Size
from coffer_provisioner.endings import ending
from coffer_provisioner.loop import Loop
from coffer_provisioner.plans import PLANS
from coffer_provisioner.reach import Reach
from coffer_shared import commands
from coffer_shared.backups import MANIFEST, BackUp, Grant
from coffer_shared.errors import GiveUp
from coffer_shared.identity import decode_user_data
from coffer_shared.messages import Accepted, Cancel
from integration.db.rows import instance_row
from integration.provisioner.actors import MASTER, execute, guest_row, new_keys, revoked
from unit.provisioner.backup_material import manifest, result, segments

DIGEST = "sha256:" + "a" * 64


class Guest:
    """Does each command at once and reports its end, as the collector would store it."""

    def __init__(self, db, cloud, storage):
        self.db, self.cloud, self.storage = db, cloud, storage
        self.received = []
        self.restored = {}
        self.slow = False
        self.boot = 1
        self.loop = None

    async def send(self, instance, command, *, within):
        if isinstance(command, Cancel):
            await self.report(instance, command, "cancelled")
            return Accepted()
        self.received.append(command)
        if command.kind == "backup":
            found = self.back_up(BackUp(**{**command.args, "grant": Grant(**command.args["grant"])}))
            if not self.slow:
                await self.report(instance, command, "done", result=msgspec.to_builtins(found))
            return Accepted()
        if command.kind == "restore":
            grant = Grant(**command.args["restore"]["grant"])
            self.restored = {name: self.storage.get(grant, name) for name in (*segments(), MANIFEST)}
        await self.beat(instance)
        await self.report(instance, command, "done")
        return Accepted()

    async def report(self, instance, command, kind, **more):
        await note_events(self.db, [GuestEvent(instance=instance, op=command.op, n=0, kind=kind, at=1.0, **more)])
        self.loop.wake()

    def back_up(self, order):
        whole = segments()
        written = manifest(whole, order.backup)
        for name, data in {**whole, MANIFEST: written}.items():
            self.storage.put(order.grant, name, data)
        return result(whole, written)

    async def beat(self, instance):
        await execute(
            self.db, "INSERT INTO heartbeats (instance_id, seq, received_at, engine, facts) VALUES (:i, :n, now(), "
            "'healthy', CAST(:f AS jsonb)) ON CONFLICT (instance_id) DO UPDATE SET facts = excluded.facts, "
            "received_at = now()",
            i=instance, n=self.boot, f=json.dumps({"boot": str(self.boot)}),
        )


@pytest.fixture
async def stage(db, provisioner_db, records, backups, storage, identities, monkeypatch):
    """The loop running under its role; `run(instance, kind)` waits for the operation's end."""
    monkeypatch.setattr(backup_store, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(backup_store, "CLOCKS_APART", 0.0)
    storage.clock = lambda: 0.0
    cloud = FakeCloud()
    guest = Guest(db, cloud, storage)
    reach = Reach(
        cloud=cloud, guests=guest, records=records, identities=identities, backups=backups,
        storages={"swift": storage}, registry="registry:5000",
    )
    loop = Loop(provisioner_db, dict(PLANS), reach, MASTER, ending=ending, sweep=0.05)
    guest.loop = loop
    running = asyncio.create_task(loop.run())

    async def run(instance, kind, **more):
        new = operations.NewOperation(
            instance_id=instance, project_id="p", kind=kind, user_id="u", within=timedelta(minutes=5), **more,
        )
        async with db.begin() as session:
            operation = await operations.file(session, new, MASTER.public)
        return await ended(operation, instance, kind)

    async def ended(operation, instance="", kind=""):
        loop.wake()
        async with asyncio.timeout(20):
            while (row := await _operation(db, operation)).finished_at is None:
                if kind == "create_instance":
                    await enrol(instance)
                if kind == "rebuild_instance":
                    guest.boot = cloud.starts(instance)
                    await enrol(instance)
                if kind == "resize_flavor":
                    guest.boot = cloud.starts(instance)
                    await guest.beat(instance)
                    loop.wake()
                if kind == "recover_instance" and cloud.starts(instance) > 1:
                    guest.boot = 2
                    await guest.beat(instance)
                    await operations.wake(db, operation)
                    loop.wake()
                await asyncio.sleep(0.01)
        return row

    async def enrol(instance):
        try:
            data = decode_user_data(cloud.user_data(instance))
        except KeyError:
            return
        row, secret = await guest_row(db, instance), sha256(bytes.fromhex(data.secret)).digest()
        if row.boot_used_at is None and row.boot_hash == secret:
            keys, nkey = new_keys()
            assert await records.enrol(instance, secret_hash=secret, xpub=keys.public, nkey=nkey.public, version="1")
            await operations.wake_instance(db, instance)
            loop.wake()

    run.cloud, run.guest, run.loop, run.ended = cloud, guest, loop, ended
    yield run
    loop.stop()
    await running


async def _history(db):
    async with db.connect() as connection:
        return (await connection.exec_driver_sql("SELECT count(*) FROM root_history")).scalar_one()


async def _operation(db, operation):
    async with db.connect() as connection:
        return (await connection.execute(text("SELECT * FROM operations WHERE id = :o"), {"o": operation})).one()


async def test_an_instance_is_made_used_restarted_recovered_and_deleted(db, make_instance, stage):
    cloud, guest = stage.cloud, stage.guest
    instance = await make_instance(is_public=True, allowed_cidrs=["127.0.0.0/8"])
    await execute(db, "UPDATE datastore_versions SET image_digest = :d", d=DIGEST)

    made = await stage(
        instance, "create_instance", args={"databases": [{"name": "shop"}]},
        secret_args={"users": [{"name": "ann", "password": "hunter22"}]},
    )
    assert (made.state, made.failure_text) == ("succeeded", None)
    row = await instance_row(db, instance)
    assert (row.started_once, row.formatted, row.failed) == (True, True, False)
    assert [a["type"] for a in row.addresses] == ["private", "public"]
    assert row.server_id
    assert row.volume_id
    prepare = commands.Prepare(**{
        **guest.received[0].args, "databases": [], "users": [],
    })
    assert prepare.image == f"registry:5000/coffer/postgres@{DIGEST}"
    assert (prepare.port, prepare.format, prepare.allowed_cidrs) == (5432, True, ["127.0.0.0/8"])
    assert guest.received[0].args["users"][0]["password"] == "hunter22"
    assert made.secret_args is None

    assert (await stage(instance, "create_users", secret_args={"users": []}, lifecycle=False)).state == "succeeded"
    assert (await stage(instance, "restart_instance")).state == "succeeded"
    assert (await stage(instance, "enable_root", secret_args={"password": "x"}, lifecycle=False)).state == "succeeded"
    assert [c.kind for c in guest.received] == ["prepare", "create_users", "restart", "enable_root"]
    assert (await instance_row(db, instance)).root_enabled_by == "u"

    cloud.set_machine(instance, MachineState.STOPPED)
    assert (await stage(instance, "recover_instance")).state == "succeeded"
    assert cloud.starts(instance) == 2

    assert (await stage(instance, "delete_instance")).state == "succeeded"
    assert await cloud.resources() == []
    row = await instance_row(db, instance)
    assert row.deleted_at is not None
    assert row.addresses == []
    assert (await guest_row(db, instance)).revoked_at is not None


async def test_a_creation_that_fails_says_why_and_leaves_nothing(db, make_instance, stage):
    instance = await make_instance()
    made = await stage(instance, "create_instance", secret_args={})
    assert (made.state, made.failure_code, made.failure_step) == ("failed", "image_missing", "prepare_guest")
    assert await stage.cloud.resources() == []
    row = await instance_row(db, instance)
    assert row.failed
    assert row.fault_message.startswith("create instance failed (image_missing)")
    assert row.fault_details == f"operation {made.id}\nstart 1\n"
    assert (await guest_row(db, instance)).revoked_at is not None


async def test_a_creation_whose_machine_fails_shows_administrators_its_console(db, make_instance, stage):
    instance = await make_instance()
    stage.cloud.fail_at("ensure_public_address", 1, CloudRefused("no_public_address", "all are taken"))
    await execute(db, "UPDATE instances SET is_public = true")
    await execute(db, "UPDATE datastore_versions SET image_digest = :d", d=DIGEST)
    made = await stage(instance, "create_instance", secret_args={})
    row = await instance_row(db, instance)
    assert row.fault_details == f"operation {made.id}\nstart 1\n"
    assert "start 1" not in row.fault_message


# --- sizes and rebuilds ---


@pytest.fixture
async def running(db, make_instance, stage):
    instance = await make_instance(flavor_id="1")
    await execute(db, "UPDATE datastore_versions SET image_digest = :d", d=DIGEST)
    assert (await stage(instance, "create_instance", secret_args={})).state == "succeeded"
    stage.guest.received.clear()
    return instance


async def test_an_instance_grows_changes_its_flavor_and_is_rebuilt(db, running, stage):
    stage.cloud.world.keeps_way_back = True
    assert (await stage(running, "resize_volume", args={"volume_gib": 3})).state == "succeeded"
    assert (await instance_row(db, running)).volume_gib == 3
    grown = await stage(running, "resize_flavor", args={"flavor": "2"})
    assert (grown.state, grown.failure_text) == ("succeeded", None)
    assert (await instance_row(db, running)).flavor_id == "2"
    assert stage.cloud.size(running) == Size("2", 1024, 1.0)

    before = await guest_row(db, running)
    rebuilt = await stage(running, "rebuild_instance", args={"image_id": "any"})
    assert (rebuilt.state, rebuilt.failure_text) == ("succeeded", None)
    assert [(c.kind, c.args.get("format")) for c in stage.guest.received] == [
        ("grow_volume", None), ("resize", None), ("prepare", False),
    ]
    after = await guest_row(db, running)
    assert after.nkey != before.nkey
    assert before.nkey in await revoked(db)
    assert not (await instance_row(db, running)).failed
    assert (await _others(db, running)) == []


async def test_what_a_failed_resize_leaves_to_do_is_done_once_and_by_itself(db, running, stage):
    send, asked = stage.guest.send, set()

    async def failing(instance, command, *, within):
        kind = getattr(command, "kind", "")
        if kind in {"resize", "grow_volume"} and kind not in asked:
            asked.add(kind)
            await stage.guest.report(instance, command, "failed", code="engine", text="it does not start")
            return Accepted()
        return await send(instance, command, within=within)

    stage.guest.send = failing
    volume = await stage(running, "resize_volume", args={"volume_gib": 2})
    flavor = await stage(running, "resize_flavor", args={"flavor": "2"})
    assert (volume.state, flavor.state) == ("failed", "failed")
    row = await instance_row(db, running)
    assert (row.volume_gib, row.flavor_id, row.failed) == (2, "1", False)
    found = await _others(db, running)
    assert [(o.kind, o.lifecycle, o.beside) for o in found] == [
        ("grow_file_system", False, True), ("fit_engine", False, False),
    ]
    for one in found:
        assert (await stage.ended(one.id)).state == "succeeded"
    assert [(c.kind, c.op) for c in stage.guest.received] == [
        ("grow_volume", found[0].id), ("resize", found[1].id),
    ]


async def _others(db, instance):
    """Operations that nobody asked for."""
    async with db.connect() as connection:
        return (await connection.execute(
            text("SELECT * FROM operations WHERE instance_id = :i AND NOT lifecycle ORDER BY seq"), {"i": instance},
        )).all()


# --- backups ---


@pytest.fixture
def offered(db, make_instance):
    """An instance of a version that can be backed up."""

    async def make(**columns):
        instance = await make_instance(**columns)
        await execute(
            db, "UPDATE datastore_versions SET image_digest = :d, backup_image = 'coffer/b:17',"
            " backup_image_digest = :d", d=DIGEST,
        )
        return instance

    return make


async def _backup_row(db, backup):
    async with db.connect() as connection:
        return (await connection.execute(text("SELECT * FROM backups WHERE id = :b"), {"b": backup})).one()


async def test_a_backup_is_made_restored_elsewhere_and_deleted(db, offered, make_backup, stage, storage):
    source, target = await offered(), await offered()
    assert (await stage(source, "create_instance", secret_args={})).state == "succeeded"

    backup = await make_backup(source)
    made = await stage.ended((await _backup_row(db, backup)).operation_id)
    row = await _backup_row(db, backup)
    assert (made.state, made.failure_text, row.state, row.segments) == ("succeeded", None, "COMPLETED", 3)
    assert row.position == {"end": "0/3000028"}
    assert row.location.endswith(f"/p/database_backups/{source}/{backup}/manifest.json")
    sent = stage.guest.received[-1]
    assert sent.args["image"] == f"registry:5000/coffer/b@{DIGEST}"

    assert (await stage(source, "delete_instance")).state == "succeeded"
    restored = await stage(target, "create_instance", args={"restore": backup}, secret_args={})
    assert (restored.state, restored.failure_text) == ("succeeded", None)
    assert stage.guest.received[-1].kind == "restore"
    assert set(stage.guest.restored) == {*segments(), MANIFEST}
    assert None not in stage.guest.restored.values()
    assert stage.guest.received[-1].args["restore"]["key"] == sent.args["key"]

    deleted = await stage(source, "delete_backup", args={"backup": backup}, lifecycle=False, beside=True)
    row = await _backup_row(db, backup)
    assert (deleted.state, row.state, row.data_key) == ("succeeded", "DELETED", None)
    assert [held.objects for held in storage.store.containers.values()] == [{}]
    again = await stage(await offered(), "create_instance", args={"restore": backup}, secret_args={})
    assert (again.state, again.failure_code, again.failure_step) == ("failed", "backup_gone", "check_backup")
    kept = json.dumps([dict(o._mapping) for o in await _operations(db)], default=str)
    assert sent.args["key"] not in kept
    assert "temp_url_sig" not in kept


async def test_a_backup_that_is_cancelled_leaves_nothing_and_users_are_made_beside_it(
    db, offered, make_backup, stage, storage,
):
    instance = await offered()
    assert (await stage(instance, "create_instance", secret_args={})).state == "succeeded"
    stage.guest.slow = True
    backup = await make_backup(instance)
    operation = (await _backup_row(db, backup)).operation_id
    stage.loop.wake()
    async with asyncio.timeout(10):
        while not any(c.kind == "backup" for c in stage.guest.received):
            await asyncio.sleep(0.01)
    assert (await stage(instance, "create_users", secret_args={"users": []}, lifecycle=False)).state == "succeeded"
    with pytest.raises(operations.Busy):
        await stage(instance, "restart_instance")
    async with db.begin() as session:
        assert await operations.request_cancel(session, operation)
    ended = await stage.ended(operation)
    row = await _backup_row(db, backup)
    assert (ended.state, row.state, row.failure_text) == ("cancelled", "FAILED", "cancelled on request")
    clearing = next(o for o in await _operations(db) if o.kind == "clear_backup")
    assert (await stage.ended(clearing.id)).state == "succeeded"
    assert [held.objects for held in storage.store.containers.values()] == [{}]
    assert not (await instance_row(db, instance)).failed
    assert (await stage(instance, "restart_instance")).state == "succeeded"


async def _operations(db):
    async with db.connect() as connection:
        return (await connection.exec_driver_sql("SELECT * FROM operations")).all()


# --- rows ---


async def test_root_is_noted_once_for_each_operation(db, instance, file, records):
    first = await file(instance, "enable_root", lifecycle=False)
    for _ in range(2):
        await records.note_root_enabled(instance, first)
    assert await _history(db) == 1
    enabled = (await instance_row(db, instance)).root_enabled_at
    second = await file(instance, "enable_root", lifecycle=False)
    await records.note_root_enabled(instance, second)
    assert await _history(db) == 2
    assert (await instance_row(db, instance)).root_enabled_at == enabled


async def test_a_guests_last_word_is_not_taken_back(db, instance, file, records):
    operation = await file(instance)
    for given, kept in (("accepted", "accepted"), ("done", "done"), ("accepted", "done")):
        await records.set_guest_state(operation, given)
        assert (await records.operation(operation))["guest_state"] == kept


async def test_rows_that_are_not_there(instance, records):
    nobody = "66666666-6666-4666-8666-666666666666"
    for wanted, code in ((records.instance, "no_instance"), (records.operation, "no_operation")):
        with pytest.raises(GiveUp) as caught:
            await wanted(nobody)
        assert caught.value.code == code
    assert await records.heartbeat(instance) is None
    assert await records.guest(instance) is None
    await records.revoke_guest(instance, "delete_instance")
    row = await records.instance(instance)
    assert (row["enrolled"], row["port"], row["manager"], row["nics"]) == (False, 5432, "postgresql", [])
