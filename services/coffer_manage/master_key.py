"""The master key outside of its installation: a file that holds it sealed under a passphrase.

Not here: how the installation keeps it (`foundation`), and what is wrapped under it (`coffer_db.secrets`).
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id
from nacl.secret import SecretBox

from coffer_db.secrets import MasterKey
from coffer_shared.errors import CofferError

SHORTEST = 12
"""Whoever has the file may guess at the passphrase for as long as they like."""
_KIND = "coffer master key"
_OPERATIONS, _MEMORY = argon2id.OPSLIMIT_MODERATE, argon2id.MEMLIMIT_MODERATE


class MasterKeyError(CofferError):
    """An export cannot be made or does not open. Never says what is inside."""


class _Export(msgspec.Struct, kw_only=True):
    kind: str = _KIND
    version: int = 1
    fingerprint: str
    """Of the public half: tells which key this is, without a passphrase."""
    derivation: str = "argon2id"
    operations: int
    memory: int
    salt: str
    sealed: str
    """A secretbox of the private half; it and the salt in hex."""


def export(key: MasterKey, passphrase: str, path: Path) -> None:
    """Write it to a file that must not exist yet, whole and on disk, for its owner alone."""
    if len(passphrase) < SHORTEST:
        raise MasterKeyError(f"the passphrase is too short: {SHORTEST} characters are the least")
    salt = os.urandom(argon2id.SALTBYTES)
    made = _Export(
        fingerprint=key.public.fingerprint, operations=_OPERATIONS, memory=_MEMORY, salt=salt.hex(),
        sealed=_box(passphrase, salt, _OPERATIONS, _MEMORY).encrypt(key.private_bytes()).hex(),
    )
    _create(path, msgspec.json.format(msgspec.json.encode(made)) + b"\n")


def read(path: Path, passphrase: str) -> MasterKey:
    """The key in an export."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Export)
        salt, sealed = bytes.fromhex(found.salt), bytes.fromhex(found.sealed)
    except (msgspec.DecodeError, ValueError):
        raise MasterKeyError(f"{path} is no export of a master key, or damaged") from None
    if (found.kind, found.version, found.derivation) != (_KIND, 1, "argon2id"):
        raise MasterKeyError(f"{path} is no export of a master key that this release knows")
    if len(salt) != argon2id.SALTBYTES or not _bearable(found):
        raise MasterKeyError(f"{path} is damaged")
    try:
        key = MasterKey(_box(passphrase, salt, found.operations, found.memory).decrypt(sealed))
    except CryptoError:
        raise MasterKeyError(f"{path} does not open: another passphrase, or damaged") from None
    if key.public.fingerprint != found.fingerprint:
        raise MasterKeyError(f"{path} is damaged: it names another key than it holds")
    return key


def _bearable(found: _Export) -> bool:
    """The file says how much work its opening is: within bounds."""
    return (
        argon2id.OPSLIMIT_MIN <= found.operations <= argon2id.OPSLIMIT_SENSITIVE
        and argon2id.MEMLIMIT_MIN <= found.memory <= argon2id.MEMLIMIT_SENSITIVE
    )


def _box(passphrase: str, salt: bytes, operations: int, memory: int) -> SecretBox:
    return SecretBox(
        argon2id.kdf(SecretBox.KEY_SIZE, passphrase.encode(), salt, opslimit=operations, memlimit=memory),
    )


def _create(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if os.geteuid() == 0:  # in a container: whoever owns the folder on the host is who asked for the file
                owner = path.parent.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError:
        path.unlink(missing_ok=True)
        raise
