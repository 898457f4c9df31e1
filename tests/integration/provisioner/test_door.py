"""The door over real HTTPS, with a certificate of the installation's authority and under the door's own role."""

from __future__ import annotations

import base64
import json
import ssl
import time
from hashlib import sha256
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from sqlalchemy.exc import ProgrammingError

from coffer_db.database import Database, DatabaseSettings
from coffer_guest.clock import Clock
from coffer_guest.renewal import re_issue
from coffer_guest.state import Home, Identity
from coffer_manage import authority
from coffer_provisioner.door import BODY_BYTES, PER_MINUTE, SKEW_SECONDS, Door
from coffer_shared import jwt
from coffer_shared.bus import tls_context
from coffer_shared.errors import GiveUp
from coffer_shared.identity import decode_user_data
from coffer_shared.nkeys import Kind, NKey
from integration.provisioner.actors import LIFE, OPERATION, execute, new_keys, owner_of
from support.nats_server import free_port

AUTHORITY = authority.new()


@pytest.fixture
async def door_at(server, tmp_path):
    """A door on this database: its address, a clock to set, and `ask`."""
    runners, sessions = [], []

    async def open_door(database):
        key, cert = authority.server(*AUTHORITY, ("door", "127.0.0.1"))
        (tmp_path / "key").write_text(key)
        (tmp_path / "cert").write_text(cert)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
        clock = SimpleNamespace(now=time.time())
        runner = web.AppRunner(Door(database, server.issuer, clock=lambda: clock.now).app(), access_log=None)
        runners.append(runner)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls_context(AUTHORITY[1])))
        sessions.append(session)
        url = f"https://127.0.0.1:{port}/renew"

        async def ask(**request):
            async with session.post(url, **request) as response:
                return response.status, await response.text()

        return SimpleNamespace(url=url, clock=clock, ask=ask)

    yield open_door
    for each in (*(s.close for s in sessions), *(r.cleanup for r in runners)):
        await each()


@pytest.fixture
async def door(door_at, as_role):
    return await door_at(as_role("coffer_door"))


@pytest.fixture
async def guest(make_instance, identities, records):
    return await enrolled(await make_instance(), identities, records)


async def enrolled(instance, identities, records):
    keys, nkey = new_keys()
    data = decode_user_data(await identities.user_data(instance, OPERATION))
    digest = sha256(bytes.fromhex(data.secret)).digest()
    assert await records.enrol(instance, secret_hash=digest, xpub=keys.public, nkey=nkey.public, version="1")
    return SimpleNamespace(instance=instance, keys=keys, nkey=nkey)


def renewal(guest, at, *, signer=None, signed=None, **changes):
    at = int(at)
    text = signed or f"coffer-renew:{guest.instance}:{at}"
    signature = (signer or guest.nkey).sign(text.encode())
    whole = {
        "instance": guest.instance, "nkey": guest.nkey.public, "at": at,
        "signature": base64.b64encode(signature).decode(),
    }
    return whole | changes


async def test_a_known_nkey_gets_a_new_jwt(door, guest, server):
    status, body = await door.ask(json=renewal(guest, door.clock.now))
    assert status == 200
    token = json.loads(body)["jwt"]
    claims = jwt.decode(token, now=time.time(), issuers=[server.keys.signing["GUESTS"]["guest"].public])
    assert claims.subject == guest.nkey.public
    assert claims.nats["tags"] == [f"iid:{guest.instance}"]
    assert claims.expires_at == pytest.approx(time.time() + LIFE.total_seconds(), abs=5)


async def test_the_agents_own_request_is_understood(door, guest):
    home = Home(guest.instance, (), AUTHORITY[1], "", "", door.url, "")
    identity = Identity(guest.keys.private.hex(), guest.nkey.seed, time.time())
    assert owner_of(await re_issue(home, identity, Clock())) == guest.nkey.public
    stranger = Identity(guest.keys.private.hex(), new_keys()[1].seed, time.time())
    with pytest.raises(GiveUp):
        await re_issue(home, stranger, Clock())


