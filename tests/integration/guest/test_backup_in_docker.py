"""`backup` and `restore` with a real engine, the real backup image, a real Docker; volume and firewall are missing."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest

from coffer_datastores import specs
from coffer_guest.leftovers import take_back
from coffer_shared.backups import BackedUp, BackUp, RestoreFrom
from coffer_shared.datastore import Feature
from coffer_shared.messages import Accepted, Cancel, Finished
from integration.guest.disk_host import GIB, DiskHost, sh
from integration.guest.host import USERS, Host, docker
from integration.guest.object_store import ObjectStore
from support.engines import CLIENTS

pytestmark = pytest.mark.docker

KEY = secrets.token_hex(32)
ALL = sorted(name for name, spec in specs().items() if Feature.BACKUP in spec.features)
WITH = ALL if os.environ.get("DEPTH", "short") == "full" else ["postgresql"]
"""The others' backups are made and restored in the contract suite and end to end at any depth."""


@pytest.fixture
async def store() -> AsyncIterator[ObjectStore]:
    made = ObjectStore()
    await made.start()
    yield made
    await made.close()


def machine(datastore: str) -> Host:
    """With a disk where a backup is of a copy of the files, which share what they have."""
    if not CLIENTS[datastore].reads_copy:
        return Host(datastore)
    made = DiskHost(datastore)
    sh("truncate", "-s", str(2 * GIB), str(made.disk))
    return made


@pytest.fixture(scope="module", params=WITH)
def prepared(request: pytest.FixtureRequest, disk_programs: None) -> Iterator[Host]:
    """A database of each kind with something in it, and no agent."""
    del disk_programs
    made = machine(request.param)

    async def prepare() -> None:
        await made.live(ObjectStore().renew_with("PUT"))
        ending = await made.run("prepare", made.order(databases=[{"name": "shop"}], users=USERS))
        assert ending.state == "done", ending
        rows = made.client.numbers(50000)
        word = made.client.digest("concat(n, 'x')")
        await made.value(f"CREATE TABLE t AS SELECT n, {word} AS word FROM ({rows}) numbers")
        await made.die()

    try:
        asyncio.run(prepare())
        yield made
    finally:
        asyncio.run(made.remove())


@pytest.fixture
async def bank(store: ObjectStore, prepared: Host) -> AsyncIterator[Host]:
    await prepared.live(store.renew_with("PUT"))
    yield prepared
    await prepared.die()


@pytest.fixture
async def other(store: ObjectStore, prepared: Host) -> AsyncIterator[Host]:
    """A machine without a database, for one of that kind."""
    made = machine(prepared.spec.name)
    await made.live(store.renew_with("GET"))
    yield made
    await made.die()
    await made.remove()


def backup(store: ObjectStore, host: Host) -> dict[str, Any]:
    image, grant = host.backup_image, store.grant("PUT")
    args: dict[str, Any] = msgspec.to_builtins(
        BackUp(backup=str(uuid.uuid4()), image=image, key=KEY, grant=grant, segment_bytes=512 * 1024)
    )
    return args


def restore(store: ObjectStore, host: Host, made: dict[str, Any], ending: Finished) -> dict[str, Any]:
    told = msgspec.convert(ending.result, BackedUp)
    order = RestoreFrom(made["backup"], host.backup_image, KEY, store.grant("GET"), told.manifest_sha256)
    args: dict[str, Any] = msgspec.to_builtins(order)
    return args


SUM = "SELECT concat(count(*), max(word), min(word), sum(n), count(DISTINCT word)) FROM t"


