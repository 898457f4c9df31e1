"""NATS nkeys: Ed25519 keys of operators, accounts and users in their base32 text form.

Here are making, reading and signing. What is signed (JWTs, nonces) is elsewhere: see `jwt` and `identity`.
"""

from __future__ import annotations

import base64
import binascii
from enum import IntEnum

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from nacl.utils import random


class Kind(IntEnum):
    """The prefix byte; in base32 it becomes the first letter of the text form."""

    OPERATOR = 14 << 3
    ACCOUNT = 0
    USER = 20 << 3


_SEED = 18 << 3
_KEY_BYTES = 32


class NKey:
    """A key pair. `public` may be shown to anybody; `seed` is the secret in text form."""

    __slots__ = ("_key", "kind", "public")

    def __init__(self, kind: Kind, raw: bytes) -> None:
        self._key = SigningKey(raw)
        self.kind = kind
        self.public = _encode(bytes([kind]) + bytes(self._key.verify_key))

    @classmethod
    def generate(cls, kind: Kind) -> NKey:
        return cls(kind, random(_KEY_BYTES))

    @classmethod
    def from_seed(cls, seed: str) -> NKey:
        """ValueError if the text is not the seed of an operator, account or user."""
        raw = _decode(seed)
        if len(raw) != _KEY_BYTES + 2 or raw[0] & 0xF8 != _SEED:
            raise ValueError("not an nkey seed")
        prefix = (raw[0] & 0x07) << 5 | raw[1] >> 3
        if raw[1] & 0x07:
            raise ValueError("not an nkey seed")
        return cls(_kind(prefix), raw[2:])

    @property
    def seed(self) -> str:
        return _encode(bytes([_SEED | self.kind >> 5, (self.kind & 0x1F) << 3]) + bytes(self._key))

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data).signature

    def __repr__(self) -> str:
        return f"NKey({self.public})"


def public_kind(public: str) -> Kind:
    """What sort of key a public nkey names; ValueError if it is none."""
    raw = _decode(public)
    if len(raw) != _KEY_BYTES + 1:
        raise ValueError("not a public nkey")
    return _kind(raw[0])


def verify(public: str, data: bytes, signature: bytes) -> None:
    """ValueError unless the owner of `public` made the signature."""
    public_kind(public)
    try:
        VerifyKey(_decode(public)[1:]).verify(data, signature)
    except (BadSignatureError, ValueError, TypeError) as error:
        raise ValueError("the signature does not fit") from error


def _kind(prefix: int) -> Kind:
    try:
        return Kind(prefix)
    except ValueError:
        raise ValueError("not an nkey of an operator, account or user") from None


def _encode(raw: bytes) -> str:
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    try:
        checked = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        # The cause would quote what may be a secret.
        raise ValueError("not an nkey") from None
    raw = checked[:-2]
    # One key has one text: unused bits at the end of the last letter must be zero.
    if len(checked) <= 2 or _encode(raw) != text:
        raise ValueError("not an nkey: wrong checksum")
    return raw
