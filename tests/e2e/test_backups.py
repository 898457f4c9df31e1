"""Backup under a writer, restore after everything else is gone, and what a guest's leave to store opens."""

from __future__ import annotations

import json
import re
import secrets
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.bank import STATIC, Bank
from support.stack import Api, Stack, address, eventually
from support.store import Store

pytestmark = pytest.mark.timeout(420)
PASSWORD = secrets.token_urlsafe(18)


@dataclass(frozen=True, slots=True)
class Kept:
    """A backup of a bank, taken while it was written to, and what the bank said before and after."""

    instance: str
    backup: dict
    before: int
    after: int
    ledger: list[str]
    static: str
    made_meanwhile: str


def backup(api: Api, instance: str, name: str, **more) -> str:
    answer = api("POST", "/backups", {"backup": {"name": name, "instance": instance, **more}})
    return str(answer.must(202)["backup"]["id"])


def ended(api: Api, wanted: str, *, within: float = 180) -> dict:
    def look() -> dict | None:
        shown = api("GET", f"/backups/{wanted}").must(200)["backup"]
        return shown if shown["status"] in {"COMPLETED", "FAILED"} else None

    return eventually(look, within=within, what=f"backup {wanted} has ended")


def new_bank(api: Api, name: str, **more) -> tuple[str, Bank]:
    made = api.create(
        name, databases=[{"name": "bank"}],
        users=[{"name": "teller", "password": PASSWORD, "databases": [{"name": "bank"}]}], **more,
    )
    return made, Bank(address(api.until_ready(made), "private"), "teller", PASSWORD, "bank")


@pytest.fixture(scope="module")
def store(stack: Stack) -> Store:
    return Store.of(stack)


@pytest.fixture(scope="module")
def kept(stack: Stack, api: Api) -> Iterator[Kept]:
    instance, bank = new_bank(api, "bank")
    bank.make(rows=400_000)
    static = bank.value(STATIC)
    bank.start_writing(seconds=240)
    before = bank.last()
    made = backup(api, instance, "first", description="under a writer")
    seen = eventually(lambda: api.states(instance)[0] == "BACKUP", within=20, what="the instance shows the backup")
    assert seen
    assert api("POST", "/backups", {"backup": {"name": "second", "instance": instance}}).status == 422
    assert api("POST", f"/instances/{instance}/action", {"restart": {}}).status == 422
    meanwhile = api("POST", f"/instances/{instance}/databases", {"databases": [{"name": "meanwhile"}]})
    shown = ended(api, made)
    after = bank.last()
    bank.stop_writing()
    assert shown["status"] == "COMPLETED", shown
    ledger = bank.ledger()
    yield Kept(instance, shown, before, after, ledger, static, meanwhile.headers["x-coffer-operation"])
    api("DELETE", f"/backups/{made}")


def test_a_user_made_while_the_backup_runs_does_not_wait_for_it(api, kept):
    """Filed after the backup and ended before it."""
    operations = api("GET", f"/instances/{kept.instance}/operations").must(200)["operations"]
    made = next(o for o in operations if o["id"] == kept.made_meanwhile)
    ran = next(o for o in operations if o["kind"] == "create_backup")
    assert made["state"] == "succeeded"
    assert ran["created"] <= made["created"]
    assert made["finished"] <= ran["finished"]


def test_what_is_shown_of_a_backup(stack: Stack, api, other, kept):
    shown = kept.backup
    assert shown["instance_id"] == kept.instance
    assert shown["datastore"]["type"] == "postgresql"
    assert shown["description"] == "under a writer"
    assert shown["size"] > 0.03
    assert shown["locationRef"].endswith(f"/{kept.instance}/{shown['id']}/manifest.json")
    assert [b["id"] for b in api("GET", f"/instances/{kept.instance}/backups").must(200)["backups"]] == [shown["id"]]
    assert shown["id"] in {b["id"] for b in api("GET", "/backups?datastore=postgresql").must(200)["backups"]}
    assert other("GET", f"/backups/{shown['id']}").status == 404
    assert other("DELETE", f"/backups/{shown['id']}").status == 404
    assert other("GET", "/backups").must(200)["backups"] == []
    row = stack.sql(f"SELECT raw_bytes > stored_bytes, segments, position FROM backups WHERE id = '{shown['id']}'")
    assert row.startswith("t|")
    assert "end_lsn" in row


