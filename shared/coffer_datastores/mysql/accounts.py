"""What is MySQL's own about users: how a password is told to the server."""

from __future__ import annotations

import hashlib
import secrets
import string

from coffer_datastores.mysql.spec import DATASTORE
from coffer_shared.datastore import Datastore

_ROUNDS = 5000
_SALT_CHARACTERS = 20
_ALPHABET = "./0123456789" + string.ascii_uppercase + string.ascii_lowercase
_ORDER = (
    (0, 10, 20), (21, 1, 11), (12, 22, 2), (3, 13, 23), (24, 4, 14), (15, 25, 5), (6, 16, 26), (27, 7, 17), (18, 28, 8),
    (9, 19, 29),
)  # fmt: skip
"""In which the bytes of the last sum are written down, three as four characters."""


class MySQLDialect:
    """Implements `mysql_accounts.Dialect`."""

    @property
    def spec(self) -> Datastore:
        return DATASTORE

    def proof(self, password: str) -> str:
        """By its hash, made here, so that no password in clear reaches the server, its log or its process list."""
        salt = "".join(secrets.choice(_ALPHABET) for _ in range(_SALT_CHARACTERS))
        kept = f"$A${_ROUNDS // 1000:03d}${salt}{sha_crypt(password.encode(), salt.encode())}"
        return f"IDENTIFIED WITH caching_sha2_password AS '{kept}'"


def sha_crypt(password: bytes, salt: bytes) -> str:
    """The sum that `caching_sha2_password` keeps: SHA-crypt with SHA-256, as specified by U. Drepper in 2007, here with
    a salt of up to 20 bytes."""
    other = _sum(password, salt, password)
    bits = (other if len(password) >> bit & 1 else password for bit in range(len(password).bit_length()))
    last = _sum(password, salt, _stretched(other, len(password)), *bits)
    words = _stretched(_sum(password * len(password)), len(password))
    salts = _stretched(_sum(salt * (16 + last[0])), len(salt))
    for turn in range(_ROUNDS):
        last = _sum(
            words if turn % 2 else last,
            salts if turn % 3 else b"",
            words if turn % 7 else b"",
            last if turn % 2 else words,
        )
    groups = [last[a] << 16 | last[b] << 8 | last[c] for a, b, c in _ORDER]
    return "".join(_written(group, 4) for group in groups) + _written(last[31] << 8 | last[30], 3)


def _sum(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _stretched(text: bytes, length: int) -> bytes:
    return (text * (length // len(text) + 1))[:length]


def _written(number: int, characters: int) -> str:
    return "".join(_ALPHABET[number >> 6 * place & 63] for place in range(characters))
