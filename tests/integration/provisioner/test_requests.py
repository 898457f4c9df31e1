"""What an enrolled guest asks: desired state, renewal, rotation. No key it ever had outlives it."""

from __future__ import annotations

import time

import pytest

from coffer_shared import jwt, subjects
from coffer_shared.errors import GuestSilent
from coffer_shared.messages import Credential, Denied, Desired, Renew, Rotate, Sync, encode
from coffer_shared.nkeys import Kind as KeyKind
from coffer_shared.nkeys import NKey
from coffer_shared.seal import Kind, Sender
from integration.provisioner.actors import LIFE, SIGNED, execute, guest_row, new_keys, owner_of, revoked

SYNC = Sync(version="1.0")


async def test_sync_tells_the_desired_state(db, make_instance, enrolled_guest):
    guest = await enrolled_guest(await make_instance(allowed_cidrs=["10.0.0.0/8", "192.0.2.1/32"]))
    answer = await guest.ask(SYNC)
    assert isinstance(answer, Desired)
    assert answer.allowed_cidrs == ["10.0.0.0/8", "192.0.2.1/32"]
    assert answer.keyset == SIGNED
    assert answer.now == pytest.approx(time.time(), abs=5)
    assert answer.jwt_expires_at == (await guest_row(db, guest.instance)).jwt_expires_at.timestamp()


async def test_renew_gives_a_new_jwt_for_the_same_nkey(db, instance, enrolled_guest):
    guest = await enrolled_guest(instance)
    await execute(db, "UPDATE guests SET jwt_expires_at = now() + interval '1 day'")
    answer = await guest.ask(Renew())
    assert isinstance(answer, Credential)
    claims = jwt.decode(answer.jwt, now=time.time())
    assert claims.subject == guest.nkey.public
    assert claims.expires_at == pytest.approx(time.time() + LIFE.total_seconds(), abs=5)
    assert (await guest_row(db, instance)).jwt_expires_at.timestamp() == pytest.approx(claims.expires_at, abs=5)
    guest.jwt = answer.jwt
    assert (await guest.connect()).connected


async def test_a_rotation_retires_the_old_keys_with_the_first_word_under_the_new(
    db, instance, enrolled_guest, provisioner,
):
    guest = await enrolled_guest(instance)
    await guest.ask(SYNC)
    keys, nkey = new_keys()
    answer = await guest.rotate(keys, nkey)
    assert isinstance(answer, Credential)
    assert owner_of(answer.jwt) == nkey.public
    row = await guest_row(db, instance)
    assert (row.xpub, row.nkey) == (keys.public, nkey.public)
    assert (row.xpub_old, row.nkey_old) == (guest.keys.public, guest.nkey.public)
    assert isinstance(await guest.ask(SYNC), Desired)
    assert guest.nkey.public not in await revoked(db)
    assert isinstance(await guest.ask(SYNC, keys=keys), Desired)
    row = await guest_row(db, instance)
    assert (row.xpub_old, row.nkey_old) == (None, None)
    assert await revoked(db) == {guest.data.boot.nkey, guest.nkey.public}
    with pytest.raises(GuestSilent):
        await guest.ask(SYNC, within=0.3)
    assert provisioner.requests.refused == {"envelope": 1}


async def test_the_same_rotation_may_be_asked_again(db, instance, enrolled_guest):
    guest = await enrolled_guest(instance)
    keys, nkey = new_keys()
    await guest.rotate(keys, nkey)
    first = await guest_row(db, instance)
    assert isinstance(await guest.rotate(keys, nkey), Credential)
    assert isinstance(await guest.rotate(keys, nkey, under=keys), Credential)
    row = await guest_row(db, instance)
    assert (row.xpub, row.xpub_old, row.nkey_old) == (first.xpub, guest.keys.public, guest.nkey.public)
    assert nkey.public not in await revoked(db)


async def test_a_guest_that_lost_the_new_keys_is_still_heard_under_the_old(db, instance, enrolled_guest):
    guest = await enrolled_guest(instance)
    (_, lost), (keys, nkey) = (first := new_keys()), new_keys()
    await guest.rotate(*first)
    assert isinstance(await guest.rotate(keys, nkey), Credential)
    row = await guest_row(db, instance)
    assert (row.xpub, row.xpub_old, row.nkey_old) == (keys.public, guest.keys.public, guest.nkey.public)
    assert await revoked(db) == {lost.public}
    assert isinstance(await guest.ask(SYNC), Desired)
    assert isinstance(await guest.ask(SYNC, keys=keys), Desired)


