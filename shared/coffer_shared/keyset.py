"""The key set: which service keys a guest trusts, for which commands and how long, signed by the installation's root.

The root is an Ed25519 key whose public half travels in user data; its seed is needed only to sign a new key set.
"""

from __future__ import annotations

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from coffer_shared import seal
from coffer_shared.jwt import from_base64, to_base64

_CONTEXT = b"coffer key set v1\n"


class ServiceKey(msgspec.Struct, frozen=True):
    """The X25519 key of one kind of service, shared by its replicas."""

    service: str
    public: str
    """hex"""
    kinds: tuple[str, ...]
    """Tags of the commands (`messages.Command`) that this service may send; empty for one that only receives."""
    not_before: float
    not_after: float

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self.public)

    @property
    def id(self) -> int:
        return seal.key_id(self.raw)


class KeySet(msgspec.Struct, frozen=True):
    keys: tuple[ServiceKey, ...]
    issued_at: float
    """A guest keeps the newest it has seen: an older one is not taken."""

    def valid(self, now: float) -> tuple[ServiceKey, ...]:
        return tuple(key for key in self.keys if key.not_before <= now < key.not_after)

    def find(self, key_id: int, now: float) -> ServiceKey | None:
        """The valid key with that id, as it stands in an envelope's header."""
        return next((key for key in self.valid(now) if key.id == key_id), None)

    def of(self, service: str, now: float) -> ServiceKey | None:
        """The key to seal to that service with: its newest valid one."""
        own = [key for key in self.valid(now) if key.service == service]
        return max(own, key=lambda key: key.not_before, default=None)


def root_public(root_seed: bytes) -> str:
    return bytes(SigningKey(root_seed).verify_key).hex()


def sign(keyset: KeySet, root_seed: bytes) -> str:
    body = msgspec.json.encode(keyset)
    return f"{to_base64(body)}.{to_base64(SigningKey(root_seed).sign(_CONTEXT + body).signature)}"


def verify(text: str, root_public: str) -> KeySet:
    """ValueError unless the owner of that root (public key, hex) signed the text and every key in it is a key."""
    try:
        body, signature = (from_base64(part) for part in text.split("."))
        VerifyKey(bytes.fromhex(root_public)).verify(_CONTEXT + body, signature)
        keyset = msgspec.json.decode(body, type=KeySet)
    except (ValueError, TypeError, BadSignatureError, msgspec.DecodeError) as error:
        raise ValueError("not a key set signed by this root") from error
    if any(len(key.raw) != seal.PUBLIC_SIZE for key in keyset.keys):
        raise ValueError("a key set with a malformed key")
    return keyset