def test_the_store_holds_sealed_segments_and_a_manifest_and_nothing_else(store: Store, kept):
    names = store.names("demo", "database_backups", f"{kept.instance}/{kept.backup['id']}/")
    manifest = json.loads(store.read("demo", "database_backups", names[0]).splitlines()[0])
    assert names[0].endswith("/manifest.json")
    assert [name.rpartition("/segments/")[2] for name in names[1:]] == [f"{n:08d}" for n in range(len(names) - 1)]
    assert [s["name"] for s in manifest["segments"]] == [n.split("/", 2)[2] for n in names[1:]]
    for name in names:
        stored = store.read("demo", "database_backups", name)
        assert b"PG_VERSION" not in stored
        assert b"\x28\xb5\x2f\xfd" not in stored[:64], "a compressed stream in the clear"


def test_no_trace_is_left_on_the_source(stack: Stack, kept):
    """Neither container nor key nor slot, and the way to the store is closed again."""
    assert stack.inside(kept.instance, "docker", "ps", "-aq", "--filter", "label=coffer.role=backup").strip() == ""
    assert stack.inside(kept.instance, "sh", "-c", "ls /run/coffer/jobs 2>/dev/null || true").strip() == ""
    slots = stack.inside(
        kept.instance, "docker", "exec", "database", "psql", "-XAtqU", "postgres", "-c",
        "SELECT count(*) FROM pg_replication_slots",
    )
    assert slots.strip() == "0"
    probe = "import os, socket; os.setgid(998); os.setuid(999); socket.create_connection(('swift.coffer', 8080), 3)"
    said = stack.inside(kept.instance, "sh", "-c", 'python3 -c "$0" 2>&1 || true', probe)
    assert "Traceback" in said, "the way to the store is open though no backup runs"


def test_restored_after_the_instance_and_its_machine_are_gone(stack: Stack, api, kept):
    api.delete(kept.instance)
    assert stack.leftovers(kept.instance, shared=False) == []
    assert api("GET", f"/backups/{kept.backup['id']}").must(200)["backup"]["status"] == "COMPLETED"
    made = api.create("restored", restorePoint={"backupRef": kept.backup["id"]}, databases=[{"name": "fresh"}])
    assert api("DELETE", f"/backups/{kept.backup['id']}").status == 422, "it is being restored from"
    bank = Bank(address(api.until_ready(made), "private"), "teller", PASSWORD, "bank")
    ledger = bank.ledger()
    assert kept.before <= len(ledger) <= kept.after
    assert ledger == kept.ledger[: len(ledger)], "the ledger up to the last transfer of the copy"
    assert bank.wrong_accounts() == 0
    assert bank.value("SELECT sum(balance) FROM account") == "1000000"
    assert bank.value(STATIC) == kept.static
    bank.value("SELECT transfer(1, 2, 3)")
    assert bank.last() > len(ledger)
    names = {d["name"] for d in api("GET", f"/instances/{made}/databases").must(200)["databases"]}
    assert {"bank", "fresh"} <= names
    assert stack.inside(made, "sh", "-c", "ls -d /data/restoring 2>/dev/null || true").strip() == ""
    api.delete(made)


