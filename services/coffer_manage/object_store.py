"""Who may use the stack's own Swift, and what the provisioner is told of it. Not here: any talk with Swift."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec

ACCOUNT = "coffer"
ACCOUNT_PREFIX = "AUTH_"
SETUP, BACKUP = f"{ACCOUNT}:setup", f"{ACCOUNT}:backup"
"""The first makes containers and gives the second leave in each; the second has no rights but those."""

_PLAIN = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Address:
    """Where Swift is for the control plane, and where for guests."""

    url: str
    guest_url: str


@dataclass(frozen=True, slots=True)
class CloudStore:
    """A cloud's Swift, used as a user that a clouds.yaml describes."""

    clouds_file: str
    """Its path, as the provisioner has it."""
    cloud: str
    """Its entry."""
    guest_url: str = ""


@dataclass(frozen=True, slots=True)
class User:
    """One of tempauth's users; `groups` are its words for rights, such as `.admin` (of the user's own account)."""

    account: str
    name: str
    key: str = field(repr=False)
    groups: tuple[str, ...] = ()


def users_file(users: Iterable[User]) -> bytes:
    """A line for each user, for the section of tempauth in the proxy's configuration."""
    return "".join(f"{_line(user)}\n" for user in users).encode()


def storage_file(address: Address, keys: Mapping[str, str]) -> bytes:
    """The provisioner's storage.json; `keys` by user."""
    return msgspec.json.encode({"swift": {
        "url": address.url,
        "guest_url": address.guest_url,
        "account_prefix": ACCOUNT_PREFIX,
        "setup_user": SETUP,
        "setup_key": keys[SETUP],
        "user": BACKUP,
        "key": keys[BACKUP],
    }})


def cloud_storage_file(store: CloudStore) -> bytes:
    """The provisioner's storage.json. It holds no secret."""
    told = {"keystone": {"clouds_file": store.clouds_file, "cloud": store.cloud}, "guest_url": store.guest_url}
    return msgspec.json.encode({"swift": told})


def access(url: str, user: str, key: str) -> dict[str, str]:
    """What a client of Swift needs to use the account that `user` ("account:name") is of."""
    account = quote(user.partition(":")[0])
    return {
        "auth_url": f"{url}/auth/v1.0", "url": f"{url}/v1/{ACCOUNT_PREFIX}{account}", "user": user, "key": key,
    }


def _line(user: User) -> str:
    return " ".join((f"{_option(user.account, user.name)} =", user.key, *user.groups))


def _option(account: str, name: str) -> str:
    """tempauth takes a name apart at "_", so whatever is not plain goes in base64, whose padding it adds itself."""
    if _PLAIN.fullmatch(account) and _PLAIN.fullmatch(name):
        return f"user_{account}_{name}"
    return "user64_" + "_".join(base64.b64encode(part.encode()).decode().rstrip("=") for part in (account, name))
