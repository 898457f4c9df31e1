"""NATS JWTs, version 2: operators, accounts with scoped signing keys and revocations, users of a scope.

Users carry no permissions of their own: a scoped signing key's template, in the account's JWT, says what they may do.
Who gets which template is decided elsewhere (`coffer_provisioner.account`).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from coffer_shared import nkeys
from coffer_shared.nkeys import Kind, NKey

_ALGORITHM = "ed25519-nkey"
_VERSION = 2
_SECOND_NS = 1_000_000_000


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """What the users of a scope may do. `{{tag(x)}}` in a subject is filled from the user's tags by the server."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    answers: int = 0
    """How many times a received message may be answered on its reply subject, whatever `publish` says."""
    answer_seconds: int = 30
    subscriptions: int = -1
    payload: int = -1


class Scope(msgspec.Struct, frozen=True):
    """A signing key that can only make users of one template."""

    key: str
    role: str
    template: Template


class Claims(msgspec.Struct, frozen=True):
    """A decoded JWT whose signature was checked."""

    subject: str
    issuer: str
    type: str
    """operator, account or user"""
    name: str
    issued_at: int
    expires_at: int
    """0 when it never expires."""
    nats: dict[str, Any]


def operator(key: NKey, *, name: str, system_account: str, signing_keys: Iterable[str], iat: int | None = None) -> str:
    """Signed by the identity key, which is needed for nothing else: accounts are signed by `signing_keys`."""
    body = {
        "type": "operator",
        "version": _VERSION,
        "system_account": system_account,
        "signing_keys": list(signing_keys),
        "strict_signing_key_usage": True,
    }
    return encode({"sub": key.public, "name": name, "nats": body}, key, iat)


def account(
    public: str,
    signer: NKey,
    *,
    name: str,
    scopes: Iterable[Scope],
    revocations: Mapping[str, int] | None = None,
    connections: int = -1,
    iat: int | None = None,
) -> str:
    """`revocations`: user nkey to the time up to which its JWTs are void. No JetStream, no leaf nodes, no bearers."""
    limits = {
        "subs": -1,
        "data": -1,
        "payload": -1,
        "imports": 0,
        "exports": 0,
        "wildcards": True,
        "conn": connections,
        "leaf": 0,
        "disallow_bearer": True,
    }
    body: dict[str, Any] = {
        "type": "account",
        "version": _VERSION,
        "limits": limits,
        "signing_keys": [
            {"kind": "user_scope", "key": scope.key, "role": scope.role, "template": _permissions(scope.template)}
            for scope in scopes
        ],
    }
    if revocations:
        body["revocations"] = dict(revocations)
    return encode({"sub": public, "name": name, "nats": body}, signer, iat)


def user(
    public: str,
    signer: NKey,
    *,
    name: str,
    account: str,
    tags: Iterable[str] = (),
    expires_at: int = 0,
    iat: int | None = None,
) -> str:
    """A user of the scope that `signer` stands for. Tags fill the template, so the caller must have checked them."""
    body = {"type": "user", "version": _VERSION, "issuer_account": account, "tags": list(tags)}
    claims: dict[str, Any] = {"sub": public, "name": name, "nats": body}
    if expires_at:
        claims["exp"] = expires_at
    return encode(claims, signer, iat)


def encode(claims: Mapping[str, Any], signer: NKey, iat: int | None = None) -> str:
    full = {**claims, "iss": signer.public, "iat": int(time.time()) if iat is None else iat}
    digest = hashlib.sha256(msgspec.json.encode(full, order="deterministic")).digest()
    full["jti"] = base64.b32encode(digest).rstrip(b"=").decode()
    header = {"typ": "JWT", "alg": _ALGORITHM}
    signed = f"{to_base64(msgspec.json.encode(header))}.{to_base64(msgspec.json.encode(full))}"
    return f"{signed}.{to_base64(signer.sign(signed.encode()))}"


def decode(text: str, *, issuers: Collection[str] | None = None, now: float | None = None) -> Claims:
    """ValueError unless signature, issuer and expiry (if `now` is given) are right.

    Without `issuers` it only shows that the JWT is whole, not that anybody trusted made it.
    """
    try:
        head, body, signature = text.split(".")
        header = msgspec.json.decode(from_base64(head), type=_Header)
        raw = msgspec.json.decode(from_base64(body), type=_Raw)
        seal = from_base64(signature)
    except (ValueError, msgspec.DecodeError) as error:
        raise ValueError("not a NATS JWT") from error
    if header.alg != _ALGORITHM or header.typ.upper() != "JWT":
        raise ValueError("not a NATS JWT: another algorithm")
    nkeys.verify(raw.iss, f"{head}.{body}".encode(), seal)
    _check_issuer(raw)
    if issuers is not None and raw.iss not in issuers:
        raise ValueError("the JWT's issuer is not trusted")
    if now is not None and raw.exp and raw.exp <= now:
        raise ValueError("the JWT has expired")
    return Claims(raw.sub, raw.iss, raw.nats["type"], raw.name, raw.iat, raw.exp, raw.nats)


class _Header(msgspec.Struct):
    typ: str
    alg: str


class _Raw(msgspec.Struct):
    sub: str
    iss: str
    iat: int
    nats: dict[str, Any]
    exp: int = 0
    name: str = ""


_SIGNED_BY = {
    "operator": (Kind.OPERATOR, Kind.OPERATOR),
    "account": (Kind.ACCOUNT, Kind.OPERATOR),
    "user": (Kind.USER, Kind.ACCOUNT),
}


def _check_issuer(raw: _Raw) -> None:
    if raw.nats.get("version") != _VERSION or raw.nats.get("type") not in _SIGNED_BY:
        raise ValueError("not a NATS JWT of a known type")
    subject, issuer = _SIGNED_BY[raw.nats["type"]]
    if nkeys.public_kind(raw.sub) is not subject or nkeys.public_kind(raw.iss) is not issuer:
        raise ValueError("the JWT's keys are of the wrong kind for its type")


def _permissions(template: Template) -> dict[str, Any]:
    claims: dict[str, Any] = {
        "pub": _allowed(template.publish),
        "sub": _allowed(template.subscribe),
        "subs": template.subscriptions,
        "data": -1,
        "payload": template.payload,
        "allowed_connection_types": ["STANDARD"],
    }
    if template.answers:
        claims["resp"] = {"max": template.answers, "ttl": template.answer_seconds * _SECOND_NS}
    return claims


def _allowed(subjects: tuple[str, ...]) -> dict[str, list[str]]:
    # To the server an empty list means that everything is allowed.
    return {"allow": list(subjects)} if subjects else {"deny": [">"]}


def to_base64(raw: bytes) -> str:
    """URL-safe base64 without padding, as JWTs and signed texts here use it."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_base64(text: str) -> bytes:
    """The reverse; ValueError if any other text than the one `to_base64` makes is given."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("not base64") from error
    if to_base64(raw) != text:
        raise ValueError("not base64 in its one form")
    return raw