async def test_a_client_that_trusts_another_authority_does_not_talk_to_it(door, guest):
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await session.post(door.url, json=renewal(guest, door.clock.now), ssl=tls_context(authority.new()[1]))


REFUSED = {
    "another signer": lambda guest, now: renewal(guest, now, signer=new_keys()[1]),
    "another time than signed":
        lambda guest, now: renewal(guest, now, signed=f"coffer-renew:{guest.instance}:{int(now) + 1}"),
    "another instance than signed":
        lambda guest, now: renewal(guest, now, signed=f"coffer-renew:{'0' * 36}:{int(now)}"),
    "without the context": lambda guest, now: renewal(guest, now, signed=f"{guest.instance}:{int(now)}"),
    "an empty signature": lambda guest, now: renewal(guest, now, signature=""),
    "no nkey": lambda guest, now: renewal(guest, now, nkey="U" * 56),
    "long ago": lambda guest, now: renewal(guest, now - SKEW_SECONDS - 2),
    "far ahead": lambda guest, now: renewal(guest, now + SKEW_SECONDS + 2),
}


@pytest.mark.parametrize("how", REFUSED)
async def test_what_the_nkey_did_not_sign_now_is_refused(door, guest, how):
    assert await door.ask(json=REFUSED[how](guest, door.clock.now)) == (403, '{"error": "refused"}')


async def test_a_clock_that_is_a_little_off_is_forgiven(door, guest):
    for off in (-SKEW_SECONDS + 2, SKEW_SECONDS - 2):
        assert (await door.ask(json=renewal(guest, door.clock.now + off)))[0] == 200


async def test_only_the_instances_own_nkey_counts(door, guest, make_instance, identities, records):
    other = await enrolled(await make_instance(), identities, records)
    for nkey in (other.nkey, new_keys()[1], NKey.generate(Kind.ACCOUNT)):
        asked = renewal(guest, door.clock.now, signer=nkey, nkey=nkey.public)
        assert (await door.ask(json=asked))[0] == 403


@pytest.mark.parametrize("how", ["revoked", "deleted", "nkey revoked", "no such instance"])
async def test_who_is_gone_stays_out(db, door, guest, records, how):
    if how == "revoked":
        await execute(db, "UPDATE guests SET revoked_at = now()")
    elif how == "deleted":
        await execute(db, "UPDATE instances SET deleted_at = now()")
    elif how == "nkey revoked":
        await execute(db, "INSERT INTO revocations (nkey, instance_id, reason, expires_at) "
                          "VALUES (:nkey, '', '', now() + interval '1 day')", nkey=guest.nkey.public)
    else:
        guest.instance = "55555555-5555-4555-8555-555555555555"
    assert (await door.ask(json=renewal(guest, door.clock.now)))[0] == 403


async def test_after_a_rotation_whose_answer_was_lost_the_old_nkey_still_counts(door, guest, records):
    """An agent that slept from there on until its JWT expired would otherwise never come back."""
    keys, nkey = new_keys()
    await records.rotate(guest.instance, heard=guest.keys.public, xpub=keys.public, nkey=nkey.public)
    fresh = SimpleNamespace(instance=guest.instance, nkey=nkey)
    for each in (guest, fresh):
        assert (await door.ask(json=renewal(each, door.clock.now)))[0] == 200
    await records.retire_old_keys(guest.instance, keys.public)
    assert (await door.ask(json=renewal(guest, door.clock.now)))[0] == 403
    assert (await door.ask(json=renewal(fresh, door.clock.now)))[0] == 200


