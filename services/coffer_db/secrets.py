"""Secrets in rows, sealed under the master key (X25519 sealed boxes), or under a project key that is itself.

Who files an operation holds the public half and can only seal; the provisioner holds the private half. What a blob is
for is inside it, so that one moved to another row does not open.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

import msgspec
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from coffer_shared.errors import CofferError

_VERSION = b"\x01"
_ID_BYTES = 8


class BadSecret(CofferError):
    """A sealed secret does not open: another key, another place, or damaged. Never says what is inside."""


class _Inside(msgspec.Struct, frozen=True):
    context: str
    data: dict[str, Any]


class MasterPublicKey:
    """The half that seals."""

    __slots__ = ("_box", "_id", "_public")

    def __init__(self, public: bytes) -> None:
        self._public = public
        self._id = hashlib.sha256(public).digest()[:_ID_BYTES]
        self._box = SealedBox(PublicKey(public))

    def __repr__(self) -> str:
        return f"MasterPublicKey({self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        return self._id.hex()

    def wrap(self, context: str, data: dict[str, Any]) -> bytes:
        """Seal `data`; it opens only with the same `context`, such as `operation/<id>`."""
        inside = msgspec.json.encode(_Inside(context, data))
        return _VERSION + self._id + self._box.encrypt(inside)

    def __bytes__(self) -> bytes:
        return self._public


class MasterKey:
    """The half that opens."""

    __slots__ = ("_box", "_private", "public")

    def __init__(self, private: bytes) -> None:
        self._private = PrivateKey(private)
        self._box = SealedBox(self._private)
        self.public = MasterPublicKey(bytes(self._private.public_key))

    def __repr__(self) -> str:
        return f"MasterKey({self.public.fingerprint})"

    @classmethod
    def generate(cls) -> MasterKey:
        return cls(bytes(PrivateKey.generate()))

    def private_bytes(self) -> bytes:
        """For the file or the export, and nowhere else."""
        return bytes(self._private)

    def unwrap(self, context: str, blob: bytes) -> dict[str, Any]:
        head = len(_VERSION) + _ID_BYTES
        if blob[: len(_VERSION)] != _VERSION:
            raise BadSecret(f"{context}: not a sealed secret of a known version")
        sealed_for = blob[len(_VERSION) : head].hex()
        if sealed_for != self.public.fingerprint:
            raise BadSecret(f"{context}: sealed for master key {sealed_for}, not {self.public.fingerprint}")
        try:
            inside = msgspec.json.decode(self._box.decrypt(blob[head:]), type=_Inside)
        except (CryptoError, msgspec.DecodeError):
            raise BadSecret(f"{context}: the sealed secret does not open") from None
        if inside.context != context:
            raise BadSecret(f"{context}: the sealed secret belongs elsewhere")
        return inside.data


def container_context(project: str, storage: str, name: str) -> str:
    """What the signing keys of a container are sealed for."""
    return f"container/{project}/{storage}/{name}"


class ProjectKey:
    """Wraps the data keys of one project's backups. Itself wrapped under the master key: see `new` and `opened`."""

    __slots__ = ("_key",)
    _NONCE = 24

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def new(cls, project: str, master: MasterPublicKey) -> bytes:
        """A fresh key, wrapped, for the row of that project."""
        return master.wrap(f"project-key/{project}", {"key": secrets.token_bytes(32).hex()})

    @classmethod
    def opened(cls, project: str, wrapped: bytes, master: MasterKey) -> ProjectKey:
        return cls(bytes.fromhex(master.unwrap(f"project-key/{project}", wrapped)["key"]))

    def wrap(self, context: str, data: bytes) -> bytes:
        """Opens only with the same `context`, such as `backup/<id>`."""
        nonce = secrets.token_bytes(self._NONCE)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(data, context.encode(), nonce, self._key)
        return _VERSION + nonce + sealed

    def unwrap(self, context: str, blob: bytes) -> bytes:
        if blob[:1] != _VERSION:
            raise BadSecret(f"{context}: not a wrapped key of a known version")
        nonce, sealed = blob[1 : 1 + self._NONCE], blob[1 + self._NONCE :]
        try:
            return crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, context.encode(), nonce, self._key)
        except CryptoError:
            raise BadSecret(f"{context}: the wrapped key does not open") from None
