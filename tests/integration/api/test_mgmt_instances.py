"""Instances as administrators see them: of all projects, deleted ones too."""

from __future__ import annotations

import re

import pytest

from coffer_shared.messages import Engine
from integration.api.service import VERSION, Caller, World

UNKNOWN = "99999999-9999-4999-8999-999999999999"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
READS = ("/mgmt/instances", "/mgmt/instances/{id}", "/mgmt/instances/{id}/root", "/mgmt/instances/{id}/rpc_ping",
         "/mgmt/instances/{id}/hwinfo", "/mgmt/instances/{id}/diagnostics", "/mgmt/clusters", "/mgmt/clusters/{id}")


@pytest.fixture
def root(api: Caller) -> Caller:
    return api.as_("root")


async def delete(world: World, instance: str) -> None:
    """As the provisioner leaves it."""
    await world.sql("UPDATE instances SET deleted_at = now(), updated_at = now() WHERE id = :id", id=instance)
    await world.sql("DELETE FROM heartbeats WHERE instance_id = :id", id=instance)


async def listed(caller: Caller, query: str = "") -> list[str]:
    return [item["id"] for item in (await caller("GET", f"/mgmt/instances{query}")).must(200)["instances"]]


@pytest.mark.parametrize("path", READS)
async def test_only_administrators_see_it(api: Caller, world: World, path: str):
    instance = await world.instance()
    for name in ("ann", "rita"):
        answer = await api.as_(name)("GET", path.format(id=instance))
        assert (answer.status, answer.problem) == (401, "User does not have admin privileges.")


async def test_the_list_is_of_all_projects_and_both_kinds(root: Caller, world: World):
    first, second, gone = await world.instance(), await world.instance("p2"), await world.instance()
    await delete(world, gone)
    assert await listed(root) == [gone, second, first]
    assert await listed(root, "?deleted=false&include_clustered=False") == [second, first]
    assert await listed(root, "?deleted=True") == [gone]
    assert await listed(root, "?project_id=p1") == [gone, first]
    assert await listed(root, "?deleted=False&project_id=p2") == [second]
    assert await listed(root, "?project_id=nobody") == []
    answer = await root("GET", "/mgmt/instances?deleted=maybe")
    assert (answer.status, answer.problem) == (400, "Validation error: deleted must be true or false.")


async def test_the_marker_is_a_number(root: Caller, world: World):
    made = [await world.instance() for _ in range(3)]
    page = (await root("GET", "/mgmt/instances?limit=2&deleted=false")).must(200)
    assert [item["id"] for item in page["instances"]] == made[:0:-1]
    assert page["links"] == page["instances_links"]
    href = page["links"][0]["href"]
    assert "marker=2" in href
    assert "deleted=false" in href
    rest = (await root.bare("GET", href.removeprefix(root.base))).must(200)
    assert ([item["id"] for item in rest["instances"]], "links" in rest) == (made[:1], False)
    assert (await root("GET", f"/mgmt/instances?marker={made[0]}")).status == 400


async def test_an_item_says_what_stands_behind_it(root: Caller, world: World):
    instance = await world.instance("p2", server_id="machine-1", volume_id="volume-1")
    (item,) = (await root("GET", "/mgmt/instances")).must(200)["instances"]
    assert item["server"] == {
        "id": "machine-1", "name": "one", "status": "ACTIVE", "tenant_id": "p2", "host": None,
    }
    assert (item["tenant_id"], item["service_status"]) == ("p2", "HEALTHY")
    assert (item["deleted"], item["deleted_at"]) == (False, None)
    assert item["task_description"] == "No tasks for the instance."
    assert item["volume"] == {"size": 2}
    seen = (await root("GET", f"/instances/{instance}")).must(200)["instance"]
    seen["volume"] = {"size": 2}
    assert item.items() >= seen.items()
    (await root("POST", f"/instances/{instance}/action", {"restart": {}})).must(202)
    (item,) = (await root("GET", "/mgmt/instances")).must(200)["instances"]
    assert (item["status"], item["task_description"]) == ("REBOOT", "Restart instance.")