async def test_what_was_backed_up_is_restored_on_another_machine(store: ObjectStore, bank: Host, other: Host) -> None:
    args, before = backup(store, bank), await bank.value(SUM)
    ending = await bank.run("backup", args)
    assert ending.state == "done", ending
    told = msgspec.convert(ending.result, BackedUp)
    assert told.segments == len(store.objects) - 1 > 3
    assert told.raw_bytes > told.stored_bytes > 1_000_000
    await bank.is_clean()
    assert await bank.held() == []
    await bank.value("INSERT INTO t VALUES (0, 'later')")

    order = other.order(restore=restore(store, other, args, ending), databases=[{"name": "new"}])
    ending = await other.run("restore", order)
    assert ending.state == "done", ending
    assert await other.value(SUM) == before
    await other.is_clean()
    data = other.directory / "data/engine"
    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in (data, *data.rglob("*"))}
    assert owners == {(999, 999)}
    found = await other.machine.driver.list_databases(other.machine)  # type: ignore[attr-defined]
    assert {database.name for database in found} == {"new", "shop"}
    again = await other.run("backup", backup(store, other))
    assert again.state == "done", again


ACCOUNTS = 100
LEDGER = "SELECT sum(seq * 10007 + debit * 101 + credit * 11 + amount) FROM ledger WHERE seq <= {}"
WRONG = """
SELECT count(*) FROM account a LEFT JOIN (
    SELECT id, sum(d) AS d FROM (
        SELECT debit AS id, -amount AS d FROM ledger UNION ALL SELECT credit, amount FROM ledger
    ) x GROUP BY id
) y ON a.id = y.id WHERE a.balance <> 1000 + coalesce(y.d, 0)
"""


async def test_a_backup_under_a_writer_is_the_database_at_one_moment(
    store: ObjectStore, bank: Host, other: Host
) -> None:
    """One writer moves money and numbers what it did, a transaction each: what is restored is the bank after some
    number that was committed while the backup ran."""
    async with bank.tenant() as tenant:
        await tenant.execute("CREATE TABLE account (id int PRIMARY KEY, balance bigint NOT NULL)")
        await tenant.execute("CREATE TABLE ledger (seq int PRIMARY KEY, debit int, credit int, amount int)")
        rows = bank.client.numbers(ACCOUNTS)
        await tenant.execute(f"INSERT INTO account SELECT n, 1000 FROM ({rows}) numbers")
    written, stop = 0, asyncio.Event()

    async def write() -> None:
        nonlocal written
        async with bank.tenant() as tenant:
            while not stop.is_set():
                debit, credit = random.sample(range(1, ACCOUNTS + 1), 2)
                amount = random.randint(1, 50)
                await tenant.execute("START TRANSACTION")
                await tenant.execute(f"UPDATE account SET balance = balance - {amount} WHERE id = {debit}")
                await tenant.execute(f"UPDATE account SET balance = balance + {amount} WHERE id = {credit}")
                await tenant.execute(f"INSERT INTO ledger VALUES ({written + 1}, {debit}, {credit}, {amount})")
                await tenant.execute("COMMIT")
                written += 1

    writer = asyncio.create_task(write())
    async with asyncio.timeout(20):
        while written < 20:
            await asyncio.sleep(0.01)
    before, args = written, backup(store, bank)
    ending = await bank.run("backup", args)
    after = written
    assert ending.state == "done", ending
    assert after > before + 20, "it wrote meanwhile"
    await asyncio.sleep(0.2)
    stop.set()
    await writer

    restored = await other.run("restore", other.order(restore=restore(store, other, args, ending)))
    assert restored.state == "done", restored
    last = await other.value("SELECT max(seq) FROM ledger")
    assert before <= last <= after + 1
    assert await other.value("SELECT count(*) FROM ledger") == last
    assert await other.value(LEDGER.format(last)) == await bank.value(LEDGER.format(last))
    assert await other.value("SELECT sum(balance) FROM account") == ACCOUNTS * 1000
    assert await other.value(WRONG) == 0
    assert await other.value(SUM) == await bank.value(SUM)


async def test_the_next_life_of_the_agent_takes_a_backup_over(store: ObjectStore, bank: Host) -> None:
    store.gate.clear()
    op = await bank.start("backup", backup(store, bank))
    await store.reached()
    first = docker("inspect", "-f", "{{.Id}}", f"backup-{op}")
    await bank.die()
    await bank.live(store.renew_with("PUT"))
    assert bank.work.running == [op]
    assert docker("inspect", "-f", "{{.Id}}", f"backup-{op}") == first
    store.gate.set()
    assert (await bank.ending(op)).state == "done"
    await bank.is_clean()
    assert await bank.held() == []


