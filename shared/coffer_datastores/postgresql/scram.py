"""The SCRAM-SHA-256 verifier of a password, as PostgreSQL stores it (RFC 5802, RFC 7677).

Made here, so that no password in clear reaches the server, its log or its statistics.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stringprep
import unicodedata
from base64 import b64encode

_ITERATIONS = 4096

_PROHIBITED = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def verifier(password: str, salt: bytes | None = None) -> str:
    """Costs a few milliseconds of CPU."""
    salt = os.urandom(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password), salt, _ITERATIONS)
    stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    server = _hmac(salted, b"Server Key")
    return f"SCRAM-SHA-256${_ITERATIONS}:{_text(salt)}${_text(stored)}:{_text(server)}"


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _text(raw: bytes) -> str:
    return b64encode(raw).decode()


def _prepared(password: str) -> bytes:
    """SASLprep (RFC 4013), or the bytes as they are where it does not apply: clients and server do the same."""
    spaced = "".join(" " if stringprep.in_table_c12(char) else char for char in password)
    text = unicodedata.normalize("NFKC", "".join(char for char in spaced if not stringprep.in_table_b1(char)))
    if not text or _is_prohibited(text):
        return password.encode()
    return text.encode()


def _is_prohibited(text: str) -> bool:
    if any(rule(char) for char in text for rule in _PROHIBITED) or any(map(stringprep.in_table_a1, text)):
        return True
    if not any(map(stringprep.in_table_d1, text)):
        return False
    # Right-to-left text: nothing left-to-right in it, and right-to-left at both ends.
    ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    return not ends or any(map(stringprep.in_table_d2, text))
