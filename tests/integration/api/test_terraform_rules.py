"""What the `openstack_db_*_v1` resources of Terraform do, in their order, through gophercloud."""

from __future__ import annotations

from typing import Any

import pytest

from coffer_db.tables import OperationState
from coffer_shared.commands import UserFound
from coffer_shared.messages import Engine
from integration.api.guest import StubGuest, doing
from integration.api.service import Caller, World
from support import gophercloud
from support.gophercloud import Gophercloud

WANTED = {
    "name": "test", "flavorRef": "1", "volume": {"size": 2}, "datastore": {"type": "postgresql", "version": "17"},
    "databases": [{"name": "testdb", "character_set": "utf8", "collate": "C.UTF-8"}],
    "users": [{"name": "testuser", "password": "testpassword", "databases": [{"name": "testdb"}]}],
}


@pytest.fixture
def go(api: Caller) -> Gophercloud:
    return Gophercloud(api)


async def shown(go: Gophercloud, instance: str) -> dict[str, Any]:
    found: dict[str, Any] = await go("GET", f"/instances/{instance}", instance=gophercloud.INSTANCE)
    return found


async def test_create_goes_from_BUILD_to_ACTIVE_and_shows_no_other_word(go: Gophercloud, world: World):
    made = await go("POST", "/instances", {"instance": WANTED}, ok=(200,), instance=gophercloud.INSTANCE)
    words = [made["status"]]
    words.append((await shown(go, made["id"]))["status"])
    await world.beat(made["id"], Engine.STARTING)
    words.append((await shown(go, made["id"]))["status"])
    await world.beat(made["id"])
    words.append((await shown(go, made["id"]))["status"])
    assert set(words) == {"BUILD"}
    await world.sql("UPDATE instances SET server_id = 'machine'")
    await world.finish()
    assert (await shown(go, made["id"]))["status"] == "ACTIVE"


async def test_what_it_reads_back(go: Gophercloud, world: World):
    instance = await world.instance(name="test")
    found = await shown(go, instance)
    assert (found["name"], found["flavor"]["id"], found["ip"]) == ("test", "1", ["10.0.0.5"])
    assert found["datastore"] == {"type": "postgresql", "version": "17"}
    assert found["addresses"][0]["type"] == "private"


async def test_a_name_that_it_reads_as_gone_is_404(api: Caller, go: Gophercloud, world: World):
    instance = await world.instance()
    await go("DELETE", f"/instances/{instance}")
    await world.finish()
    await world.sql("UPDATE instances SET deleted_at = now()")
    assert (await api("GET", f"/instances/{instance}")).status == 404


@pytest.mark.parametrize(
    ("more", "engine", "age"),
    [
        ({}, Engine.HEALTHY, 0), ({}, Engine.CRASHED, 0), ({}, Engine.HEALTHY, 500),
        ({"failed": True}, Engine.HEALTHY, 0),
        ({"failed": True, "fault_message": "no room"}, Engine.ABSENT, 500),
    ],
    ids=["well", "crashed", "silent", "failed", "failed and silent"],
)
async def test_delete_shows_only_active_or_shutdown_until_404(
    go: Gophercloud, world: World, more: dict[str, Any], engine: Engine, age: float,
):
    instance = await world.instance(healthy=False, **more)
    await world.beat(instance, engine, age=age)
    await go("DELETE", f"/instances/{instance}")
    assert (await shown(go, instance))["status"] in {"ACTIVE", "SHUTDOWN"}
    claimed = await world.claimed()
    await world.beat(instance, Engine.ABSENT, age=age)
    found = await shown(go, instance)
    assert found["status"] in {"ACTIVE", "SHUTDOWN"}
    assert found["fault"] is None
    assert claimed.kind == "delete_instance"


async def test_the_configuration_is_changed_by_detach_then_attach_back_to_back(
    api: Caller, go: Gophercloud, world: World,
):
    """Neither is waited for, and any status but ACTIVE is an error: both queue."""
    one, two = await world.configuration(), await world.configuration()
    instance = await world.instance(configuration_id=one)
    await go("PUT", f"/instances/{instance}", {"instance": {}}, ok=(202,))
    await go("PUT", f"/instances/{instance}", {"instance": {"configuration": two}}, ok=(202,))
    assert (await shown(go, instance))["status"] == "ACTIVE"
    found = (await api("GET", "/operations")).must(200)["operations"]
    assert [operation["kind"] for operation in found] == ["configure_instance"] * 2


async def test_db_database(asking: Caller, world: World, guest: StubGuest):
    go, path = Gophercloud(asking), f"/instances/{guest.instance}/databases"
    guest.databases = [f"other{n:02}" for n in range(30)]
    every = await go.all(path, "databases", gophercloud.DATABASE, lambda href: _below(asking, href))
    assert "testdb" not in {item["name"] for item in every}
    answer, _ = await doing(asking, world, "POST", path, {"databases": [{"name": "testdb"}]})
    assert answer.status == 202
    guest.databases.append("testdb")
    every = await go.all(path, "databases", gophercloud.DATABASE, lambda href: _below(asking, href))
    assert "testdb" in {item["name"] for item in every}
    answer, _ = await doing(asking, world, "DELETE", f"{path}/testdb")
    assert answer.status == 202


async def test_db_user_reads_its_databases_back(asking: Caller, world: World, guest: StubGuest):
    go, path = Gophercloud(asking), f"/instances/{guest.instance}/users"
    given = {"name": "testuser", "password": "testpassword", "host": "%", "databases": [{"name": "testdb"}]}
    answer, _ = await doing(asking, world, "POST", path, {"users": [given]})
    assert answer.status == 202
    guest.users = [UserFound("testuser", "%", ["testdb"])]
    (found,) = await go("GET", path, users=gophercloud.items(gophercloud.USER))
    assert (found["name"], [d["name"] for d in found["databases"]]) == ("testuser", ["testdb"])
    answer, _ = await doing(asking, world, "DELETE", f"{path}/testuser")
    assert answer.status == 202


async def test_db_configuration_is_ready_when_it_answers_200_and_gone_at_404(
    api: Caller, go: Gophercloud, world: World,
):
    await world.parameters()
    wanted = {
        "name": "test", "description": "of a test", "datastore": {"type": "postgresql", "version": "17"},
        "values": {"max_connections": 200},
    }
    made = await go("POST", "/configurations", {"configuration": wanted}, ok=(200,),
                    configuration=gophercloud.CONFIGURATION)
    assert made["values"] == {"max_connections": 200}
    path = f"/configurations/{made['id']}"
    assert (await go("GET", path, configuration=gophercloud.CONFIGURATION))["name"] == "test"
    await go("DELETE", path)
    assert (await api("GET", path)).status == 404


async def test_a_create_that_fails_is_ERROR_and_can_be_deleted(go: Gophercloud, world: World):
    made = await go("POST", "/instances", {"instance": WANTED}, ok=(200,), instance=gophercloud.INSTANCE)
    await world.finish(OperationState.FAILED, failure_code="cloud", failure_text="no room", failure_step="machine")
    await world.sql("UPDATE instances SET failed = true, fault_message = 'no room'")
    assert (await shown(go, made["id"]))["status"] == "ERROR"
    await go("DELETE", f"/instances/{made['id']}")


def _below(api: Caller, href: str) -> str:
    return href.removeprefix(f"{api.base}/v1.0/p1")
