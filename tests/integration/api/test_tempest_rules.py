"""What trove-tempest-plugin asks and asserts: exact statuses, how it waits, how it cleans up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from coffer_db.tables import OperationState
from coffer_shared.messages import Engine
from integration.api.guest import StubGuest, doing
from integration.api.service import VERSION, Caller, World

NETWORK = "99999999-9999-4999-8999-999999999999"
WAITS = " is not implemented in this release."


def body(**more: Any) -> dict[str, Any]:
    return {"instance": {
        "name": "trove-tempest", "flavorRef": "1", "volume": {"size": 1, "type": None},
        "nics": [{"net-id": NETWORK}], "datastore": {"type": "postgresql", "version": "17"},
        "databases": [{"name": "db1"}],
        "users": [{"name": "test_user", "password": "password", "databases": [{"name": "db1"}]}],
        "access": {"is_public": True}, **more,
    }}


async def states(api: Caller, instance: str) -> tuple[str, str]:
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    return shown["status"], shown["operating_status"]


async def created(world: World) -> None:
    await world.sql("UPDATE instances SET server_id = 'machine'")
    await world.finish()


async def test_a_life_with_the_exact_codes(api: Caller, world: World):
    made = (await api("POST", "/instances", body())).must(200)["instance"]["id"]
    assert (await states(api, made))[0] == "BUILD"
    await created(world)
    await world.beat(made)
    assert await states(api, made) == ("ACTIVE", "HEALTHY")
    path = f"/instances/{made}"
    (await api("PUT", path, {"instance": {"name": "renamed"}})).must(202)
    (await api("PATCH", path, {"instance": {"name": "again"}})).must(202)
    (await api("POST", f"{path}/action", {"restart": {}})).must(202)
    await world.finish()
    backup = (await api("POST", "/backups", {"backup": {"name": "b", "instance": made}})).must(202)["backup"]["id"]
    await world.finish()
    (await api("DELETE", f"/backups/{backup}")).must(202)
    (await api("DELETE", path)).must(202)


async def test_databases_users_and_grants_answer_202(asking: Caller, world: World, guest: StubGuest):
    base = f"/instances/{guest.instance}"
    for method, path, given in [
        ("POST", "/databases", {"databases": [{"name": "db2"}]}),
        ("POST", "/users", {"users": [{"name": "u", "password": "word", "databases": [{"name": "db2"}]}]}),
        ("PUT", "/users/u", {"user": {"name": "v", "password": "other"}}),
        ("PUT", "/users/u/databases", {"databases": [{"name": "db1"}]}),
        ("DELETE", "/users/u/databases/db1", None), ("DELETE", "/users/u", None), ("DELETE", "/databases/db2", None),
    ]:
        answer, _ = await doing(asking, world, method, base + path, given)
        assert (answer.status, answer.body) == (202, ""), (method, path)


@pytest.mark.parametrize("given", [{}, {"password": "my-own-word"}], ids=["empty", "password"])
async def test_root_on_200_and_off_204(asking: Caller, world: World, guest: StubGuest, given: dict[str, str]):
    path = f"/instances/{guest.instance}/root"
    answer, _ = await doing(asking, world, "POST", path, given)
    assert answer.must(200)["user"]["password"] == given.get("password", answer.body["user"]["password"])
    await world.sql("UPDATE instances SET root_enabled_at = now()")
    answer, _ = await doing(asking, world, "DELETE", path)
    assert (answer.status, answer.body) == (204, "")


async def test_configuration_groups_post_200_patch_200_put_202_delete_202(api: Caller):
    wanted = {"name": "c", "values": {}, "datastore": {"type": "postgresql", "version": "17"}}
    made = (await api("POST", "/configurations", {"configuration": wanted})).must(200)["configuration"]
    assert made["instance_count"] == 0
    path = f"/configurations/{made['id']}"
    (await api("PATCH", path, {"configuration": {"values": {}}})).must(200)
    (await api("PUT", path, {"configuration": {"values": {}}})).must(202)
    (await api("DELETE", path)).must(202)


async def test_quotas_answer_200(api: Caller):
    root = api.as_("root")
    (await root("GET", "/mgmt/quotas/p1")).must(200)
    (await root("PUT", "/mgmt/quotas/p1", {"quotas": {"instances": 7}})).must(200)
    limits = {quota["resource"]: quota["limit"] for quota in (await root("GET", "/mgmt/quotas/p1")).body["quotas"]}
    assert limits["instances"] == 7


async def test_both_words_are_needed_for_ready(api: Caller, world: World):
    """It waits for ACTIVE and HEALTHY: neither may be said before the engine serves."""
    made = (await api("POST", "/instances", body())).must(200)["instance"]["id"]
    await world.beat(made, Engine.HEALTHY)
    assert await states(api, made) == ("BUILD", "")
    await created(world)
    await world.beat(made, Engine.STARTING)
    assert await states(api, made) == ("ACTIVE", "ACTIVE")
    await world.beat(made)
    assert await states(api, made) == ("ACTIVE", "HEALTHY")


async def test_a_failure_is_ERROR_with_a_fault_to_print(api: Caller, world: World):
    made = (await api("POST", "/instances", body())).must(200)["instance"]["id"]
    await world.finish(OperationState.FAILED, failure_code="cloud", failure_text="no room", failure_step="machine")
    await world.sql("UPDATE instances SET failed = true, fault_message = 'no room'")
    shown = (await api("GET", f"/instances/{made}")).must(200)["instance"]
    assert (shown["status"], shown["fault"]["message"]) == ("ERROR", "no room")


async def test_the_clean_up_of_an_administrator_of_another_project(api: Caller, world: World):
    """It addresses the tenant's instance under its own project: reset, delete, and 404 means gone."""
    root = api.as_("root")
    instance = await world.instance()
    (await root("POST", f"/instances/{instance}/action", {"reset_status": {}})).must(202)
    (await root("DELETE", f"/instances/{instance}")).must(202)
    await world.sql("UPDATE instances SET deleted_at = now()")
    assert (await root("GET", f"/instances/{instance}")).status == 404


