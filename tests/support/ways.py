"""The ways of signing in to a running stack, as unmodified OpenStack clients are told of them."""

from __future__ import annotations

from typing import Any

from support.stack import ROOT, Stack

WAYS = ("http_basic", "keystone")


def environ(stack: Stack, way: str, *, admin: bool = False) -> dict[str, str]:
    """For the openstack command."""
    if way == "keystone":
        return {"OS_CLIENT_CONFIG_FILE": clouds(stack), "OS_CLOUD": cloud(admin=admin)}
    known = _user(stack, admin=admin)
    return {
        "OS_AUTH_TYPE": "http_basic", "OS_ENDPOINT": known["endpoint"], "OS_USERNAME": known["user"],
        "OS_PASSWORD": known["password"],
    }


def arguments(stack: Stack, way: str, *, admin: bool = False) -> dict[str, Any]:
    """For openstacksdk's `Connection`."""
    if way == "keystone":
        from openstack.config import OpenStackConfig

        return {"config": OpenStackConfig(config_files=[clouds(stack)], load_envvars=False).get_one(cloud(admin=admin))}
    known = _user(stack, admin=admin)
    auth = {"endpoint": known["endpoint"], "username": known["user"], "password": known["password"]}
    return {"auth_type": "http_basic", "auth": auth}


def clouds(stack: Stack) -> str:
    path = ROOT / ".state" / stack.name / "clouds.yaml"
    assert path.exists(), f"stack {stack.name} has no Keystone: run PROFILE=keystone make up"
    return str(path)


def cloud(*, admin: bool = False) -> str:
    return "coffer-admin" if admin else "coffer"


def _user(stack: Stack, *, admin: bool = False) -> dict[str, str]:
    found: dict[str, str] = stack.clients["users"]["admin" if admin else "demo"]
    return found
