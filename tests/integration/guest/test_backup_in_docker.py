"""`backup` and `restore` with a real engine, the real backup image, a real Docker; volume and firewall are missing."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from coffer_guest.leftovers import take_back
from coffer_shared.backups import BackedUp, BackUp, RestoreFrom
from coffer_shared.messages import Accepted, Cancel, Finished
from integration.guest.host import USERS, Host, docker
from integration.guest.object_store import ObjectStore

pytestmark = pytest.mark.docker

READER = "coffer/postgres-backup:17"
KEY = secrets.token_hex(32)


@pytest.fixture
async def store() -> AsyncIterator[ObjectStore]:
    made = ObjectStore()
    await made.start()
    yield made
    await made.close()


@pytest.fixture(scope="module")
def prepared() -> Iterator[Host]:
    """A database with something in it, and no agent."""
    made = Host()

    async def prepare() -> None:
        await made.live(ObjectStore().renew_with("PUT"))
        ending = await made.run("prepare", made.order(databases=[{"name": "shop"}], users=USERS))
        assert ending.state == "done", ending
        await made.value("CREATE TABLE t AS SELECT n, md5(n::text) AS word FROM generate_series(1, 50000) n")
        await made.die()

    asyncio.run(prepare())
    yield made
    asyncio.run(made.remove())


@pytest.fixture
async def bank(store: ObjectStore, prepared: Host) -> AsyncIterator[Host]:
    await prepared.live(store.renew_with("PUT"))
    yield prepared
    await prepared.die()


@pytest.fixture
async def other(store: ObjectStore) -> AsyncIterator[Host]:
    """A machine without a database."""
    made = Host()
    await made.live(store.renew_with("GET"))
    yield made
    await made.die()
    await made.remove()


def backup(store: ObjectStore) -> dict[str, Any]:
    args: dict[str, Any] = msgspec.to_builtins(
        BackUp(backup=str(uuid.uuid4()), image=READER, key=KEY, grant=store.grant("PUT"), segment_bytes=512 * 1024)
    )
    return args


def restore(store: ObjectStore, made: dict[str, Any], ending: Finished) -> dict[str, Any]:
    told = msgspec.convert(ending.result, BackedUp)
    order = RestoreFrom(made["backup"], READER, KEY, store.grant("GET"), told.manifest_sha256)
    args: dict[str, Any] = msgspec.to_builtins(order)
    return args


SUM = "SELECT count(*) || md5(string_agg(word, ',' ORDER BY n)) FROM t"


async def test_what_was_backed_up_is_restored_on_another_machine(store: ObjectStore, bank: Host, other: Host) -> None:
    args, before = backup(store), await bank.value(SUM)
    ending = await bank.run("backup", args)
    assert ending.state == "done", ending
    told = msgspec.convert(ending.result, BackedUp)
    assert told.segments == len(store.objects) - 1 > 3
    assert told.raw_bytes > told.stored_bytes > 1_000_000
    await bank.is_clean()
    assert await bank.slots() == []
    await bank.value("INSERT INTO t VALUES (0, 'later')")

    ending = await other.run("restore", other.order(restore=restore(store, args, ending), databases=[{"name": "new"}]))
    assert ending.state == "done", ending
    assert await other.value(SUM) == before
    await other.is_clean()
    cluster = other.directory / "data/engine/cluster"
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in (cluster.parent, *cluster.rglob("*"))}
    assert owners == {(999, 999)}
    found = await other.machine.driver.list_databases(other.machine)  # type: ignore[attr-defined]
    assert {database.name for database in found} == {"new", "shop"}
    again = await other.run("backup", backup(store))
    assert again.state == "done", again


async def test_the_next_life_of_the_agent_takes_a_backup_over(store: ObjectStore, bank: Host) -> None:
    store.gate.clear()
    op = await bank.start("backup", backup(store))
    await store.reached()
    first = docker("inspect", "-f", "{{.Id}}", f"backup-{op}")
    await bank.die()
    await bank.live(store.renew_with("PUT"))
    assert bank.work.running == [op]
    assert docker("inspect", "-f", "{{.Id}}", f"backup-{op}") == first
    store.gate.set()
    assert (await bank.ending(op)).state == "done"
    await bank.is_clean()
    assert await bank.slots() == []


async def test_a_grant_that_ran_out_is_replaced_while_the_backup_runs(store: ObjectStore, bank: Host) -> None:
    store.life = 4.0
    store.gate.clear()
    op = await bank.start("backup", backup(store))
    await store.reached()
    store.gate.set()
    assert (await bank.ending(op)).state == "done"
    store.life = -1.0
    args = backup(store)
    store.life = 60.0
    ending = await bank.run("backup", args)
    assert ending.state == "done", ending
    assert store.renewals[-1] not in {op, ""}


async def test_cancelled_nothing_of_it_stays(store: ObjectStore, bank: Host) -> None:
    store.gate.clear()
    op = await bank.start("backup", backup(store))
    await store.reached()
    assert len(await bank.slots()) == 1
    assert await bank.work.cancel(Cancel(op=op), 1) == Accepted()
    assert (await bank.ending(op)).state == "cancelled"
    await bank.is_clean()
    assert await bank.slots() == []


@pytest.mark.parametrize(
    ("command", "text"), [(("kill", "-s", "KILL"), "was killed"), (("rm", "-f"), "was removed")]
)
async def test_a_container_that_somebody_ends_is_told(
    store: ObjectStore, bank: Host, command: tuple[str, ...], text: str
) -> None:
    store.gate.clear()
    op = await bank.start("backup", backup(store))
    await store.reached()
    docker(*command, f"backup-{op}")
    ending = await bank.ending(op)
    assert (ending.state, ending.code, ending.text) == ("failed", "interrupted", f"the backup program {text}")
    await bank.is_clean()
    assert await bank.slots() == []


async def test_a_database_that_stops_meanwhile_ends_the_backup_and_forgets_it_later(
    store: ObjectStore, bank: Host
) -> None:
    store.gate.clear()
    op = await bank.start("backup", backup(store))
    await store.reached()
    assert (await bank.run("stop", {})).state == "done"
    store.gate.set()
    ending = await bank.ending(op)
    assert (ending.state, ending.code) == ("failed", "engine")
    await bank.is_clean()
    assert (await bank.run("start", {})).state == "done"
    assert await take_back(bank.machine, op)
    assert await bank.slots() == []


async def test_a_damaged_backup_leaves_nothing_to_start_on(store: ObjectStore, bank: Host, other: Host) -> None:
    args = backup(store)
    ending = await bank.run("backup", args)
    name = max(store.objects)
    whole = store.objects[name]
    store.objects[name] = whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:]
    failed = await other.run("restore", other.order(restore=restore(store, args, ending)))
    assert (failed.state, failed.code) == ("failed", "damaged")
    await other.is_clean()
    assert not (other.directory / "data/engine").exists()
    refused = await other.run("start", {})
    assert refused.code == "engine"
    store.objects[name] = whole
    again = await other.run("restore", other.order(restore=restore(store, args, ending)))
    assert again.state == "done", again
    assert await other.value(SUM) == await bank.value(SUM)


async def test_the_next_life_of_the_agent_takes_a_restore_over(store: ObjectStore, bank: Host, other: Host) -> None:
    args = backup(store)
    ending = await bank.run("backup", args)
    store.gate.clear()
    op = await other.start("restore", other.order(restore=restore(store, args, ending)))
    await store.reached()
    await other.die()
    store.gate.set()
    await other.live(store.renew_with("GET"))
    restored = await other.ending(op)
    assert restored.state == "done", restored
    assert await other.value(SUM) == await bank.value(SUM)
    await other.is_clean()
