"""Which ways to sign in go with which cloud."""

from __future__ import annotations

from typing import Any

import pytest

from coffer_api.settings import Settings
from coffer_shared.settings import BadSettings


def settings(**more: Any) -> Settings:
    return Settings(database_host="h", database_user="u", database_password="p", state_dir="/s", **more)


@pytest.mark.parametrize(("wrong", "why"), [
    ({"cloud": "openstack"}, "COFFER_CLOUD=openstack needs COFFER_AUTH_STRATEGY=keystone"),
    ({"cloud": "openstack", "auth_strategy": "noauth"}, "COFFER_CLOUD_WITHOUT_TOKENS"),
    ({"object_store": "tenant"}, "COFFER_OBJECT_STORE=tenant needs COFFER_AUTH_STRATEGY=keystone"),
    ({"object_store": "tenant", "cloud_without_tokens": True}, "COFFER_OBJECT_STORE"),
    ({"cloud_timeout": 0.0}, "COFFER_CLOUD_TIMEOUT"), ({"cloud_timeout": float("nan")}, "COFFER_CLOUD_TIMEOUT"),
    ({"storage_user": "user"}, "COFFER_STORAGE_USER"), ({"storage_user": "a:b,c:d"}, "COFFER_STORAGE_USER"),
    ({"storage_user": ".r:*"}, "COFFER_STORAGE_USER"), ({"storage_user": "a:b\n"}, "COFFER_STORAGE_USER"),
])
def test_settings_that_cannot_be(wrong: dict[str, Any], why: str):
    with pytest.raises(BadSettings, match=why):
        settings(**wrong).check()


@pytest.mark.parametrize("right", [
    {}, {"cloud": "openstack", "auth_strategy": "keystone"}, {"cloud": "openstack", "cloud_without_tokens": True},
    {"object_store": "tenant", "auth_strategy": "keystone", "storage_user": "0a-1:2_b"},
    {"object_store": "tenant", "auth_strategy": "keystone", "cloud": "docker"},
])
def test_settings_that_can_be(right: dict[str, Any]):
    settings(**right).check()
