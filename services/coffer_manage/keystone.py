"""Who is in the stack's own Keystone, and the clouds.yaml of each. Not here: any talk with Keystone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

URL = "http://keystone:5000/v3"
"""Within the stack."""
CLOUD = "coffer"


@dataclass(frozen=True, slots=True)
class User:
    name: str
    project: str
    role: str
    cloud: str = ""
    """What its entry in the clouds.yaml of clients is called; empty: it has none."""


ADMIN = User("admin", "admin", "admin", "coffer-admin")
"""Keystone's own."""
SERVICE = User(CLOUD, "service", "service")
"""May validate tokens and see what was revoked, and that is all."""
USERS = (
    SERVICE,
    User("demo", "demo", "member", CLOUD),
    User("reader", "demo", "reader", "coffer-reader"),
    User("other", "other", "member", "coffer-other"),
)
NAMES = tuple(user.name for user in (ADMIN, *USERS))


def users_file(passwords: Mapping[str, str]) -> bytes:
    """What `deploy/images/keystone` makes its users from."""
    return msgspec.json.encode({
        "admin_password": passwords[ADMIN.name],
        "users": [
            {"name": user.name, "password": passwords[user.name], "project": user.project, "role": user.role}
            for user in USERS
        ],
    })


def service_clouds(passwords: Mapping[str, str]) -> bytes:
    """For the API, whose user is the service's."""
    return _clouds({CLOUD: _entry(SERVICE, passwords, URL)})


def client_clouds(passwords: Mapping[str, str], url: str) -> bytes:
    """For people; `url` is Keystone's as they reach it."""
    return _clouds({user.cloud: _entry(user, passwords, url) for user in (ADMIN, *USERS) if user.cloud})


def _entry(user: User, passwords: Mapping[str, str], url: str) -> dict[str, object]:
    domain = "default"
    return {
        "auth": {
            "auth_url": url, "username": user.name, "password": passwords[user.name], "project_name": user.project,
            "user_domain_id": domain, "project_domain_id": domain,
        },
        "region_name": "RegionOne",
        "identity_api_version": 3,
    }


def _clouds(entries: Mapping[str, object]) -> bytes:
    """JSON, which is YAML as well."""
    return msgspec.json.format(msgspec.json.encode({"clouds": entries}), indent=2) + b"\n"
