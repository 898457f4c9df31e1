"""Trust, time and credentials, as far as they go without a network."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coffer_guest import keeping
from coffer_guest.clock import Clock
from coffer_guest.renewal import _checked, re_issue, renewal_request
from coffer_guest.state import Home, Identity, State
from coffer_guest.store import Store
from coffer_guest.trust import Trust, enrolment_key
from coffer_shared import jwt, nkeys
from coffer_shared.errors import GiveUp, TryAgain, Unavailable
from coffer_shared.keyset import KeySet, ServiceKey, root_public, sign
from coffer_shared.messages import Credential, Denied, Desired
from coffer_shared.nkeys import NKey
from coffer_shared.seal import KeyPair

ROOT, OTHER_ROOT = bytes(range(32)), bytes(range(1, 33))
IID = "7d444840-9dc0-11d1-b245-5ffdce74fad2"


def user() -> NKey:
    return NKey.generate(nkeys.Kind.USER)


def token(key: NKey, *, life: int = 1000, at: int | None = None) -> str:
    account = NKey.generate(nkeys.Kind.ACCOUNT)
    at = int(time.time()) if at is None else at
    return jwt.user(key.public, account, name="x", account=account.public, expires_at=at + life if life else 0, iat=at)


def identity(key: NKey | None = None) -> Identity:
    return Identity(KeyPair.generate().private.hex(), (key or user()).seed, 0.0)


def keys(at: float, *services: str, root: bytes = ROOT, not_after: float = 9e9) -> str:
    listed = tuple(ServiceKey(name, KeyPair.generate().public.hex(), (), 0.0, not_after) for name in services)
    return sign(KeySet(listed, at), root)


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[State]:
    store = await Store.open(tmp_path / "db")
    yield State(store)
    await store.close()


def home(text: str) -> Home:
    return Home(IID, (), "", root_public(ROOT), text)


async def test_only_a_newer_key_set_of_the_pinned_root_is_taken(state: State) -> None:
    trust = Trust(state, home(keys(10.0, "provisioner")), identity(), Clock())
    await trust.learn(keys(5.0, "provisioner", "old"))
    await trust.learn(keys(20.0, "provisioner", "forged", root=OTHER_ROOT))
    await trust.learn("garbage")
    await trust.learn("")
    assert len(trust.ring) == 1
    newer = keys(20.0, "provisioner", "api")
    await trust.learn(newer)
    assert len(trust.ring) == 2
    kept = await state.home()
    assert kept is not None
    assert kept.keyset == newer


async def test_a_key_set_of_another_root_is_no_start(state: State) -> None:
    with pytest.raises(ValueError, match="not a key set"):
        Trust(state, home(keys(1.0, "provisioner", root=OTHER_ROOT)), identity(), Clock())


async def test_a_service_without_a_valid_key_cannot_be_sealed_to(state: State) -> None:
    trust = Trust(state, home(keys(1.0, "provisioner", not_after=5.0)), identity(), Clock())
    for service in ("provisioner", "status-collector"):
        with pytest.raises(Unavailable):
            trust.peer(service)


async def test_while_keys_change_over_both_open(state: State) -> None:
    trust = Trust(state, home(keys(1.0, "provisioner", "api")), identity(), Clock())
    trust.use(identity())
    assert len(trust.ring) == 4
    trust.forget_old()
    assert len(trust.ring) == 2


def test_a_wrong_clock_does_not_keep_a_machine_from_enrolling() -> None:
    pair = KeyPair.generate()
    key = ServiceKey("provisioner", pair.public.hex(), (), 1000.0, 2000.0)
    assert enrolment_key(KeySet((key,), 1.0), now=0.0) == key
    assert enrolment_key(KeySet((key,), 1.0), now=9999.0) == key
    with pytest.raises(Unavailable):
        enrolment_key(KeySet((), 1.0), now=0.0)


def test_small_differences_are_not_the_clocks() -> None:
    clock = Clock()
    assert not clock.correct(time.time() + 1)
    assert clock.offset == 0
    assert clock.correct(time.time() - 500)
    assert abs(clock.now() - (time.time() - 500)) < 1


def test_a_jwt_is_renewed_daily_or_within_the_second_quarter_of_a_short_life() -> None:
    key = user()
    assert keeping._renew_at(token(key, life=30 * 86400, at=1000), 0.5) == 1000 + 86400
    assert keeping._renew_at(token(key, life=100, at=1000), 0.75) == 1075
    assert keeping._renew_at(token(key, life=0, at=1000), 0.75) == float("inf")


def test_only_a_jwt_for_the_own_key_is_taken() -> None:
    mine, other = user(), user()
    good = Credential(jwt=token(mine), now=0.0)
    assert keeping._credential(good, mine.public) is good
    for answer in (Credential(jwt=token(other), now=0.0), Credential(jwt="x", now=0.0), Desired(now=0.0)):
        with pytest.raises(TryAgain):
            keeping._credential(answer, mine.public)
    with pytest.raises(GiveUp):
        keeping._credential(Denied(code="forbidden"), mine.public)


def test_the_request_at_the_door_is_signed_by_the_nkey() -> None:
    key = user()
    body = renewal_request(IID, identity(key), Clock(100.0))
    assert set(body) == {"instance", "nkey", "at", "signature"}
    assert isinstance(body["at"], int)
    assert abs(body["at"] - time.time() - 100) < 5
    nkeys.verify(key.public, f"coffer-renew:{IID}:{body['at']}".encode(), base64.b64decode(body["signature"]))


def test_the_doors_answer_is_checked() -> None:
    key = user()
    good = token(key)
    assert _checked(b'{"jwt":"' + good.encode() + b'"}', identity(key), Clock()) == good
    old = token(key, at=1000)
    bad = [b"", b"{}", *(b'{"jwt":"' + text.encode() + b'"}' for text in ("x", token(user()), old))]
    for raw in bad:
        with pytest.raises(Unavailable):
            _checked(raw, identity(key), Clock())


async def test_without_an_address_there_is_no_door() -> None:
    with pytest.raises(GiveUp):
        await re_issue(home(""), identity(), Clock())


def test_secrets_do_not_show() -> None:
    mine = identity()
    assert mine.seed not in repr(mine)
    assert mine.xkey not in repr(mine)
