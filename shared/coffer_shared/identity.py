"""What a guest or service holds to connect to NATS, and the user data that a new machine is born with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from coffer_shared.jwt import to_base64
from coffer_shared.nkeys import Kind, NKey, public_kind
from coffer_shared.subjects import instance_id


class Credentials(msgspec.Struct, frozen=True):
    """A NATS user: its JWT and the seed of its nkey."""

    jwt: str
    seed: str

    @property
    def nkey(self) -> str:
        return NKey.from_seed(self.seed).public

    def __repr__(self) -> str:
        return f"Credentials({self.nkey})"


CredentialSource: TypeAlias = Callable[[], Credentials]


def save(credentials: Credentials, path: Path) -> None:
    """Whole or not at all, readable by the owner only. Blocks for an fsync."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(credentials))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> Credentials:
    """ValueError if the file does not hold credentials."""
    try:
        credentials = msgspec.json.decode(path.read_bytes(), type=Credentials)
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} holds no credentials") from error
    if NKey.from_seed(credentials.seed).kind is not Kind.USER:
        raise ValueError(f"{path} holds the seed of something else than a user")
    return credentials


def connect_options(source: Credentials | CredentialSource) -> dict[str, Any]:
    """Keyword arguments for nats-py. The key stays in memory; a callable is asked once, here, so JWT and seed match."""
    credentials = source() if callable(source) else source
    key = NKey.from_seed(credentials.seed)

    def sign(nonce: str) -> bytes:
        return to_base64(key.sign(nonce.encode())).encode()

    return {"user_jwt_cb": lambda: bytearray(credentials.jwt.encode()), "signature_cb": sign}


class UserData(msgspec.Struct, frozen=True, kw_only=True):
    """All that a new machine knows. The cloud keeps it readable, so nothing in it is of use after enrolment."""

    instance: str
    nats_urls: tuple[str, ...]
    ca: str
    """PEM of the authority that the NATS servers' certificates come from."""
    root: str
    """Ed25519 public key that signs key sets, hex."""
    keyset: str
    boot_jwt: str
    boot_seed: str
    secret: str
    """Proves at enrolment that the machine was given this user data; works once. Hex."""
    expires_at: float
    renewal_url: str = ""
    """HTTPS address at which an agent whose JWT has expired asks for a new one; empty if there is none."""

    @property
    def boot(self) -> Credentials:
        return Credentials(self.boot_jwt, self.boot_seed)

    def __repr__(self) -> str:
        return f"UserData({self.instance})"


def encode_user_data(data: UserData) -> bytes:
    return msgspec.json.encode(data)


def decode_user_data(raw: bytes | str) -> UserData:
    """ValueError if it is not user data, or names an instance by anything but a lower-case UUID."""
    try:
        data = msgspec.json.decode(raw, type=UserData)
    except msgspec.DecodeError as error:
        raise ValueError("not user data") from error
    instance_id(data.instance)
    return data


def user_nkey(public: str) -> str:
    """The text itself if it is the public nkey of a user; ValueError otherwise. For keys that a guest names."""
    if public_kind(public) is not Kind.USER:
        raise ValueError("not the public nkey of a user")
    return public
