"""The stack's own Keystone, and the unmodified OpenStack client with what `PROFILE=keystone` laid out for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from support.stack import ROOT, Stack, eventually

OPENSTACK = Path(sys.executable).with_name("openstack")
OpenStack = Callable[..., Any]


@pytest.fixture(scope="module")
def clouds(stack: Stack) -> Path:
    path = ROOT / ".state" / stack.name / "clouds.yaml"
    assert path.exists(), f"stack {stack.name} runs without Keystone: COFFER_PROFILES=keystone deploy/up.sh"
    return path


@pytest.fixture(scope="module")
def openstack(clouds: Path) -> OpenStack:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
    environ |= {"OS_CLIENT_CONFIG_FILE": str(clouds), "PYTHONWARNINGS": "ignore"}

    def call(cloud: str, *words: str, fails: str = "", form: bool = True) -> Any:
        command = [str(OPENSTACK), "--os-cloud", cloud, *words, *(["-f", "json"] if form else [])]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)
        said = done.stdout + done.stderr
        assert (done.returncode != 0) is bool(fails), f"{cloud} {' '.join(words)}: {said}"
        assert fails in said
        return json.loads(done.stdout) if form and not fails else said

    return call


@pytest.fixture(scope="module")
def endpoint(openstack: OpenStack) -> str:
    """Of the database service, without a project."""
    (found,) = openstack("coffer-admin", "endpoint", "list", "--service", "database", "--interface", "public")
    return str(found["URL"]).rpartition("/")[0]


def status(token: str, url: str) -> int:
    try:
        request = urllib.request.Request(url, headers={"X-Auth-Token": token})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_passwords_are_for_their_owner_only(clouds: Path):
    assert clouds.stat().st_mode & 0o777 == 0o600


@pytest.mark.timeout(600)
def test_a_life_across_projects(openstack: OpenStack):
    made = openstack(
        "coffer", "database", "instance", "create", "by-token", "--flavor", "1", "--size", "1",
        "--datastore", "postgresql", "--datastore-version", "17",
    )["id"]

    def shown(cloud: str) -> Any:
        return openstack(cloud, "database", "instance", "show", made)

    assert {i["ID"] for i in openstack("coffer-reader", "database", "instance", "list")} >= {made}
    assert shown("coffer-reader")["name"] == "by-token"
    openstack("coffer-reader", "database", "instance", "delete", made, form=False, fails="HTTP 403")
    openstack("coffer-reader", "database", "instance", "restart", made, form=False, fails="HTTP 403")

    assert made not in {i["ID"] for i in openstack("coffer-other", "database", "instance", "list")}
    openstack("coffer-other", "database", "instance", "show", made, fails="No")
    openstack("coffer-other", "database", "instance", "delete", made, form=False, fails="HTTP 404")

    def ready() -> bool:
        state = shown("coffer")
        assert state["status"] != "ERROR", state
        return (state["status"], state["operating_status"]) == ("ACTIVE", "HEALTHY")

    eventually(ready, within=240, what="by-token is ACTIVE and HEALTHY")
    assert made not in {i["ID"] for i in openstack("coffer-admin", "database", "instance", "list")}
    assert shown("coffer-admin")["status"] == "ACTIVE"
    openstack("coffer-admin", "database", "instance", "reset", "status", made, form=False)
    openstack("coffer-admin", "database", "instance", "delete", made, form=False)

    def gone() -> bool:
        return made not in {i["ID"] for i in openstack("coffer", "database", "instance", "list")}

    eventually(gone, within=180, what="by-token is gone")


def test_the_project_in_the_path_is_the_tokens(openstack: OpenStack, endpoint: str):
    token = {cloud: openstack(cloud, "token", "issue") for cloud in ("coffer", "coffer-admin")}
    demo, admin = (token[cloud]["project_id"] for cloud in token)
    assert status(token["coffer"]["id"], f"{endpoint}/{demo}/instances") == 200
    assert status(token["coffer"]["id"], f"{endpoint}/{admin}/instances") == 403
    assert status(token["coffer-admin"]["id"], f"{endpoint}/{admin}/instances") == 200
    assert status(token["coffer-admin"]["id"], f"{endpoint}/{demo}/instances") == 403
    assert status("", f"{endpoint}/{demo}/instances") == 401


def test_a_revoked_token_is_refused_soon(openstack: OpenStack, endpoint: str):
    token = openstack("coffer", "token", "issue")
    url = f"{endpoint}/{token['project_id']}/instances"
    assert status(token["id"], url) == 200
    openstack("coffer", "token", "revoke", token["id"], form=False)
    eventually(lambda: status(token["id"], url) == 401, within=30, what="the revoked token is refused")


def test_prometheus_sees_the_api(stack: Stack):
    at = stack.compose("port", "prometheus", "9090").strip()

    def watched() -> bool:
        query = "coffer_api_revocations_watched{job='coffer-api-keystone'}"
        with urllib.request.urlopen(f"http://{at}/api/v1/query?query={quote(query)}", timeout=10) as answer:
            found = json.loads(answer.read())["data"]["result"]
        return [row["value"][1] for row in found] == ["1"]

    eventually(watched, within=60, what="the API that asks Keystone is scraped, and sees revocations")


def test_no_password_and_no_token_is_in_a_log(stack: Stack, openstack: OpenStack, endpoint: str, clouds: Path):
    token = openstack("coffer", "token", "issue")
    assert status(token["id"], f"{endpoint}/{token['project_id']}/flavors") == 200
    logs = stack.compose("logs", "--no-color", "keystone", "api-keystone")
    assert "listening" in logs
    secrets = [cloud["auth"]["password"] for cloud in json.loads(clouds.read_text())["clouds"].values()]
    for secret in (token["id"], *secrets):
        assert secret not in logs
