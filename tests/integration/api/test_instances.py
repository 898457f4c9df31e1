"""Instances through the API, as Trove's clients see them."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from coffer_db.tables import OperationState
from integration.api.service import MASTER, Caller, World

UNKNOWN = "99999999-9999-4999-8999-999999999999"
GOOD: dict[str, Any] = {
    "name": "x", "flavorRef": 1, "volume": {"size": 1, "type": None},
    "datastore": {"type": "postgresql", "version": "17"},
}


def good(**more: Any) -> dict[str, Any]:
    return {"instance": {**GOOD, **more}}


async def test_an_instance_is_created_in_one_go(api: Caller, world: World):
    body = good(
        databases=[{"name": "shop"}],
        users=[{"name": "app", "password": "s3cret-word", "databases": [{"name": "shop"}]}],
        nics=[{"net-id": UNKNOWN}], access={"is_public": True, "allowed_cidrs": ["10.1.0.0/16"]}, replica_count=1,
        availability_zone="az", locality="affinity", region_name="RegionOne", configuration=None, modules=[],
    )
    answer = await api("POST", "/instances", body)
    made = answer.must(200)["instance"]
    assert (made["status"], made["operating_status"]) == ("BUILD", "")
    assert made["datastore"] == {"type": "postgresql", "version": "17", "version_number": "17.6"}
    assert made["access"] == {"is_public": True, "allowed_cidrs": ["10.1.0.0/16"]}
    assert made["flavor"]["id"] == "1"
    assert made["volume"] == {"size": 1}
    assert not {"ip", "addresses", "fault", "replicas", "replica_of", "configuration", "server_id"} & made.keys()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", made["created"])
    (row,) = await world.sql("SELECT * FROM instances")
    assert (row["project_id"], row["user_id"], row["nics"]) == ("p1", "ann", [{"network": UNKNOWN}])
    (operation,) = await world.sql("SELECT * FROM operations")
    assert operation["id"] == answer.headers["x-coffer-operation"]
    assert operation["request_id"] == answer.headers["x-openstack-request-id"]
    assert operation["args"] == {"databases": [{"name": "shop"}]}
    assert b"s3cret" not in bytes(operation["secret_args"])
    assert MASTER.unwrap(f"operation/{operation['id']}", bytes(operation["secret_args"])) == {
        "users": [{"name": "app", "password": "s3cret-word", "databases": ["shop"]}],
    }


@pytest.mark.parametrize("ref", [1, "1", "http://x/v1.0/p1/flavors/1", "gold"])
async def test_a_flavor_is_taken_in_every_spelling(api: Caller, ref: Any):
    made = (await api("POST", "/instances", good(flavorRef=ref))).must(200)["instance"]
    assert made["flavor"]["id"] == ("gold" if ref == "gold" else "1")


async def test_the_spellings_of_the_sdk(api: Caller):
    body = {k: v for k, v in GOOD.items() if k != "flavorRef"} | {"volume": {"size": "2"}, "flavor": {"id": "gold"}}
    assert (await api("POST", "/instances", {"instance": body})).must(200)["instance"]["volume"]["size"] == 2


BAD: dict[str, tuple[Any, int, str]] = {
    "no name": ({"instance": {k: v for k, v in GOOD.items() if k != "name"}}, 400, r"instance\['name'\]"),
    "empty": ({}, 400, "instance"),
    "blank name": (good(name="  "), 400, "letter or a digit"),
    "control characters": (good(name="a\nb"), 400, "control"),
    "NUL": (good(name="a\0b"), 400, "control"),
    "no flavor": ({"instance": {k: v for k, v in GOOD.items() if k != "flavorRef"}}, 400, "Resource None"),
    "unknown flavor": (good(flavorRef="nope"), 400, "Resource nope cannot be found"),
    "flavor true": (good(flavorRef=True), 400, r"flavorRef"),
    "no volume": ({"instance": {k: v for k, v in GOOD.items() if k != "volume"}}, 400, "Volume size was not"),
    "size 0": (good(volume={"size": 0}), 400, r"instance\['volume'\]\['size'\]"),
    "size true": (good(volume={"size": True}), 400, "size"),
    "size 1.5": (good(volume={"size": 1.5}), 400, "size"),
    "size text": (good(volume={"size": "0"}), 400, "size"),
    "size above the most": (good(volume={"size": 11}), 413, "cannot exceed maximum of 10 GB"),
    "unknown datastore": (good(datastore={"type": "oracle"}), 404, "'oracle' cannot be found"),
    "no datastore": ({"instance": {k: v for k, v in GOOD.items() if k != "datastore"}}, 400, "no default"),
    "unknown version": (good(datastore={"type": "postgresql", "version": "1"}), 400, "'1' cannot be found"),
    "inactive version": (good(datastore={"type": "postgresql", "version": "9"}), 400, "'9' cannot be found"),
    "extra in datastore": (good(datastore={"type": "postgresql", "x": 1}), 400, "datastore"),
    "two nics": (good(nics=[{"net-id": UNKNOWN}] * 2), 400, "nics"),
    "port": (good(nics=[{"port-id": UNKNOWN}]), 400, "nics"),
    "no network": (good(nics=[{}]), 400, "network"),
    "address only": (good(nics=[{"net-id": UNKNOWN, "ip_address": "10.0.0.1"}]), 400, "Instance subnet needs"),
    "cidr": (good(access={"is_public": True, "allowed_cidrs": ["300.0.0.0/8"]}), 400, "allowed_cidrs"),
    "access text": (good(access={"is_public": "yes"}), 400, "is_public"),
    "locality": (good(locality="near"), 400, "locality"),
    "region": (good(region_name="Mars1"), 400, "Mars1"),
    "replica count": (good(replica_count=2), 400, "replica_of"),
    "replica with a flavor": (good(replica_of=UNKNOWN), 400, "flavorRef, datastore, volume cannot be given"),
    "replica with a database": (
        {"instance": {"name": "r", "replica_of": UNKNOWN, "databases": [{"name": "a"}]}}, 400, "databases cannot be",
    ),
    "replica with an address": (
        {"instance": {"name": "r", "slave_of": UNKNOWN, "nics": [{"subnet_id": UNKNOWN, "ip_address": "10.0.0.9"}]}},
        400, "nics.ip_address cannot be",
    ),
    "replica of nothing": ({"instance": {"name": "r", "replica_of": UNKNOWN, "replica_count": 2}}, 404, UNKNOWN),
    "replica of a name": ({"instance": {"name": "r", "replica_of": "one"}}, 400, "replica_of"),
    "volume type": (good(volume={"size": 1, "type": "fast"}), 400, "fast is not valid .* none has a name"),
    "restore": (good(restorePoint={"backupRef": UNKNOWN}), 404, f"Backup {UNKNOWN} cannot be found."),
    "restore of nothing": (good(restorePoint={}), 400, "backupRef"),
    "restore of a name": (good(restorePoint={"backupRef": "nightly"}), 400, "backupRef"),
    "configuration": (good(configuration=UNKNOWN), 404, f"Configuration group id: {UNKNOWN} could not be found."),
    "configuration number": (good(configuration=1), 400, "configuration"),
    "modules": (good(modules=[{"id": UNKNOWN}]), 501, "modules"),
    "reserved database": (good(databases=[{"name": "template1"}]), 400, "reserved"),
    "same database": (good(databases=[{"name": "a"}, {"name": "a"}]), 400, "twice"),
    "long database": (good(databases=[{"name": "d" * 64}]), 400, "too long"),
    "reserved user": (good(users=[{"name": "postgres", "password": "hush-hush"}]), 400, "reserved"),
    "same user": (good(users=[{"name": "a", "password": "hush-hush"}] * 2), 400, "twice"),
    "no password": (good(users=[{"name": "a"}]), 400, "password"),
    "password number": (good(users=[{"name": "a", "password": 123456789}]), 400, "password"),
    "database of nobody": (
        good(users=[{"name": "a", "password": "hush-hush", "databases": [{"name": "b"}]}]), 400, "not to be created",
    ),
}


@pytest.mark.parametrize(("body", "status", "says"), BAD.values(), ids=BAD)
async def test_a_bad_create_writes_nothing(api: Caller, world: World, body: Any, status: int, says: str):
    answer = await api("POST", "/instances", body)
    assert answer.status == status, answer.body
    assert re.search(says, answer.problem)
    assert "hush" not in answer.problem
    assert "123456789" not in answer.problem
    assert await world.count("instances") + await world.count("operations") == 0


async def test_quotas_hold_against_many_at_a_time(api: Caller, world: World):
    answers = await asyncio.gather(*(api("POST", "/instances", good()) for _ in range(9)))
    assert sorted(a.status for a in answers) == [200] * 5 + [413] * 4
    assert {a.problem for a in answers if a.status == 413} == {"Quota exceeded for resources: ['instances']."}
    assert await world.count("instances") == 5
    assert (await api.as_("bob")("POST", "/instances", good())).status == 200


async def test_an_idempotency_key_makes_one_instance(api: Caller, world: World):
    key = {"Idempotency-Key": "abc"}
    first, second = await asyncio.gather(*(api("POST", "/instances", good(), headers=key) for _ in range(2)))
    assert first.must(200)["instance"]["id"] == second.must(200)["instance"]["id"]
    assert first.headers["x-coffer-operation"] == second.headers["x-coffer-operation"]
    assert (await api("POST", "/instances", good(name="other"), headers=key)).status == 422
    assert (await api.as_("bob")("POST", "/instances", good(), headers=key)).status == 200
    assert await world.count("instances") == 2


async def test_show_tells_the_facts(api: Caller, world: World):
    instance = await world.instance(addresses=[
        {"address": "10.0.0.5", "type": "private", "network": "n"}, {"address": "192.0.2.7", "type": "public"},
    ])
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    assert (shown["status"], shown["operating_status"]) == ("ACTIVE", "HEALTHY")
    assert shown["volume"] == {"size": 2, "used": 0.5, "used_percent": 25.0}
    assert shown["ip"] == ["10.0.0.5", "192.0.2.7"]
    assert [a["type"] for a in shown["addresses"]] == ["private", "public"]
    assert shown["access"] == {"is_public": False}
    assert shown["tenant_id"] == "p1"
    assert shown["links"][0]["href"] == f"{api.base}/v1.0/p1/instances/{instance}"


async def test_a_fault_is_shown_while_it_lasts(api: Caller, world: World):
    instance = await world.instance(failed=True, fault_message="no room", fault_details="trace")
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    assert (shown["status"], shown["fault"]["message"], shown["fault"]["details"]) == ("ERROR", "no room", None)
    seen = (await api.as_("root")("GET", f"/instances/{instance}")).must(200)["instance"]
    assert seen["fault"]["details"] == "trace"
    assert "server_id" in seen
    (await api("POST", f"/instances/{instance}/action", {"restart": {}})).must(202)
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    assert shown["status"] == "REBOOT"
    assert "fault" not in shown


async def test_pages_follow_one_another(api: Caller, world: World):
    ids = {await world.instance() for _ in range(5)}
    await world.instance("p2")
    seen: list[str] = []
    answer = (await api("GET", "/instances?limit=2&include_clustered=False")).must(200)
    while True:
        seen += [item["id"] for item in answer["instances"]]
        assert len(answer["instances"]) <= 2
        if "links" not in answer:
            break
        assert answer["links"] == answer["instances_links"]
        path = answer["links"][0]["href"].removeprefix(api.base)
        assert "include_clustered=False" in path
        answer = (await api.bare("GET", path)).must(200)
    assert len(seen) == 5
    assert set(seen) == ids
    assert "created" not in answer["instances"][0]
    assert "created" in (await api("GET", "/instances/detail")).must(200)["instances"][0]


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "limit=1.5", "marker=%00", "limit="])
async def test_bad_paging_is_refused(api: Caller, query: str):
    assert (await api("GET", f"/instances?{query}")).status == 400


async def test_another_project_sees_nothing(api: Caller, world: World):
    instance = await world.instance()
    bob = api.as_("bob")
    for method, path, body in [
        ("GET", "", None), ("DELETE", "", None), ("PUT", "", {"instance": {"name": "mine"}}),
        ("POST", "/action", {"restart": {}}), ("GET", "/databases", None), ("GET", "/operations", None),
        ("POST", "/root", None), ("GET", "/backups", None),
    ]:
        assert (await bob(method, f"/instances/{instance}{path}", body)).status == 404
    assert (await bob("GET", "/instances")).must(200) == {"instances": []}
    assert (await api.as_("root")("GET", f"/instances/{instance}")).status == 200
    assert await world.count("operations") == 0


async def test_what_is_changed_later(api: Caller, world: World):
    instance = await world.instance()
    path = f"/instances/{instance}"
    (await api("PUT", path, {"instance": {"name": "two"}})).must(202)
    assert (await api("GET", path)).body["instance"]["name"] == "two"
    (await api("PATCH", path, {"instance": {"name": "three"}})).must(202)
    assert (await api("PUT", path, {"instance": {}})).status == 202
    assert (await api("PUT", path, {"instance": {"configuration": None}})).status == 202
    assert (await api("PUT", path, {"instance": {"name": "four", "replica_of": ""}})).status == 501
    for body in [{}, {"instance": {"nam": "x"}}, {"instance": {"name": ""}}, {"instance": {}, "x": 1}]:
        assert (await api("PUT", path, body)).status == 400
    assert (await api("GET", path)).body["instance"]["name"] == "three"


async def test_delete_is_filed_once(api: Caller, world: World):
    instance = await world.instance()
    first = await api("DELETE", f"/instances/{instance}")
    second = await api("DELETE", f"/instances/{instance}")
    assert (first.status, second.status) == (202, 202)
    assert first.headers["x-coffer-operation"] == second.headers["x-coffer-operation"]
    assert (await api("GET", f"/instances/{instance}")).body["instance"]["status"] == "SHUTDOWN"
    assert (await api("POST", f"/instances/{instance}/action", {"restart": {}})).status == 422
    await world.finish()
    await world.sql("UPDATE instances SET deleted_at = now()")
    assert (await api("GET", f"/instances/{instance}")).status == 404
    assert (await api("DELETE", f"/instances/{instance}")).status == 404
    operation = first.headers["x-coffer-operation"]
    assert (await api("GET", f"/operations/{operation}")).must(200)["operation"]["state"] == "succeeded"


async def test_an_instance_being_built_is_not_deleted(api: Caller):
    made = (await api("POST", "/instances", good())).must(200)["instance"]["id"]
    answer = await api("DELETE", f"/instances/{made}")
    assert answer.status == 422
    assert answer.problem == f"Instance {made} is not ready. (Status is BUILD)."


async def test_delete_ends_a_restart_that_is_under_way(api: Caller, world: World):
    instance = await world.instance()
    (await api("POST", f"/instances/{instance}/action", {"restart": {}})).must(202)
    deletion = asyncio.create_task(api("DELETE", f"/instances/{instance}"))
    while not (await world.sql("SELECT 1 FROM operations WHERE cancel_requested")):
        await asyncio.sleep(0.01)
    await world.finish(OperationState.CANCELLED)
    (await deletion).must(202)
    assert (await world.finish()).kind == "delete_instance"


async def test_operations_are_followed_and_cancelled(api: Caller, world: World):
    made = (await api("POST", "/instances", good())).must(200)["instance"]["id"]
    (listed,) = (await api("GET", "/operations")).must(200)["operations"]
    assert (listed["kind"], listed["state"], listed["instance_id"]) == ("create_instance", "pending", made)
    assert (await api("GET", f"/instances/{made}/operations")).must(200)["operations"] == [listed]
    path = f"/operations/{listed['id']}"
    assert (await api("GET", path)).must(200)["operation"] == {**listed, "events": []}
    assert (await api.as_("bob")("GET", path)).status == 404
    assert (await api.as_("bob")("DELETE", path)).status == 404
    assert (await api.as_("rita")("POST", path + "/cancel")).status == 403
    (await api("POST", path + "/cancel")).must(202)
    assert (await api("GET", path)).body["operation"]["cancel_requested"] is True
    await world.finish(OperationState.FAILED, failure_code="cancelled", failure_text="as asked", failure_step="a")
    shown = (await api("GET", path)).body["operation"]
    assert shown["failure"] == {"code": "cancelled", "message": "as asked", "step": "a"}
    assert "finished" in shown
    assert (await api("DELETE", path)).status == 409


async def test_operations_are_paged(api: Caller, world: World):
    instance = await world.instance()
    for _ in range(3):
        (await api("POST", f"/instances/{instance}/action", {"restart": {}})).must(202)
        await world.finish()
    answer = (await api("GET", "/operations?limit=2")).must(200)
    rest = (await api.bare("GET", answer["links"][0]["href"].removeprefix(api.base))).must(200)
    assert (len(answer["operations"]), len(rest["operations"])) == (2, 1)
    assert "links" not in rest
