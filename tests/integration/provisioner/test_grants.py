"""Renewing a storage grant, as a guest asks for it over NATS: who gets which, and everybody who gets none."""

from __future__ import annotations

import asyncio
import time

import pytest
from sqlalchemy import text

from coffer_db.backup_tables import BackupState
from coffer_db.tables import OperationState
from coffer_provisioner.backup_grants import BackupGrants
from coffer_provisioner.backup_store import READ_SECONDS, WRITE_SECONDS
from coffer_shared import subjects
from coffer_shared.errors import GuestSilent
from coffer_shared.messages import Denied, Granted, RenewGrant, encode
from coffer_shared.seal import Kind
from integration.provisioner.actors import MASTER, execute, new_keys

NOBODY = "66666666-6666-4666-8666-666666666666"
FORWARD = (OperationState.PENDING, OperationState.RUNNING, OperationState.WAITING)


async def maker(db, backup):
    async with db.connect() as connection:
        found = await connection.execute(text("SELECT operation_id FROM backups WHERE id = :b"), {"b": backup})
        return found.scalar_one()


async def grant_until(backups, backup):
    until = (await backups.backup(backup))["grant_until"]
    return until and until.timestamp()


@pytest.fixture
async def making(db, instance, enrolled_guest, make_backup, backups, storage):
    """A guest whose backup is being made; it asks with `ask(operation)`."""
    guest = await enrolled_guest(instance)
    guest.backup = await make_backup(instance, state="BUILDING")
    guest.op = await maker(db, guest.backup)
    await storage.ensure_container(await backups.container(await backups.backup(guest.backup)))
    return guest


@pytest.fixture
async def restoring(db, make_instance, enrolled_guest, make_backup, backups, storage, file):
    """A guest whose instance is being made from another one's backup."""
    source = await make_instance()
    guest = await enrolled_guest(await make_instance())
    guest.backup = await make_backup(source, state="COMPLETED")
    guest.op = await file(guest.instance, "create_instance", args={"restore": guest.backup})
    await storage.ensure_container(await backups.container(await backups.backup(guest.backup)))
    return guest


async def asked(guest, operation=None):
    return await guest.ask(RenewGrant(op=operation or guest.op))


async def denied(guest, operation=None):
    answer = await asked(guest, operation)
    assert isinstance(answer, Denied)
    assert "66666666" not in answer.text
    return answer.code


# --- to write ---


@pytest.mark.parametrize("state", FORWARD)
async def test_the_guest_of_a_backup_in_the_making_may_go_on_writing(db, making, backups, storage, state):
    await execute(db, "UPDATE operations SET state = :s, guest_state = 'accepted'", s=state.value)
    answer = await asked(making)
    assert isinstance(answer, Granted)
    assert answer.grant.method == "PUT"
    assert answer.grant.url.endswith(f"/database_backups/{making.instance}/{making.backup}/")
    assert answer.grant.expires_at == pytest.approx(time.time() + WRITE_SECONDS, abs=5)
    assert await grant_until(backups, making.backup) >= answer.grant.expires_at
    storage.put(answer.grant, "00000000", b"sealed")
    with pytest.raises(PermissionError):
        storage.get(answer.grant, "00000000")


async def test_each_renewal_ends_later_and_is_noted(making, backups):
    ends = []
    for _ in range(3):
        answer = await asked(making)
        ends.append(await grant_until(backups, making.backup))
        assert ends[-1] >= answer.grant.expires_at
        await asyncio.sleep(0.01)
    assert ends == sorted(set(ends))


@pytest.mark.parametrize("state", [s for s in OperationState if s not in FORWARD])
async def test_no_more_once_the_operation_does_not_go_forward(db, making, backups, state):
    await execute(db, "UPDATE operations SET state = :s", s=state.value)
    assert await denied(making) == "forbidden"
    assert await grant_until(backups, making.backup) is None


async def test_no_more_once_it_is_to_be_cancelled(db, making, backups):
    await execute(db, "UPDATE operations SET cancel_requested = true")
    assert await denied(making) == "forbidden"
    assert await grant_until(backups, making.backup) is None


@pytest.mark.parametrize("word", ["done", "failed", "cancelled"])
async def test_no_more_after_its_own_last_word(db, making, backups, word):
    await execute(db, "UPDATE operations SET guest_state = :w", w=word)
    assert await denied(making) == "forbidden"
    assert await grant_until(backups, making.backup) is None


@pytest.mark.parametrize("state", [s for s in BackupState if s is not BackupState.BUILDING])
async def test_no_more_once_the_backup_is_closed(db, making, state):
    await execute(db, "UPDATE backups SET state = :s", s=state.value)
    assert await denied(making) == "forbidden"