async def test_one_is_shown_with_its_machine_and_volume(root: Caller, world: World):
    instance = await world.instance(
        server_id="machine-1", volume_id="volume-1", availability_zone="az", root_enabled_by="ann",
        addresses=[
            {"address": "10.0.0.5", "type": "private", "network": "n"}, {"address": "fd00::7", "type": "public"},
        ],
    )
    await world.sql("UPDATE instances SET root_enabled_at = now()")
    shown = (await root("GET", f"/mgmt/instances/{instance.upper()}")).must(200)["instance"]
    assert shown["server"]["addresses"] == {
        "n": [{"addr": "10.0.0.5", "version": 4}], "public": [{"addr": "fd00::7", "version": 6}],
    }
    created = shown["volume"].pop("created_at")
    assert TIME.fullmatch(created)
    assert shown["volume"] == {
        "id": "volume-1", "size": 2, "status": "in-use", "attachments": [{"server_id": "machine-1"}],
        "availability_zone": "az", "used": 0.5, "total": 2.0,
    }
    assert shown["guest_status"] == {"state_description": "healthy"}
    assert TIME.fullmatch(shown["root_enabled"])
    assert shown["root_enabled_by"] == "ann"


@pytest.mark.parametrize(
    ("engine", "age", "word", "state", "server"),
    [
        (Engine.HEALTHY, 0, "HEALTHY", "healthy", "ACTIVE"), (Engine.RUNNING, 0, "ACTIVE", "running", "ACTIVE"),
        (Engine.CRASHED, 0, "SHUTDOWN", "crashed", "ACTIVE"), (Engine.STOPPED, 0, "SHUTDOWN", "shutdown", "ACTIVE"),
        (Engine.UNHEALTHY, 0, "BLOCKED", "blocked", "ACTIVE"), (Engine.HEALTHY, 120, "ERROR", "unknown", "UNKNOWN"),
    ],
)
async def test_the_words_for_the_service(
    root: Caller, world: World, engine: Engine, age: float, word: str, state: str, server: str,
):
    instance = await world.instance(server_id="m")
    await world.beat(instance, engine, age=age)
    shown = (await root("GET", f"/mgmt/instances/{instance}")).must(200)["instance"]
    assert (shown["service_status"], shown["guest_status"]) == (word, {"state_description": state})
    assert shown["server"]["status"] == server
    assert "root_enabled" not in shown
    assert shown["volume"] is None


async def test_a_deleted_one_is_shown_when_asked_for(root: Caller, world: World):
    instance = await world.instance(server_id="m", volume_id="v", failed=True, fault_message="broken")
    await delete(world, instance)
    missing = await root("GET", f"/mgmt/instances/{instance}")
    assert (missing.status, missing.problem) == (404, f"Resource {instance} cannot be found.")
    assert (await root("GET", f"/mgmt/instances/{instance}?deleted=false")).status == 404
    shown = (await root("GET", f"/mgmt/instances/{instance}?deleted=true")).must(200)["instance"]
    assert (shown["status"], shown["operating_status"], shown["service_status"]) == ("SHUTDOWN", "", "DELETED")
    assert shown["guest_status"] == {"state_description": "deleted"}
    assert shown["deleted"] is True
    assert TIME.fullmatch(shown["deleted_at"])
    assert (shown["server"], shown["volume"]) == (None, None)
    assert not {"ip", "addresses", "fault"} & shown.keys()
    assert shown["datastore"] == {"type": "postgresql", "version": "17", "version_number": "17.6"}