async def test_double_slash_detach(api: Caller, world: World):
    instance = await world.instance()
    answer = await api("PUT", f"//instances/{instance}", {"instance": {"replica_of": ""}})
    assert (answer.status, answer.problem.endswith(WAITS)) == (501, True)  # the route is there, replicas are not
    (await api("PUT", f"//instances/{instance}", {"instance": {}})).must(202)


async def test_what_it_reads_of_an_instance(api: Caller, world: World):
    instance = await world.instance(flavor_id="gold", is_public=True, addresses=[
        {"address": "10.0.0.5", "type": "private", "network": NETWORK}, {"address": "192.0.2.7", "type": "public"},
    ])
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    assert {a["type"]: a["address"] for a in shown["addresses"]} == {"private": "10.0.0.5", "public": "192.0.2.7"}
    assert [a for a in shown["addresses"] if a["type"] == "public"] == [{"address": "192.0.2.7", "type": "public"}]
    assert (shown["flavor"]["id"], shown["volume"]["size"], shown["access"]["is_public"]) == ("gold", 2, True)


async def test_flavor_id_equals_the_requested_string(api: Caller):
    for wanted in ("1", "gold"):
        made = (await api("POST", "/instances", body(flavorRef=wanted))).must(200)["instance"]
        assert made["flavor"]["id"] == wanted


async def test_the_default_version_is_one_of_the_versions(api: Caller):
    (datastore,) = (await api("GET", "/datastores")).must(200)["datastores"]
    assert datastore["default_version"] == VERSION
    assert VERSION in {version["id"] for version in datastore["versions"]}


@pytest.mark.parametrize(
    ("method", "path", "given"),
    [
        ("POST", "/instances/{id}/action", {"promote_to_replica_source": {}}),
        ("POST", "/instances/{id}/action", {"eject_replica_source": {}}),
        ("GET", "/instances/{id}/log", None), ("POST", "/instances/{id}/log", {"name": "general", "publish": 1}),
        ("GET", "/instances/{id}/ssl", None), ("POST", "/instances/{id}/ssl", {"ssl": {"disable": True}}),
        ("POST", "/instances", {"instance": {"name": "r", "replica_of": "{id}", "nics": [{"net-id": NETWORK}]}}),
        ("POST", "/backups", {"backup": {"name": "n", "instance": "{id}", "incremental": 1}}),
    ],
)
async def test_what_waits_says_so(api: Caller, world: World, method: str, path: str, given: Any):
    instance = await world.instance()
    filled = json.loads(json.dumps(given).replace("{id}", instance))
    answer = await api(method, path.format(id=instance), filled)
    assert answer.status == 501
    assert answer.problem.endswith(WAITS)
    assert await world.count("operations") == 0
