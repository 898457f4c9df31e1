"""The users of the stack's own Keystone, and the clouds.yaml of each."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import yaml

from coffer_manage import foundation, keystone, main

PASSWORDS = {name: f"{name}-word" for name in keystone.NAMES}


def test_the_service_knows_itself_alone():
    clouds = yaml.safe_load(keystone.service_clouds(PASSWORDS))["clouds"]
    assert list(clouds) == ["coffer"]
    assert clouds["coffer"]["auth"]["auth_url"] == keystone.URL
    assert (clouds["coffer"]["auth"]["username"], clouds["coffer"]["auth"]["project_name"]) == ("coffer", "service")


def test_the_service_has_the_least_role():
    users = json.loads(keystone.users_file(PASSWORDS))
    assert [user["role"] for user in users["users"] if user["name"] == "coffer"] == ["service"]
    assert users["admin_password"] == "admin-word"


def test_people_get_their_clouds_and_not_the_services(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    foundation.lay(tmp_path, nats_urls=("tls://nats:4222",), renewal_url="")
    main._clouds(argparse.Namespace(state=tmp_path, auth_url="http://127.0.0.1:1/v3"))
    clouds = yaml.safe_load(capsys.readouterr().out)["clouds"]
    found = {name: (cloud["auth"]["username"], cloud["auth"]["project_name"]) for name, cloud in clouds.items()}
    assert found == {
        "coffer": ("demo", "demo"), "coffer-reader": ("reader", "demo"), "coffer-other": ("other", "other"),
        "coffer-admin": ("admin", "admin"),
    }
    drawn = foundation.load(tmp_path).keystone
    assert clouds["coffer"]["auth"]["password"] == drawn["demo"]
    assert drawn["coffer"] not in json.dumps(clouds)
