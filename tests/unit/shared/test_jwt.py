"""NATS JWTs: round trips, and that decoding trusts nothing that was not signed by the right kind of key."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer_shared import jwt
from coffer_shared.jwt import Scope, Template, from_base64, to_base64
from coffer_shared.nkeys import Kind, NKey

OPERATOR = NKey.generate(Kind.OPERATOR)
ACCOUNT = NKey.generate(Kind.ACCOUNT)
USER = NKey.generate(Kind.USER)


def user(**changes: Any) -> str:
    given_: dict[str, Any] = {
        "name": "n",
        "account": ACCOUNT.public,
        "tags": ("iid:x",),
        "expires_at": 2000,
        "iat": 1000,
    }
    return jwt.user(USER.public, ACCOUNT, **(given_ | changes))


def test_user() -> None:
    claims = jwt.decode(user())

    assert (claims.subject, claims.issuer, claims.type) == (USER.public, ACCOUNT.public, "user")
    assert (claims.issued_at, claims.expires_at, claims.name) == (1000, 2000, "n")
    assert claims.nats == {"type": "user", "version": 2, "issuer_account": ACCOUNT.public, "tags": ["iid:x"]}


def test_a_user_carries_no_permissions_of_its_own() -> None:
    assert not {"pub", "sub", "resp", "bearer_token", "subs"} & jwt.decode(user()).nats.keys()


def test_operator() -> None:
    claims = jwt.decode(jwt.operator(OPERATOR, name="o", system_account=ACCOUNT.public, signing_keys=["k"]))

    assert claims.type == "operator"
    assert claims.nats["signing_keys"] == ["k"]
    assert claims.nats["system_account"] == ACCOUNT.public
    assert claims.nats["strict_signing_key_usage"] is True


def test_account_with_scopes_revocations_and_limits() -> None:
    template = Template(publish=("a",), subscribe=("b",), answers=1, answer_seconds=30, subscriptions=8, payload=64)
    claims = jwt.decode(
        jwt.account(
            ACCOUNT.public,
            OPERATOR,
            name="G",
            scopes=[Scope("AKEY", "guest", template)],
            revocations={"UX": 7},
            connections=12,
        ),
    )

    assert claims.nats["revocations"] == {"UX": 7}
    limits = claims.nats["limits"]
    assert (limits["conn"], limits["leaf"], limits["imports"], limits["exports"]) == (12, 0, 0, 0)
    assert limits["disallow_bearer"] is True
    assert not {"mem_storage", "disk_storage", "streams", "consumer"} & limits.keys()
    assert claims.nats["signing_keys"] == [
        {
            "kind": "user_scope",
            "key": "AKEY",
            "role": "guest",
            "template": {
                "pub": {"allow": ["a"]},
                "sub": {"allow": ["b"]},
                "resp": {"max": 1, "ttl": 30_000_000_000},
                "subs": 8,
                "data": -1,
                "payload": 64,
                "allowed_connection_types": ["STANDARD"],
            },
        },
    ]


def test_an_empty_list_of_subjects_allows_nothing() -> None:
    """To the server an absent list would allow everything."""
    text = jwt.account(
        ACCOUNT.public, OPERATOR, name="G", scopes=[Scope("A", "r", Template(publish=(), subscribe=("b",)))]
    )
    assert jwt.decode(text).nats["signing_keys"][0]["template"]["pub"] == {"deny": [">"]}


@given(st.text(max_size=40), st.integers(0, 2**40), st.integers(1, 2**40), st.lists(st.text(max_size=10), max_size=4))
def test_round_trip(name: str, iat: int, expires_at: int, tags: list[str]) -> None:
    claims = jwt.decode(user(name=name, iat=iat, expires_at=expires_at, tags=tags))
    assert (claims.name, claims.issued_at, claims.expires_at, claims.nats["tags"]) == (name, iat, expires_at, tags)


@given(st.data())
def test_any_changed_character_is_refused(data: st.DataObject) -> None:
    text = user()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("ABCabc012-_.="))
    if text[at] == other:
        return
    with pytest.raises(ValueError):
        jwt.decode(text[:at] + other + text[at + 1 :])


def resigned(header: dict[str, str] | None = None, **claims: Any) -> str:
    """A JWT with those claims changed, signed by whom `signer` says."""
    signer = claims.pop("signer", ACCOUNT)
    body = {**msgspec.json.decode(from_base64(user().split(".")[1])), **claims}
    head = header or {"typ": "JWT", "alg": "ed25519-nkey"}
    signed = f"{to_base64(msgspec.json.encode(head))}.{to_base64(msgspec.json.encode(body))}"
    return f"{signed}.{to_base64(signer.sign(signed.encode()))}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("a.b", id="two parts"),
        pytest.param("a.b.c.d", id="four parts"),
        pytest.param(resigned(header={"typ": "JWT", "alg": "none"}), id="alg none"),
        pytest.param(resigned(header={"typ": "JWT", "alg": "HS256"}), id="alg HS256"),
        pytest.param(resigned(signer=USER), id="signed by another than the issuer"),
        pytest.param(resigned(signer=USER, iss=USER.public), id="user issued by a user"),
        pytest.param(resigned(signer=OPERATOR, iss=OPERATOR.public), id="user issued by an operator"),
        pytest.param(resigned(sub=ACCOUNT.public), id="subject is no user"),
        pytest.param(resigned(nats={"type": "user", "version": 1}), id="version 1"),
        pytest.param(resigned(nats={"type": "activation", "version": 2}), id="unknown type"),
        pytest.param(resigned(iat="x"), id="malformed time"),
        pytest.param(user() + "=", id="padding"),
        pytest.param(user().rsplit(".", 1)[0] + ".", id="no signature"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError):
        jwt.decode(text)


def test_issuers_and_time() -> None:
    assert jwt.decode(user(), issuers=[ACCOUNT.public], now=1999).expires_at == 2000
    with pytest.raises(ValueError, match="trusted"):
        jwt.decode(user(), issuers=[NKey.generate(Kind.ACCOUNT).public])
    with pytest.raises(ValueError, match="expired"):
        jwt.decode(user(), now=2000)
    assert jwt.decode(user(expires_at=0), now=10**12).expires_at == 0
