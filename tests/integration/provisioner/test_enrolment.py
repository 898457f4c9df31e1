"""Enrolment over a real NATS server: who is given an identity, and who is met with silence."""

from __future__ import annotations

import hashlib
import time
from uuid import uuid4

import pytest

from coffer_db.operations import claim
from coffer_provisioner.identities import Installation, MachineIdentities
from coffer_shared import jwt, subjects
from coffer_shared.errors import GuestSilent
from coffer_shared.identity import decode_user_data, encode_user_data
from coffer_shared.keyset import verify
from coffer_shared.messages import Desired, Sync
from coffer_shared.nkeys import Kind as KeyKind
from coffer_shared.nkeys import NKey
from coffer_shared.seal import KeyPair
from integration.provisioner.actors import (
    LIFE,
    OPERATION,
    ROOT,
    SIGNED,
    StubGuest,
    execute,
    guest_row,
    owner_of,
    revoked,
)


async def test_a_new_guest_gets_an_identity_that_nats_takes(db, instance, new_guest, provisioner):
    guest = await new_guest(instance)
    answer = await guest.enrol()
    claims = jwt.decode(answer.jwt, now=time.time())
    assert claims.subject == guest.nkey.public
    assert claims.nats["tags"] == [f"iid:{instance}"]
    assert claims.expires_at == pytest.approx(time.time() + LIFE.total_seconds(), abs=5)
    assert answer.now == pytest.approx(time.time(), abs=5)
    assert verify(answer.keyset, ROOT).of("provisioner", time.time())
    assert (await guest.connect()).connected
    row = await guest_row(db, instance)
    assert (row.xpub, row.nkey, row.agent_version) == (guest.keys.public, guest.nkey.public, "1.0")
    assert row.boot_used_at is not None
    assert row.stolen_at is None
    assert row.jwt_expires_at.timestamp() == pytest.approx(claims.expires_at, abs=5)
    assert provisioner.enrolled == [instance]


async def test_its_creation_goes_on_at_once(db, instance, file, new_guest, provisioner):
    operation = await file(instance, "create_instance")
    await execute(db, "UPDATE operations SET state = 'waiting', wake_at = now() + interval '1 hour'")
    assert await claim(db, "w", 30) is None
    await (await new_guest(instance)).enrol()
    claimed = await claim(db, "w", 30)
    assert claimed is not None
    assert claimed.id == operation


async def test_user_data_holds_the_secret_and_the_database_only_its_hash(db, instance, identities):
    data = decode_user_data(await identities.user_data(instance, OPERATION))
    assert (data.instance, data.root, data.keyset) == (instance, ROOT, SIGNED)
    assert data.expires_at == pytest.approx(time.time() + 900, abs=5)
    row = await guest_row(db, instance)
    assert row.boot_hash == hashlib.sha256(bytes.fromhex(data.secret)).digest()
    assert row.boot_nkey == data.boot.nkey == owner_of(data.boot_jwt)
    assert row.boot_expires_at.timestamp() == data.expires_at
    stored = repr(tuple(row))
    for secret in (data.secret, repr(bytes.fromhex(data.secret)), data.boot_seed):
        assert secret not in stored


async def test_the_first_word_under_the_identity_ends_the_bootstrap(db, instance, enrolled_guest):
    guest = await enrolled_guest(instance)
    assert await revoked(db) == set()
    assert isinstance(await guest.ask(Sync(version="1.0")), Desired)
    assert await revoked(db) == {guest.data.boot.nkey}
    assert (await guest_row(db, instance)).boot_nkey is None


async def test_the_same_guest_may_ask_again_when_the_answer_was_lost(db, instance, new_guest, provisioner):
    guest = await new_guest(instance)
    await guest.enrol()
    first = await guest_row(db, instance)
    again = await guest.enrol()
    assert owner_of(again.jwt) == guest.nkey.public
    row = await guest_row(db, instance)
    assert (row.boot_used_at, row.xpub, row.nkey) == (first.boot_used_at, first.xpub, first.nkey)
    assert row.stolen_at is None
    assert await revoked(db) == set()


async def test_a_used_secret_under_other_keys_is_refused_and_recorded(db, instance, new_guest, provisioner, link):
    guest = await new_guest(instance)
    await guest.enrol()
    thief = _twin(guest, link)
    with pytest.raises(GuestSilent):
        await thief.enrol(within=0.3)
    assert provisioner.requests.refused == {"enrolment": 1}
    row = await guest_row(db, instance)
    assert row.stolen_at is not None
    assert (row.xpub, row.nkey) == (guest.keys.public, guest.nkey.public)


