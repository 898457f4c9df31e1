"""The unmodified openstack client handles backups."""

from __future__ import annotations

import json

from integration.api.client import openstack
from integration.api.service import VERSION, Caller, World


async def test_a_life_of_backups_by_hand(api: Caller, world: World):
    instance = await world.instance(name="shop")
    every = [await world.backup(instance, name=f"old-{n}", age=60 + n) for n in range(25)]
    form = ["-f", "json"]
    said = await openstack(
        api,
        ["database", "backup", "create", "fresh", "--instance", "shop", "--description", "words", *form],
        ["database", "backup", "list", *form],
        ["database", "backup", "list", "--limit", "2", "--datastore", "postgresql", "--instance", "shop", *form],
        ["database", "backup", "list", "instance", "shop", "--limit", "1", "--marker", "1", *form],
        ["database", "backup", "show", "fresh", *form],
        ["database", "backup", "delete", "old-3", every[4]],
        ["database", "backup", "strategy", "create", "--instance-id", instance, "--swift-container", "mine", *form],
        ["database", "backup", "strategy", "list", *form],
        ["database", "backup", "strategy", "delete", "--instance-id", instance],
        ["database", "backup", "create", "more", "--instance", "shop", "--incremental", *form],
        ["database", "backup", "list", "--all-projects", *form],
    )
    made = json.loads(said[0][1])
    assert (made["name"], made["status"], made["size"], made["datastore"]) == ("fresh", "NEW", None, "postgresql")
    assert (made["datastore_version"], made["datastore_version_id"]) == ("17", VERSION)
    assert [item["ID"] for item in json.loads(said[1][1])] == [made["id"], *every]
    assert [item["ID"] for item in json.loads(said[2][1])] == [made["id"], every[0]]
    assert [item["ID"] for item in json.loads(said[3][1])] == [every[0]]
    assert json.loads(said[4][1]) == made
    deleting = await world.sql("SELECT id FROM backups WHERE state = 'DELETING'")
    assert {row["id"] for row in deleting} == {every[3], every[4]}
    assert json.loads(said[6][1])["swift_container"] == "mine"
    (strategy,) = json.loads(said[7][1])
    assert (strategy["Instance ID"], strategy["Swift Container"]) == (instance, "mine")
    assert await world.count("backup_strategies") == 0
    assert [status for status, _ in said] == [0] * 9 + [1, 1]
    assert "HTTP 501" in said[9][1]
    assert "HTTP 403" in said[10][1]