async def test_a_second_rotation_pushes_out_the_oldest_keys(db, instance, enrolled_guest):
    guest = await enrolled_guest(instance)
    (second, second_nkey), (third, third_nkey) = new_keys(), new_keys()
    await guest.rotate(second, second_nkey)
    await guest.rotate(third, third_nkey, under=second)
    row = await guest_row(db, instance)
    assert (row.xpub, row.xpub_old, row.nkey_old) == (third.public, second.public, second_nkey.public)
    assert guest.nkey.public in await revoked(db)


async def test_a_renewal_under_the_old_key_is_for_the_old_nkey(instance, enrolled_guest):
    guest = await enrolled_guest(instance)
    keys, nkey = new_keys()
    await guest.rotate(keys, nkey)
    assert owner_of((await guest.ask(Renew())).jwt) == guest.nkey.public
    assert owner_of((await guest.ask(Renew(), keys=keys)).jwt) == nkey.public


async def test_keys_that_may_not_be_taken_are_denied_and_change_nothing(db, make_instance, enrolled_guest):
    guest, other = await enrolled_guest(await make_instance()), await enrolled_guest(await make_instance())
    await guest.ask(SYNC)  # its bootstrap nkey is revoked now
    before = tuple(await guest_row(db, guest.instance))
    keys, nkey = new_keys()
    xpub, own = keys.public.hex(), guest.keys.public.hex()
    wanted = {
        "one key is old": Rotate(xpub=own, nkey=nkey.public),
        "the other key is old": Rotate(xpub=xpub, nkey=guest.nkey.public),
        "another guest's": Rotate(xpub=xpub, nkey=other.nkey.public),
        "another guest's bootstrap": Rotate(xpub=xpub, nkey=other.data.boot.nkey),
        "revoked": Rotate(xpub=xpub, nkey=guest.data.boot.nkey),
        "an account's": Rotate(xpub=xpub, nkey=NKey.generate(KeyKind.ACCOUNT).public),
        "no nkey": Rotate(xpub=xpub, nkey="x"),
        "no hex": Rotate(xpub="zz", nkey=nkey.public),
        "too short": Rotate(xpub="00", nkey=nkey.public),
        "no agreement": Rotate(xpub="00" * 32, nkey=nkey.public),
    }
    answers = {why: await guest.ask(request) for why, request in wanted.items()}
    assert {why: type(answer) for why, answer in answers.items()} == dict.fromkeys(wanted, Denied)
    assert tuple(await guest_row(db, guest.instance)) == before


async def test_every_nkey_that_ever_got_a_jwt_is_revoked_in_the_end(db, instance, enrolled_guest, records):
    guest = await enrolled_guest(instance)
    given, under = {guest.data.boot.nkey, guest.nkey.public}, guest.keys
    for turn in range(6):
        keys, nkey = new_keys()
        answers = [await guest.rotate(keys, nkey, under=under)]
        answers += [await guest.rotate(keys, new_keys()[1], under=under), await guest.ask(Renew(), keys=under)]
        given |= {owner_of(a.jwt) for a in answers if isinstance(a, Credential)}
        if turn % 2:
            under = keys
    assert len(given) == 8
    await records.revoke_guest(instance, "delete_instance")
    assert await revoked(db) == given
    await records.revoke_guest(instance, "delete_instance")
    assert await revoked(db) == given


async def test_a_revocation_lasts_as_long_as_a_jwt(db, instance, enrolled_guest, records):
    guest = await enrolled_guest(instance)
    await records.revoke_guest(instance, "delete_instance")
    async with db.connect() as connection:
        rows = (await connection.exec_driver_sql(
            "SELECT instance_id, reason, expires_at - revoked_at AS lasts FROM revocations",
        )).all()
    assert {(row.instance_id, row.reason) for row in rows} == {(instance, "delete_instance")}
    assert len(rows) == len({guest.nkey.public, guest.data.boot.nkey})
    assert all(abs((row.lasts - LIFE).total_seconds()) < 5 for row in rows)


async def test_a_word_under_keys_that_were_rotated_meanwhile_retires_nothing(db, instance, enrolled_guest, records):
    guest = await enrolled_guest(instance)
    keys, nkey = new_keys()
    await guest.rotate(keys, nkey)
    await records.retire_old_keys(instance, guest.keys.public)
    row = await guest_row(db, instance)
    assert (row.xpub_old, row.nkey_old) == (guest.keys.public, guest.nkey.public)
    assert await revoked(db) == set()