async def test_an_expired_secret_is_refused(db, instance, new_guest, provisioner):
    guest = await new_guest(instance)
    await execute(db, "UPDATE guests SET boot_expires_at = now() - interval '1 second'")
    assert await _enrol(provisioner, guest) is None
    row = await guest_row(db, instance)
    assert (row.xpub, row.boot_used_at, row.stolen_at) == (None, None, None)


async def test_a_guest_that_comes_back_too_late_is_no_thief(db, instance, new_guest, provisioner):
    guest = await new_guest(instance)
    await guest.enrol()
    await execute(db, "UPDATE guests SET boot_expires_at = now() - interval '1 second'")
    assert await _enrol(provisioner, guest) is None
    assert (await guest_row(db, instance)).stolen_at is None


async def test_a_newer_credential_voids_the_one_before(instance, new_guest, provisioner):
    older, newer = await new_guest(instance), await new_guest(instance)
    assert await _enrol(provisioner, older) is None
    assert await newer.enrol()


async def test_a_guest_that_lost_its_identity_gets_another_and_the_lost_one_is_revoked(
    db, instance, enrolled_guest, new_guest,
):
    lost = await enrolled_guest(instance)
    again = await new_guest(instance)
    await again.enrol()
    row = await guest_row(db, instance)
    assert (row.xpub, row.nkey, row.xpub_old, row.nkey_old) == (again.keys.public, again.nkey.public, None, None)
    assert await revoked(db) == {lost.nkey.public}


async def test_an_operation_has_one_secret_however_often_it_is_told(db, instance, identities, provisioner, link):
    """Who is killed after the cloud was told leaves a machine with a secret that still counts."""
    first, second = [StubGuest(await identities.user_data(instance, OPERATION), link) for _ in range(2)]
    assert first.data.secret == second.data.secret
    assert first.data.boot.nkey == second.data.boot.nkey
    assert await first.enrol()
    other = decode_user_data(await identities.user_data(instance, str(uuid4())))
    assert first.data.secret != other.secret
    assert first.data.boot.nkey != other.boot.nkey


async def test_a_secret_that_was_used_stays_used_when_it_is_told_again(db, instance, identities, provisioner, link):
    guest = StubGuest(await identities.user_data(instance, OPERATION), link)
    await guest.enrol()
    used = (await guest_row(db, instance)).boot_used_at
    thief = StubGuest(await identities.user_data(instance, OPERATION), link)
    assert (await guest_row(db, instance)).boot_used_at == used
    with pytest.raises(GuestSilent):
        await thief.enrol(within=0.3)
    row = await guest_row(db, instance)
    assert row.stolen_at is not None
    assert row.nkey == guest.nkey.public


async def test_secrets_of_two_instances_or_of_another_installation_have_nothing_in_common(
    make_instance, identities, records, server,
):
    one, two = await make_instance(), await make_instance()
    told = Installation(nats_urls=(server.url,), ca="", root=ROOT, keyset=SIGNED, renewal_url="")
    elsewhere = MachineIdentities(server.issuer, records, told, key=KeyPair.generate().private)
    found = [
        decode_user_data(await who.user_data(instance, OPERATION)) for who in (identities, elsewhere)
        for instance in (one, two)
    ]
    assert len({data.secret for data in found} | {data.boot_seed for data in found}) == 8


@pytest.mark.parametrize("how", ["revoked", "deleted"])
async def test_who_is_gone_does_not_come_back(db, instance, new_guest, provisioner, records, how):
    guest = await new_guest(instance)
    if how == "revoked":
        await records.revoke_guest(instance, "deleted")
    else:
        await execute(db, "UPDATE instances SET deleted_at = now()")
    assert await _enrol(provisioner, guest) is None
    assert (await guest_row(db, instance)).xpub is None


@pytest.mark.parametrize("secret", ["00" * 32, "", "no hex", "00"])
async def test_a_wrong_secret_is_refused(db, instance, new_guest, provisioner, secret):
    guest = await new_guest(instance)
    assert await _enrol(provisioner, guest, secret=secret) is None
    row = await guest_row(db, instance)
    assert (row.xpub, row.stolen_at) == (None, None)