async def test_a_deleted_one_outlives_its_version(root: Caller, world: World):
    instance = await world.instance()
    await delete(world, instance)
    (await root("DELETE", f"/mgmt/datastore-versions/{VERSION}")).must(202)
    (item,) = (await root("GET", "/mgmt/instances")).must(200)["instances"]
    assert (item["id"], item["datastore"]) == (instance, {"type": "", "version": "", "version_number": ""})


async def test_one_that_is_being_built(root: Caller, api: Caller, world: World):
    made = (await api("POST", "/instances", {"instance": {
        "name": "x", "flavorRef": 1, "volume": {"size": 1}, "datastore": {"type": "postgresql"},
    }})).must(200)["instance"]["id"]
    shown = (await root("GET", f"/mgmt/instances/{made}")).must(200)["instance"]
    assert (shown["status"], shown["server"], shown["service_status"]) == ("BUILD", None, "NEW")
    assert shown["guest_status"] == {"state_description": "new"}
    await world.sql("UPDATE instances SET server_id = 'm'")
    shown = (await root("GET", f"/mgmt/instances/{made}")).must(200)["instance"]
    assert (shown["server"]["status"], shown["server"]["addresses"]) == ("BUILD", {})


async def test_the_history_of_root(root: Caller, world: World):
    instance = await world.instance()
    path = f"/mgmt/instances/{instance}/root"
    assert (await root("GET", path)).must(200) == {
        "root_history": {"id": instance, "enabled": "Never", "user": "Nobody"},
    }
    for user, age in (("ann", 60), ("bob", 30)):
        await world.sql(
            "INSERT INTO root_history (instance_id, user_id, enabled_at) "
            "VALUES (:id, :user, now() - make_interval(secs => :age))", id=instance, user=user, age=age,
        )
    await delete(world, instance)
    found = (await root("GET", path)).must(200)["root_history"]
    assert (found["id"], found["user"]) == (instance, "bob")
    assert TIME.fullmatch(found["enabled"])


@pytest.mark.parametrize("what", ["", "/root", "/rpc_ping"])
@pytest.mark.parametrize("id_", [UNKNOWN, "some-name"])
async def test_what_is_not_there_is_a_clean_404(root: Caller, what: str, id_: str):
    answer = await root("GET", f"/mgmt/instances/{id_}{what}")
    assert (answer.status, answer.problem) == (404, f"Resource {id_} cannot be found.")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_weakness_10_no_unguarded_aliases(api: Caller, root: Caller, world: World, method: str):
    """Trove's management routes also carry the public operations, without the administrator's guard."""
    instance = await world.instance()
    body = {"instance": {"name": "x", "flavorRef": 1, "volume": {"size": 1}, "datastore": {"type": "postgresql"}}}
    for caller in (api, root):
        for path in ("/mgmt/instances", f"/mgmt/instances/{instance}", "/mgmt/clusters", f"/mgmt/clusters/{instance}"):
            assert (await caller(method, path, body)).status == 404
    assert await world.count("instances") == 1
    assert await world.count("operations") == 0


async def test_weakness_30_legacy_is_not_pretended(root: Caller, world: World):
    """What no guest can do any more is said to be absent, and what cannot exist is not there."""
    instance = await world.instance()
    for method, path in [
        ("GET", "/mgmt/instances/{}/hwinfo"), ("GET", "/mgmt/instances/{}/diagnostics"),
        ("POST", "/mgmt/instances/{}/upgrade"), ("POST", "/clusters"), ("POST", "/modules"),
    ]:
        answer = await root(method, path.format(instance), {})
        assert (answer.status, set(answer.body)) == (501, {"notImplemented"})
    for path in ("/clusters", "/mgmt/clusters", "/modules"):
        assert (await root("GET", path)).must(200) == {path.rpartition("/")[2]: []}
    for method, path in [("GET", "/mgmt/clusters/zz"), ("POST", "/mgmt/clusters/zz/action"), ("GET", "/clusters/zz")]:
        answer = await root(method, path)
        assert (answer.status, answer.problem) == (404, "Cluster 'zz' cannot be found.")