async def test_a_rotation_that_raced_with_the_revocation_is_not_taken(db, instance, enrolled_guest, records):
    guest = await enrolled_guest(instance)
    keys, nkey = new_keys()
    await records.revoke_guest(instance, "delete_instance")
    assert not await records.rotate(instance, heard=guest.keys.public, xpub=keys.public, nkey=nkey.public)
    assert (await guest_row(db, instance)).nkey == guest.nkey.public


@pytest.mark.parametrize("how", ["revoked", "deleted"])
async def test_who_is_gone_is_met_with_silence(db, instance, enrolled_guest, records, provisioner, how):
    guest = await enrolled_guest(instance)
    if how == "revoked":
        await records.revoke_guest(instance, "delete_instance")
    else:
        await execute(db, "UPDATE instances SET deleted_at = now()")
    for request in (SYNC, Renew(), Rotate(xpub=new_keys()[0].public.hex(), nkey=new_keys()[1].public)):
        assert await _send(provisioner, guest, request) is None
    assert provisioner.requests.refused == {"unknown": 3}


async def test_who_never_enrolled_is_met_with_silence(instance, new_guest, provisioner, make_instance):
    guest = await new_guest(instance)
    assert await _send(provisioner, guest, SYNC) is None
    guest.instance = await make_instance()
    assert await _send(provisioner, guest, SYNC) is None
    assert provisioner.requests.refused == {"unknown": 2}


@pytest.mark.parametrize("reply", [
    "", "_INBOX.x", "g.{own}.in.", "g.{own}.in.*", "g.{own}.in.a.>", "g.{other}.in.x", "e.{own}.in.x", "g.{own}.cmd",
])
async def test_an_answer_goes_to_the_askers_own_inbox_only(make_instance, enrolled_guest, provisioner, reply):
    guest = await enrolled_guest(await make_instance())
    reply = reply.format(own=guest.instance, other=await make_instance())
    assert await _send(provisioner, guest, SYNC, reply=reply) is None
    assert provisioner.requests.refused == {"form": 1}


async def test_what_does_not_open_or_does_not_decode_is_met_with_silence(make_instance, enrolled_guest, provisioner):
    guest, other = await enrolled_guest(await make_instance()), await enrolled_guest(await make_instance())
    subject, reply = subjects.request(guest.instance), f"{subjects.guest_inbox(guest.instance)}.a"
    peer, body = guest.peer(), encode(SYNC)
    whole = peer.seal(Kind.REQUEST, subject, body, reply)
    refused = [
        b"", whole[:40], whole[:-1] + bytes([whole[-1] ^ 1]), bytes(200),
        peer.seal(Kind.HEARTBEAT, subject, body, reply),
        peer.seal(Kind.REQUEST, subject, body, f"{reply}b"),
        peer.seal(Kind.REQUEST, subjects.request(other.instance), body, reply),
        other.peer().seal(Kind.REQUEST, subject, body, reply),
        *(peer.seal(Kind.REQUEST, subject, bad, reply)
          for bad in (b"", b"{}", b'{"t":"sync","version":"\xff"}', b"[1")),
    ]
    for data in refused:
        assert await provisioner.requests.on_request(subject, data, reply) is None
    assert provisioner.requests.refused == {"envelope": len(refused)}


@pytest.mark.parametrize("days", [-31, 31])
async def test_a_record_of_long_ago_is_not_answered(instance, enrolled_guest, provisioner, days):
    guest = await enrolled_guest(instance)

    class Then(Sender):
        def next(self) -> int:
            return super().next() + days * 86_400_000_000

    subject, reply = subjects.request(instance), f"{subjects.guest_inbox(instance)}.a"
    sealed = guest.peer(sender=Then()).seal(Kind.REQUEST, subject, encode(Renew()), reply)
    assert await provisioner.requests.on_request(subject, sealed, reply) is None
    assert provisioner.requests.refused == {"old": 1}


async def _send(provisioner, guest, request, *, reply=None):
    subject = subjects.request(guest.instance)
    reply = f"{subjects.guest_inbox(guest.instance)}.a" if reply is None else reply
    sealed = guest.peer().seal(Kind.REQUEST, subject, encode(request), reply)
    return await provisioner.requests.on_request(subject, sealed, reply)