def test_refusals_of_a_restore(api, kept):
    def create(**more) -> int:
        wanted = {"name": "no", "flavorRef": "1", "volume": {"size": 1}, **more}
        return api("POST", "/instances", {"instance": wanted}).status

    assert create(restorePoint={"backupRef": "2f3a1f0c-0000-4000-8000-000000000000"}) == 404
    assert create(restorePoint={"backupRef": kept.backup["id"]}, datastore={"type": "nosuch"}) in {400, 404}
    assert create(restorePoint={}) == 400


def test_a_changed_segment_is_refused_and_named(store: Store, api, kept):
    name = f"{kept.instance}/{kept.backup['id']}/segments/00000000"
    whole = store.read("demo", "database_backups", name)
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    store.write("demo", "database_backups", name, bytes(damaged))
    try:
        made = api.create("damaged", restorePoint={"backupRef": kept.backup["id"]})
        eventually(lambda: api.instance(made)["status"] == "ERROR", within=60, what="the restore is refused")
        assert "segments/00000000" in api.instance(made)["fault"]["message"]
        api.delete(made)
    finally:
        store.write("demo", "database_backups", name, whole)


def test_what_a_guests_grant_opens(stack: Stack, store: Store, api):
    """The grant of a running backup, taken from its machine: it puts under its own prefix and does nothing else."""
    instance, bank = new_bank(api, "grant")
    bank.make(rows=10_000)
    earlier = ended(api, backup(api, instance, "earlier"))["id"]
    with store.paused_for_guests():
        made = backup(api, instance, "running")
        grant = json.loads(eventually(
            lambda: stack.inside(instance, "sh", "-c", "cat /run/coffer/jobs/*/grant.json", check=False),
            within=40, what="the backup has its grant",
        ))
    assert grant["url"].endswith(f"/{instance}/{made}/")
    port = store.endpoint.rpartition(":")[2]
    own = re.sub(r"//[^/]+/", f"//127.0.0.1:{port}/", grant["url"])
    before = own.replace(made, earlier)

    def ask(method: str, url: str, data: bytes | None = None) -> int:
        request = urllib.request.Request(f"{url}?{grant['query']}", method=method, data=data)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert ask("GET", f"{own}manifest.json") in {401, 404}
    assert ask("DELETE", f"{own}segments/00000000") in {401, 405}
    for method, data in (("GET", None), ("PUT", b"x"), ("DELETE", None), ("POST", b"")):
        assert ask(method, f"{before}manifest.json", data) in {401, 405}, method
        assert ask(method, f"{before}segments/00000000", data) in {401, 405}, method
    final = ended(api, made)
    assert final["status"] == "COMPLETED", final
    assert ask("PUT", f"{own}segments/00000000", b"x") == 401, "a finished backup is not writable any more"
    for each in (earlier, made):
        api("DELETE", f"/backups/{each}").must(202)
    api.delete(instance)


def test_deleting_takes_the_objects_and_the_key(stack: Stack, store: Store, api):
    instance, _ = new_bank(api, "short-lived")
    strategy = {"swift_container": "mine", "instance_id": instance}
    api("POST", "/backup_strategies", {"backup_strategy": strategy}).must(202)
    made = backup(api, instance, "gone-soon")
    assert ended(api, made)["status"] == "COMPLETED"
    assert len(store.names("demo", "mine", f"{instance}/{made}/")) >= 2
    api.delete(instance)
    api("DELETE", f"/backups/{made}").must(202)
    eventually(lambda: api("GET", f"/backups/{made}").status == 404, within=60, what="the backup is gone")
    assert store.names("demo", "mine", f"{instance}/{made}/") == []
    assert stack.sql(f"SELECT state, data_key IS NULL FROM backups WHERE id = '{made}'") == "DELETED|t"


def test_the_tenant_reads_its_own_container_and_no_other_project_does(store: Store, kept):
    name = f"{kept.instance}/{kept.backup['id']}/manifest.json"
    assert store.as_tenant("demo", "database_backups", name) == 200
    assert store.as_tenant("other", "database_backups", name, account="demo") in {401, 403}