async def test_nobody_elses(db, making, make_instance, enrolled_guest, backups):
    other = await enrolled_guest(await make_instance())
    assert await denied(other, making.op) == "forbidden"
    assert await denied(making, NOBODY) == "forbidden"
    assert await grant_until(backups, making.backup) is None


async def test_who_is_not_the_guest_is_met_with_silence(making, make_instance, provisioner):
    """Its operation's id alone is worth nothing."""
    with pytest.raises(GuestSilent):
        await making.ask(RenewGrant(op=making.op), keys=new_keys()[0], within=0.3)
    subject, reply = subjects.request(await make_instance()), f"{subjects.guest_inbox(making.instance)}.a"
    sealed = making.peer().seal(Kind.REQUEST, subject, encode(RenewGrant(op=making.op)), reply)
    assert await provisioner.requests.on_request(subject, sealed, reply) is None
    assert sum(provisioner.requests.refused.values()) == 2


async def test_a_revoked_guest_is_met_with_silence(making, records, provisioner):
    await records.revoke_guest(making.instance, "delete_instance")
    subject, reply = subjects.request(making.instance), f"{subjects.guest_inbox(making.instance)}.a"
    sealed = making.peer().seal(Kind.REQUEST, subject, encode(RenewGrant(op=making.op)), reply)
    assert await provisioner.requests.on_request(subject, sealed, reply) is None


@pytest.mark.parametrize("bad", ["", "x", "*", NOBODY.upper(), NOBODY + "\0", "a" * 100_000, "' OR true --"])
async def test_what_is_no_operation(making, bad):
    assert await denied(making, bad or " ") == "forbidden"


@pytest.mark.parametrize("kind", [
    "create_users", "restart_instance", "delete_instance", "delete_backup", "recover_instance", "create_instance",
])
async def test_an_operation_that_needs_no_grant(db, making, backups, kind):
    await execute(db, "UPDATE operations SET kind = :k", k=kind)
    assert await denied(making) == "forbidden"
    assert await grant_until(backups, making.backup) is None


async def test_an_operation_that_does_not_make_the_backup_that_it_names(db, making, make_instance, make_backup):
    """As if its arguments were forged."""
    other = await make_backup(await make_instance(), state="BUILDING")
    await execute(db, "UPDATE operations SET args = jsonb_build_object('backup', CAST(:b AS text)) WHERE id = :o",
                  b=other, o=making.op)
    assert await denied(making) == "forbidden"


# --- to read ---


@pytest.mark.parametrize("state", FORWARD)
async def test_the_guest_of_an_instance_that_is_restored_may_go_on_reading(db, restoring, backups, storage, state):
    await execute(db, "UPDATE operations SET state = :s WHERE id = :o", s=state.value, o=restoring.op)
    answer = await asked(restoring)
    assert isinstance(answer, Granted)
    assert answer.grant.method == "GET"
    assert answer.grant.expires_at == pytest.approx(time.time() + READ_SECONDS, abs=5)
    assert storage.get(answer.grant, "00000000") is None
    with pytest.raises(PermissionError):
        storage.put(answer.grant, "00000000", b"sealed")
    assert await grant_until(backups, restoring.backup) is None


@pytest.mark.parametrize("how", [
    "state = 'undoing'", "state = 'failed'", "state = 'succeeded'", "state = 'cancelled'", "cancel_requested = true",
    "guest_state = 'done'", "kind = 'restart_instance'", "args = '{}'",
])
async def test_no_reading_when_nothing_is_being_restored(db, restoring, how):
    await execute(db, f"UPDATE operations SET {how} WHERE id = :o", o=restoring.op)
    assert await denied(restoring) == "forbidden"


@pytest.mark.parametrize("how", ["state = 'DELETING'", "state = 'FAILED'", "state = 'DELETED'", "project_id = 'other'"])
async def test_no_reading_of_what_cannot_be_restored_here(db, restoring, how):
    await execute(db, f"UPDATE backups SET {how}")
    assert await denied(restoring) == "forbidden"


async def test_no_reading_for_another_guest(restoring, making):
    assert await denied(making, restoring.op) == "forbidden"


# --- when something is amiss here ---


async def test_without_the_object_store_it_says_so(db, making, backups):
    answer = await BackupGrants(backups, {}).renew(making.instance, making.op)
    assert answer == Denied(code="storage", text="no object store is configured")
    assert await grant_until(backups, making.backup) is None


async def test_without_the_right_master_key_it_stays_silent(db, making):
    """The guest asks again; a denial would be for good."""
    wrong = MASTER.public.wrap("container/p/swift/elsewhere", {"keys": ["a", "b"]})
    await execute(db, "UPDATE backup_containers SET keys = :k", k=wrong)
    with pytest.raises(GuestSilent):
        await making.ask(RenewGrant(op=making.op), within=0.3)