async def test_a_secret_serves_its_own_instance_only(db, make_instance, new_guest, provisioner):
    own, other = await new_guest(await make_instance()), await new_guest(await make_instance())
    assert await _enrol(provisioner, own, secret=other.data.secret) is None
    assert provisioner.requests.refused == {"enrolment": 1}
    moved = subjects.enrol(other.instance)
    reply = f"{subjects.enrol_inbox(other.instance)}.a"
    sealed_elsewhere = own.enrolment(reply)
    assert await provisioner.requests.on_enrol(moved, sealed_elsewhere, reply) is None
    assert provisioner.requests.refused["envelope"] == 1
    assert (await guest_row(db, other.instance)).xpub is None


async def test_the_key_in_front_must_be_the_key_inside(db, instance, new_guest, provisioner):
    guest = await new_guest(instance)
    assert await _enrol(provisioner, guest, xpub=KeyPair.generate().public.hex()) is None
    assert provisioner.requests.refused == {"key": 1}
    assert (await guest_row(db, instance)).xpub is None


@pytest.mark.parametrize("kind", [KeyKind.ACCOUNT, KeyKind.OPERATOR, None])
async def test_only_a_users_nkey_is_taken(db, instance, new_guest, provisioner, kind):
    guest = await new_guest(instance)
    nkey = NKey.generate(kind).public if kind is not None else "U" * 56
    assert await _enrol(provisioner, guest, nkey=nkey) is None
    assert provisioner.requests.refused == {"envelope": 1}
    assert (await guest_row(db, instance)).nkey is None


async def test_nobody_can_claim_the_nkey_of_another_guest(db, make_instance, enrolled_guest, new_guest, provisioner):
    victim = await enrolled_guest(await make_instance())
    attacker = await new_guest(await make_instance())
    for nkey in (victim.nkey.public, victim.data.boot.nkey):
        assert await _enrol(provisioner, attacker, nkey=nkey) is None
    assert provisioner.requests.refused == {"enrolment": 2}
    assert (await guest_row(db, attacker.instance)).nkey is None


@pytest.mark.parametrize("reply", [
    "", "_INBOX.x", "e.{own}.in.", "e.{own}.in", "e.{own}.in.*", "e.{own}.in.>", "g.{own}.in.x", "g.{own}.cmd",
    "e.{other}.in.x", "e.*.in.x",
])
async def test_an_answer_goes_to_the_askers_own_inbox_only(db, make_instance, new_guest, provisioner, reply):
    guest = await new_guest(await make_instance())
    reply = reply.format(own=guest.instance, other=await make_instance())
    assert await provisioner.requests.on_enrol(subjects.enrol(guest.instance), guest.enrolment(reply), reply) is None
    assert provisioner.requests.refused == {"form": 1}
    assert (await guest_row(db, guest.instance)).xpub is None


@pytest.mark.parametrize("subject", ["e.*.enrol", "e.x.enrol", "e", "e.11111111-1111-4111-8111-11111111111A.enrol"])
async def test_a_subject_without_an_instance_is_refused(provisioner, instance, new_guest, subject):
    guest = await new_guest(instance)
    reply = f"e.{subject.split('.')[1] if '.' in subject else ''}.in.x"
    assert await provisioner.requests.on_enrol(subject, guest.enrolment(reply), reply) is None
    assert provisioner.requests.refused == {"form": 1}


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 32, b"x" * 33, bytes(200), b"\xff" * 200, b"x" * 4000])
async def test_rubbish_is_counted_and_not_answered(provisioner, instance, data):
    reply = f"{subjects.enrol_inbox(instance)}.a"
    assert await provisioner.requests.on_enrol(subjects.enrol(instance), data, reply) is None
    assert provisioner.requests.refused.total() == 1


async def test_a_version_is_kept_short_and_printable(db, instance, new_guest, provisioner):
    guest = await new_guest(instance)
    assert await _enrol(provisioner, guest, version="1\0.\n2\x1b[31m" + "x" * 500)
    kept = (await guest_row(db, instance)).agent_version
    assert kept.startswith("1.2[31mx")
    assert len(kept) == 64


async def _enrol(provisioner, guest, **changes):
    """Past the server, as whoever holds the bootstrap credential could send it."""
    reply = f"{subjects.enrol_inbox(guest.instance)}.a"
    sealed = guest.enrolment(reply, **changes)
    return await provisioner.requests.on_enrol(subjects.enrol(guest.instance), sealed, reply)


def _twin(guest, link):
    """Somebody else who has read the same user data."""
    return StubGuest(encode_user_data(guest.data), link)