BAD = {
    "empty": b"", "no JSON": b"renew me", "a list": b"[]", "no UTF-8": b'{"instance":"\xff"}', "deep": b"[" * 2000,
    "a field too many": None, "a field missing": None, "capitals": None, "a pattern": None, "not base64": None,
    "a fraction": None, "a huge number": None, "a number that no clock shows": None, "negative": None,
}
CHANGES = {
    "a field too many": {"more": 1}, "capitals": {"instance": "A" * 36}, "a pattern": {"instance": "*"},
    "not base64": {"signature": "&&&"}, "a fraction": {"at": 1.5}, "a huge number": {"at": 10**400},
    "a number that no clock shows": {"at": 2**63}, "negative": {"at": -1},
}


async def test_what_is_no_request_gets_a_400(door, guest):
    for how, body in BAD.items():
        door.clock.now += 61  # a new window each
        whole = renewal(guest, door.clock.now)
        if how == "a field missing":
            del whole["signature"]
        given = {"data": body} if body is not None else {"json": whole | CHANGES.get(how, {})}
        assert (await door.ask(**given))[0] == 400, how


async def test_an_oversized_body_and_other_ways_in_are_turned_away(door, guest):
    whole = renewal(guest, door.clock.now, signature="A" * BODY_BYTES)
    assert (await door.ask(json=whole))[0] == 413
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls_context(AUTHORITY[1]))) as session:
        async with session.get(door.url) as response:
            assert response.status == 405
        async with session.post(door.url.replace("renew", "metrics")) as response:
            assert response.status == 404


async def test_an_address_has_a_number_of_tries_a_minute(door, guest):
    answers = [(await door.ask(data=b"x"))[0] for _ in range(PER_MINUTE + 2)]
    assert answers == [400] * PER_MINUTE + [429] * 2
    assert (await door.ask(json=renewal(guest, door.clock.now)))[0] == 429
    door.clock.now += 61
    assert (await door.ask(json=renewal(guest, door.clock.now)))[0] == 200


class Elsewhere:
    """A request as from another address."""

    def __init__(self, remote, body):
        self.remote, self._body = remote, body

    async def read(self):
        return self._body


async def test_an_instance_has_a_number_of_renewals_a_minute_from_wherever(as_role, server, guest):
    now = time.time()
    one = Door(as_role("coffer_door"), server.issuer, clock=lambda: now)
    body = json.dumps(renewal(guest, now)).encode()
    answers = [(await one.renew(Elsewhere(f"10.0.0.{n}", body))).status for n in range(PER_MINUTE + 1)]
    assert answers == [200] * PER_MINUTE + [429]


async def test_others_cannot_use_up_an_instances_renewals(as_role, server, guest):
    now = time.time()
    one = Door(as_role("coffer_door"), server.issuer, clock=lambda: now)
    stranger = new_keys()[1]
    forged = json.dumps(renewal(guest, now, signer=stranger, nkey=stranger.public)).encode()
    for n in range(3 * PER_MINUTE):
        assert (await one.renew(Elsewhere(f"10.0.1.{n}", forged))).status == 403
    body = json.dumps(renewal(guest, now)).encode()
    assert (await one.renew(Elsewhere("10.0.0.1", body))).status == 200


async def test_without_the_database_it_says_later(door_at, guest):
    nowhere = DatabaseSettings(
        database_host="127.0.0.1", database_port=free_port(), database_user="x", database_password="x",
    )
    away = Database(nowhere)
    door = await door_at(away)
    assert (await door.ask(json=renewal(guest, door.clock.now)))[0] == 503
    await away.close()


@pytest.mark.parametrize("statement", [
    "SELECT * FROM guests", "SELECT xpub FROM guests", "SELECT boot_hash FROM guests", "SELECT name FROM instances",
    "SELECT reason FROM revocations", "SELECT id FROM operations", "UPDATE guests SET revoked_at = NULL",
    "DELETE FROM revocations", "INSERT INTO revocations (nkey) VALUES ('x')", "SELECT * FROM heartbeats",
    "CREATE TABLE x (a int)",
])
async def test_the_doors_role_may_do_nothing_else(as_role, statement):
    with pytest.raises(ProgrammingError, match="permission denied"):
        await execute(as_role("coffer_door"), statement)
