"""kill -9 in the middle of backups and restores: done or undone in the end, with nothing left in store or machine."""

from __future__ import annotations

import os
import secrets
import signal

import pytest

from chaos.killing import Killer
from coffer_provisioner.plans import PLANS
from support.bank import STATIC, Bank
from support.stack import Api, Stack, address, eventually, run
from support.store import Store

pytestmark = pytest.mark.timeout(600)
FULL = os.environ.get("DEPTH", "short") == "full"
BACKUP = [step.__name__ for step in PLANS["create_backup"].steps]
RESTORE = [step.__name__ for step in PLANS["create_instance"].steps]
DELETE = [step.__name__ for step in PLANS["delete_backup"].steps]
CONTAINER = "database_backups"
PASSWORD = secrets.token_urlsafe(18)


class Vault:
    """An instance with something to back up, and the store that takes it."""

    def __init__(self, stack: Stack, api: Api) -> None:
        self.stack, self.api, self.store = stack, api, Store.of(stack)
        self.instance = api.create(
            "vault", databases=[{"name": "bank"}],
            users=[{"name": "teller", "password": PASSWORD, "databases": [{"name": "bank"}]}],
        )
        self.bank = Bank(address(api.until_ready(self.instance), "private"), "teller", PASSWORD, "bank")
        self.bank.make(rows=300_000)
        self.static = self.bank.value(STATIC)

    def backup(self) -> str:
        answer = self.api("POST", "/backups", {"backup": {"name": "b", "instance": self.instance}})
        return str(answer.must(202)["backup"]["id"])

    def ended(self, backup: str, *, within: float = 240) -> str:
        def look() -> str | None:
            status = str(self.api("GET", f"/backups/{backup}").must(200)["backup"]["status"])
            return status if status in {"COMPLETED", "FAILED"} else None

        status = eventually(look, within=within, what="the backup has ended")
        eventually(lambda: self.api.states(self.instance)[0] == "ACTIVE", within=90, what="the instance is free again")
        return status

    def objects(self, backup: str) -> list[str]:
        return self.store.names("demo", CONTAINER, f"{self.instance}/{backup}/")

    def is_cleared(self, backup: str) -> None:
        eventually(lambda: not self.objects(backup), within=120, what="nothing of it is left in the store")

    def restored_equal(self, backup: str) -> None:
        made = self.api.create("again", restorePoint={"backupRef": backup})
        again = Bank(address(self.api.until_ready(made, within=300), "private"), "teller", PASSWORD, "bank")
        assert again.value(STATIC) == self.static
        self.api.delete(made)
        assert self.stack.leftovers(made, shared=False) == []

    def is_clean(self) -> None:
        """In the machine: no container, no job, no slot of a backup."""
        found = self.stack.inside(
            self.instance, "sh", "-c",
            "docker ps -aq --filter label=coffer.role=backup; ls /run/coffer/jobs 2>/dev/null; "
            "docker exec database psql -XAtqU postgres -c 'SELECT slot_name FROM pg_replication_slots'; true",
        )
        assert found.split() == []

    def forget(self, backup: str, *, wait: bool = FULL) -> None:
        """A backup this young is gone only when no upload to it can still go on, which takes most of a minute."""
        self.api("DELETE", f"/backups/{backup}").must(202)
        if wait:
            eventually(lambda: self.api("GET", f"/backups/{backup}").status == 404, within=120, what="it is deleted")
            assert self.objects(backup) == []


@pytest.fixture(scope="module")
def vault(stack: Stack, api: Api):
    made = Vault(stack, api)
    yield made
    api.delete(made.instance)


@pytest.mark.parametrize("step", BACKUP[1:] if FULL else ["back_up"])
def test_a_provisioner_is_killed_in_a_backup(vault: Vault, stack: Stack, step):
    killer = Killer(stack, step)
    made = vault.backup()
    assert vault.ended(made) == "COMPLETED"
    assert killer.killed, f"the backup never entered {step}"
    killer.close()
    vault.is_clean()
    if FULL:
        vault.restored_equal(made)
    vault.forget(made)


@pytest.mark.parametrize("step", DELETE[1:] if FULL else [])
def test_a_provisioner_is_killed_in_a_deletion(vault: Vault, stack: Stack, step):
    made = vault.backup()
    assert vault.ended(made) == "COMPLETED"
    killer = Killer(stack, step)
    vault.forget(made, wait=True)
    assert killer.killed, f"the deletion never entered {step}"
    killer.close()