async def test_a_grant_that_ran_out_is_replaced_while_the_backup_runs(store: ObjectStore, bank: Host) -> None:
    store.life = 4.0
    store.gate.clear()
    op = await bank.start("backup", backup(store, bank))
    await store.reached()
    store.gate.set()
    assert (await bank.ending(op)).state == "done"
    store.life = -1.0
    args = backup(store, bank)
    store.life = 60.0
    ending = await bank.run("backup", args)
    assert ending.state == "done", ending
    assert store.renewals[-1] not in {op, ""}


async def test_cancelled_nothing_of_it_stays(store: ObjectStore, bank: Host) -> None:
    store.gate.clear()
    op = await bank.start("backup", backup(store, bank))
    await store.reached()
    assert await bank.held()
    assert await bank.work.cancel(Cancel(op=op), 1) == Accepted()
    assert (await bank.ending(op)).state == "cancelled"
    await bank.is_clean()
    assert await bank.held() == []


@pytest.mark.parametrize(
    ("command", "text"), [(("kill", "-s", "KILL"), "was killed"), (("rm", "-f"), "was removed")]
)
async def test_a_container_that_somebody_ends_is_told(
    store: ObjectStore, bank: Host, command: tuple[str, ...], text: str
) -> None:
    store.gate.clear()
    op = await bank.start("backup", backup(store, bank))
    await store.reached()
    docker(*command, f"backup-{op}")
    ending = await bank.ending(op)
    assert (ending.state, ending.code, ending.text) == ("failed", "interrupted", f"the backup program {text}")
    await bank.is_clean()
    assert await bank.held() == []


async def test_a_database_that_stops_meanwhile_ends_a_backup_of_what_it_tells_and_forgets_it_later(
    store: ObjectStore, bank: Host
) -> None:
    store.gate.clear()
    op = await bank.start("backup", backup(store, bank))
    await store.reached()
    assert (await bank.run("stop", {})).state == "done"
    store.gate.set()
    ending = await bank.ending(op)
    if bank.client.reads_copy:
        assert ending.state == "done", "it is of a copy"
    else:
        assert (ending.state, ending.code) == ("failed", "engine")
    await bank.is_clean()
    assert (await bank.run("start", {})).state == "done"
    assert await take_back(bank.machine, op)
    assert await bank.held() == []


async def test_a_damaged_backup_leaves_nothing_to_start_on(store: ObjectStore, bank: Host, other: Host) -> None:
    args = backup(store, bank)
    ending = await bank.run("backup", args)
    name = max(store.objects)
    whole = store.objects[name]
    store.objects[name] = whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:]
    failed = await other.run("restore", other.order(restore=restore(store, other, args, ending)))
    assert (failed.state, failed.code) == ("failed", "damaged")
    await other.is_clean()
    assert not (other.directory / "data/engine").exists()
    refused = await other.run("start", {})
    assert refused.code == "engine"
    store.objects[name] = whole
    again = await other.run("restore", other.order(restore=restore(store, other, args, ending)))
    assert again.state == "done", again
    assert await other.value(SUM) == await bank.value(SUM)


async def test_the_next_life_of_the_agent_takes_a_restore_over(store: ObjectStore, bank: Host, other: Host) -> None:
    args = backup(store, bank)
    ending = await bank.run("backup", args)
    store.gate.clear()
    op = await other.start("restore", other.order(restore=restore(store, other, args, ending)))
    await store.reached()
    await other.die()
    store.gate.set()
    await other.live(store.renew_with("GET"))
    restored = await other.ending(op)
    assert restored.state == "done", restored
    assert await other.value(SUM) == await bank.value(SUM)
    await other.is_clean()
