"""The unmodified OpenStack client (python-openstackclient with python-troveclient) does a life by hand."""

from __future__ import annotations

import json
import secrets
from typing import Any

import pytest

from support.openstack_cli import OpenStack
from support.stack import Stack, eventually, psql
from support.ways import environ


@pytest.fixture(scope="module")
def openstack(stack: Stack):
    with OpenStack(environ(stack, "http_basic")) as client:

        def call(*words: str, form: bool = True) -> Any:
            if form:
                return client.json(*words)
            said = client(*words)
            assert said.status == 0, f"{' '.join(words)}: {said.text}"
            return said.text

        yield call


@pytest.mark.timeout(300)
def test_a_life_by_hand(stack: Stack, openstack):
    password = secrets.token_urlsafe(16)
    assert any(f["Name"] == "tiny" for f in openstack("database", "flavor", "list"))
    assert "postgresql" in {d["Name"] for d in openstack("datastore", "list")}
    created = openstack(
        "database", "instance", "create", "by-hand", "--flavor", "1", "--size", "1", "--datastore", "postgresql",
        "--datastore-version", "17", "--databases", "shop", "--users", f"app:{password}", "--is-public",
    )
    instance = created["id"]
    assert created["status"] == "BUILD"

    stack.api().until_ready(instance)
    shown = openstack("database", "instance", "show", "by-hand")
    assert (shown["status"], shown["operating_status"]) == ("ACTIVE", "HEALTHY")
    assert instance in {i["ID"] for i in openstack("database", "instance", "list")}
    assert shown["datastore_version"] == "17"

    openstack("database", "db", "create", "by-hand", "archive", form=False)
    assert {d["Name"] for d in openstack("database", "db", "list", "by-hand")} == {"shop", "archive"}
    openstack("database", "user", "create", "by-hand", "clerk", password, "--databases", "archive", form=False)
    users = {u["Name"]: u["Databases"] for u in openstack("database", "user", "list", "by-hand")}
    assert users == {"app": "shop", "clerk": "archive"}
    openstack("database", "user", "grant", "access", "by-hand", "clerk", "shop", form=False)
    openstack("database", "user", "revoke", "access", "by-hand", "clerk", "shop", form=False)
    openstack("database", "user", "delete", "by-hand", "clerk", form=False)
    openstack("database", "db", "delete", "by-hand", "archive", form=False)
    assert {d["Name"] for d in openstack("database", "db", "list", "by-hand")} == {"shop"}

    assert openstack("database", "root", "show", "by-hand")["is_root_enabled"] in {False, "False"}
    enabled = openstack("database", "root", "enable", "by-hand")
    assert openstack("database", "root", "show", "by-hand")["is_root_enabled"] in {True, "True"}
    private = _address(shown)
    assert psql(private, enabled["name"], enabled["password"], "postgres", "SELECT 1") == "1"
    openstack("database", "root", "disable", "by-hand", form=False)

    openstack("database", "instance", "restart", "by-hand", form=False)
    stack.api().until_ready(instance)
    assert psql(private, "app", password, "shop", "SELECT 1") == "1"

    psql(private, "app", password, "shop", "CREATE TABLE kept AS SELECT generate_series(1, 100) AS n")
    backup = openstack("database", "backup", "create", "kept", "--instance", "by-hand")
    assert (backup["status"], backup["instance_id"]) == ("NEW", instance)
    eventually(
        lambda: stack.api()("GET", f"/backups/{backup['id']}").must(200)["backup"]["status"] == "COMPLETED", within=120,
        what="the backup is complete",
    )
    assert openstack("database", "backup", "show", "kept")["status"] == "COMPLETED"
    assert backup["id"] in {b["ID"] for b in openstack("database", "backup", "list")}
    assert [b["Name"] for b in openstack("database", "backup", "list", "--instance-id", instance)] == ["kept"]

    openstack("database", "instance", "delete", "by-hand", form=False)
    eventually(lambda: stack.api()("GET", f"/instances/{instance}").status == 404, within=120, what="by-hand is gone")
    assert instance not in {i["ID"] for i in openstack("database", "instance", "list")}

    again = openstack(
        "database", "instance", "create", "from-backup", "--flavor", "1", "--size", "1", "--backup", backup["id"],
        "--datastore", "postgresql", "--datastore-version", "17",
    )["id"]
    restored = stack.api().until_ready(again)
    assert psql(_address(restored), "app", password, "shop", "SELECT count(*) FROM kept") == "100"
    openstack("database", "backup", "delete", "kept", form=False)
    openstack("database", "instance", "delete", again, form=False)
    eventually(lambda: stack.api()("GET", f"/instances/{again}").status == 404, within=120, what="from-backup is gone")


def _address(shown: dict[str, Any]) -> str:
    addresses = shown.get("addresses") or []
    if isinstance(addresses, str):
        addresses = json.loads(addresses.replace("'", '"'))
    return str(next(a["address"] for a in addresses if a["type"] == "private"))