@pytest.mark.parametrize("step", RESTORE[1:] if FULL else [])
def test_a_provisioner_is_killed_in_a_restore(vault: Vault, stack: Stack, step):
    made = vault.backup()
    assert vault.ended(made) == "COMPLETED"
    killer = Killer(stack, step)
    vault.restored_equal(made)
    assert killer.killed, f"the restore never entered {step}"
    killer.close()
    vault.forget(made)


def test_the_agent_is_killed_and_takes_its_backup_up_again(vault: Vault, stack: Stack):
    with vault.store.paused_for_guests():
        made = vault.backup()
        container = running(stack, vault.instance)
        stack.inside(vault.instance, "pkill", "-KILL", "-f", "coffer-guest")
        eventually(
            lambda: stack.inside(vault.instance, "pgrep", "-f", "coffer-guest", check=False), within=30,
            what="another agent runs",
        )
    assert vault.ended(made) == "COMPLETED"
    assert container not in stack.inside(vault.instance, "docker", "ps", "-aq")
    vault.is_clean()
    vault.forget(made)


@pytest.mark.skipif(not FULL, reason="at full depth only, for its time")
def test_the_backup_container_is_killed(vault: Vault, stack: Stack):
    with vault.store.paused_for_guests():
        made = vault.backup()
        container = running(stack, vault.instance)
        stack.inside(vault.instance, "docker", "kill", "-s", "KILL", container)
    assert vault.ended(made) == "FAILED"
    vault.is_cleared(made)
    vault.is_clean()
    again = vault.backup()
    assert vault.ended(again) == "COMPLETED", "the next one is not in its way"
    vault.forget(again)
    vault.forget(made)


def test_the_store_is_killed_while_a_backup_is_written(vault: Vault, stack: Stack):
    with vault.store.paused_for_guests():
        made = vault.backup()
        running(stack, vault.instance)
        vault.store.kill()
    assert vault.ended(made) == "COMPLETED"
    vault.is_clean()
    vault.restored_equal(made)
    vault.forget(made)


@pytest.mark.skipif(not FULL, reason="at full depth only, for its time")
@pytest.mark.parametrize("whom", ["store", "agent", "container"])
def test_somebody_is_killed_in_the_middle_of_a_restore(vault: Vault, stack: Stack, api: Api, whom):
    made = vault.backup()
    assert vault.ended(made) == "COMPLETED"
    with vault.store.paused_for_guests("prepare_guest"):
        restored = api.create("again", restorePoint={"backupRef": made})
        container = running(stack, restored, "restore")
        if whom == "store":
            vault.store.kill()
        elif whom == "agent":
            stack.inside(restored, "pkill", "-KILL", "-f", "coffer-guest")
        else:
            stack.inside(restored, "docker", "kill", "-s", "KILL", container)
    if whom == "container":
        eventually(lambda: api.instance(restored)["status"] == "ERROR", within=120, what="the restore has failed")
        api.delete(restored)
        assert stack.leftovers(restored, shared=False) == []
    else:
        again = Bank(address(api.until_ready(restored, within=300), "private"), "teller", PASSWORD, "bank")
        assert again.value(STATIC) == vault.static
        api.delete(restored)
    vault.forget(made)


@pytest.mark.skipif(not FULL, reason="at full depth only, for its time")
def test_the_machine_dies_under_a_backup(vault: Vault, stack: Stack):
    """The backup fails soon, nothing of it stays, and the instance comes back by itself."""
    with vault.store.paused_for_guests():
        made = vault.backup()
        running(stack, vault.instance)
        pid = run("docker", "inspect", "-f", "{{.State.Pid}}", stack.machine(vault.instance)).strip()
        os.kill(int(pid), signal.SIGKILL)
    assert vault.ended(made) == "FAILED"
    vault.is_cleared(made)
    vault.api.until_ready(vault.instance)
    eventually(lambda: vault.is_clean() is None, within=60, what="nothing of it is left in the machine")
    assert vault.bank.value(STATIC) == vault.static
    vault.forget(made)


def running(stack: Stack, instance: str, role: str = "backup") -> str:
    """The container, once it runs."""

    def look() -> str:
        of = ("--filter", f"label=coffer.instance={instance}", "--filter", "label=coffer.kind=machine")
        if not run("docker", "ps", "-q", "--filter", f"label=coffer.stack={stack.name}", *of).strip():
            return ""
        filters = ("--filter", f"label=coffer.role={role}")
        return stack.inside(instance, "docker", "ps", "-q", *filters, check=False).strip()

    return str(eventually(look, within=90, what=f"the {role} container runs"))
