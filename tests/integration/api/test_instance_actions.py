"""What is done to instances through the API: access, restart, reset of the status, deletion in every state."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coffer_db.tables import OperationState
from coffer_shared.messages import Engine
from integration.api.service import Caller, World

UNKNOWN = "99999999-9999-4999-8999-999999999999"
NEW = {"instance": {
    "name": "x", "flavorRef": 1, "volume": {"size": 1}, "datastore": {"type": "postgresql", "version": "17"},
}}


async def seen(api: Caller, instance: str) -> tuple[str, str]:
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    return shown["status"], shown["operating_status"]


async def operations_of(world: World) -> list[tuple[str, dict[str, Any]]]:
    return [(row["kind"], row["args"]) for row in await world.sql("SELECT kind, args FROM operations ORDER BY seq")]


# --- access ---


async def test_access_is_changed_by_an_operation(api: Caller, world: World):
    instance = await world.instance()
    wanted = {"is_public": True, "allowed_cidrs": ["10.1.2.3/16", "192.0.2.7"]}
    answer = await api("PUT", f"/instances/{instance}", {"instance": {"access": wanted}})
    assert answer.must(202) == ""
    assert await operations_of(world) == [
        ("update_access", {"is_public": True, "allowed_cidrs": ["10.1.0.0/16", "192.0.2.7/32"]}),
    ]
    assert await seen(api, instance) == ("ACTIVE", "")
    assert (await world.finish()).id == answer.headers["x-coffer-operation"]
    assert await seen(api, instance) == ("ACTIVE", "HEALTHY")


@pytest.mark.parametrize("access", [{"is_public": True}, {"allowed_cidrs": ["10.0.0.0/8"]}, {"allowed_cidrs": []}])
async def test_weakness_19_only_what_is_given_is_asked_for(api: Caller, world: World, access: dict[str, Any]):
    instance = await world.instance(is_public=False, allowed_cidrs=["192.0.2.0/24"])
    (await api("PUT", f"/instances/{instance}", {"instance": {"access": access}})).must(202)
    assert await operations_of(world) == [("update_access", access)]


async def test_weakness_22_a_name_goes_with_another_attribute_or_not_at_all(api: Caller, world: World):
    instance = await world.instance()
    path, both = f"/instances/{instance}", {"instance": {"name": "two", "access": {"is_public": True}}}
    (await api("PUT", path, both)).must(202)
    assert (await api("GET", path)).body["instance"]["name"] == "two"
    both["instance"]["name"] = "three"
    assert (await api("PUT", path, both)).status == 422
    assert (await api("GET", path)).body["instance"]["name"] == "two"
    assert len(await operations_of(world)) == 1


@pytest.mark.parametrize(("body", "says"), [
    ({"access": None}, "access"), ({"access": []}, "access"), ({"access": {"public": True}}, "public"),
    ({"access": {"is_public": 1}}, "is_public"), ({"access": {"is_public": None}}, "is_public"),
    ({"access": {"allowed_cidrs": "10.0.0.0/8"}}, "allowed_cidrs"), ({"access": {"allowed_cidrs": ["x"]}}, "range"),
    ({"access": {"allowed_cidrs": ["300.0.0.0/8"]}}, "allowed_cidrs"),
    ({"access": {"allowed_cidrs": ["10.0.0.0/8", "10.1.0.0/8"]}}, "twice"),
    ({"access": {}, "configuration": None}, "Only one attribute (except 'name') is allowed to update."),
    ({"name": "x", "replica_of": "", "datastore_version": "18"}, "Only one attribute"),
    ({"name": None, "access": {"is_public": True}}, "name"),
], ids=str)
async def test_a_bad_change_changes_nothing(api: Caller, world: World, body: dict[str, Any], says: str):
    instance = await world.instance()
    answer = await api("PUT", f"/instances/{instance}", {"instance": body})
    assert answer.status == 400, answer.body
    assert says in answer.problem
    assert await operations_of(world) == []


async def test_access_is_not_patched_and_not_changed_by_readers_or_strangers(api: Caller, world: World):
    instance, body = await world.instance(), {"instance": {"access": {"is_public": True}}}
    assert (await api("PATCH", f"/instances/{instance}", body)).status == 400
    assert (await api.as_("rita")("PUT", f"/instances/{instance}", body)).status == 403
    assert (await api.as_("bob")("PUT", f"/instances/{instance}", body)).status == 404
    assert (await api("PUT", f"/instances/{instance}", {"instance": {"access": {}}})).status == 202
    assert await operations_of(world) == []


async def test_access_is_changed_whatever_the_engine_does_but_not_beside_another_task(api: Caller, world: World):
    instance, body = await world.instance(healthy=False), {"instance": {"access": {"is_public": True}}}
    answer = await api("PUT", f"/instances/{instance}", body)
    answer.must(202)
    answer = await api("PUT", f"/instances/{instance}", body)
    assert answer.status == 422
    assert "update_access is running" in answer.problem
    assert "x-coffer-retry-after" in answer.headers


# --- actions ---


async def test_restart_and_what_stands_in_its_way(api: Caller, world: World):
    instance = await world.instance()
    path = f"/instances/{instance}/action"
    answer = await api("POST", path, {"restart": {}})
    answer.must(202)
    assert (await api("GET", f"/instances/{instance}")).body["instance"]["status"] == "REBOOT"
    assert (await api("POST", path, {"restart": None})).status == 422
    assert (await world.finish()).id == answer.headers["x-coffer-operation"]
    await world.beat(instance, age=120)
    assert (await api("POST", path, {"restart": {}})).status == 422
    assert (await api("GET", f"/instances/{instance}")).body["instance"]["operating_status"] == "ERROR"
    await world.beat(instance, Engine.CRASHED)
    (await api("POST", path, {"restart": None})).must(202)
    await world.finish()
    await world.beat(instance, Engine.STOPPED)
    (await api("POST", path, {"restart": {}})).must(202)


@pytest.mark.parametrize(("body", "status"), [
    ({}, 400), ({"jump": {}}, 400), ({"restart": {}, "resize": {}}, 400), ({"restart": {"x": 1}}, 400),
    ({"restart": []}, 400), ({"resize": {}}, 400), ({"resize": None}, 400),
    ({"resize": {"volume": {"size": 2}}}, 400), ({"resize": {"volume": {"size": 1}}}, 400),
    ({"resize": {"volume": {"size": 11}}}, 413), ({"resize": {"volume": {"size": 0}}}, 400),
    ({"resize": {"volume": {"size": True}}}, 400), ({"resize": {"volume": {"size": 5, "type": "x"}}}, 400),
    ({"resize": {"volume": {"size": 5}, "flavorRef": "gold"}}, 400),
    ({"resize": {"volume": 2}}, 400), ({"resize": {"volume": True}}, 400),
    ({"resize": {"flavorRef": "nope"}}, 400), ({"resize": {"flavorRef": 1}}, 400),
    ({"promote_to_replica_source": {}}, 501), ({"promote_to_replica_source": {"x": 1}}, 400),
    ({"eject_replica_source": {}}, 501), ({"reset_status": {}}, 403), ({"reset_status": {"x": 1}}, 400),
    ({"reset_status": []}, 400),
], ids=str)
async def test_other_actions_do_nothing(api: Caller, world: World, body: Any, status: int):
    instance = await world.instance()
    answer = await api("POST", f"/instances/{instance}/action", body)
    assert answer.status == status, answer.body
    assert answer.problem
    assert await world.count("operations") == 0


@pytest.mark.parametrize("body", [
    {"restart": {}}, {"resize": {"volume": {"size": 5}}}, {"resize": {"flavorRef": "gold"}},
    {"promote_to_replica_source": {}}, {"eject_replica_source": {}}, {"reset_status": {}},
], ids=str)
async def test_weakness_9_a_reader_does_nothing(api: Caller, world: World, body: Any):
    instance = await world.instance()
    answer = await api.as_("rita")("POST", f"/instances/{instance}/action", body)
    assert answer.status == 403
    assert answer.problem.startswith("Policy doesn't allow instance:")
    assert (await api.as_("bob")("POST", f"/instances/{instance}/action", body)).status in {403, 404}


# --- reset of the status ---


@pytest.mark.parametrize("body", [{"reset_status": {}}, {"reset_status": None}, {"reset_status": {"force_delete": 1}}])
async def test_weakness_9_only_administrators_reset_a_status(api: Caller, world: World, body: Any):
    instance = await world.instance(failed=True)
    for user in ("ann", "rita"):
        assert (await api.as_(user, "p1")("POST", f"/instances/{instance}/action", body)).status == 403
    assert await seen(api, instance) == ("ERROR", "")
    (await api.as_("root")("POST", f"/instances/{instance}/action", body)).must(202)
    assert await seen(api, instance) == ("ACTIVE", "ERROR")
    await world.beat(instance)
    assert await seen(api, instance) == ("ACTIVE", "HEALTHY")


async def test_a_reset_forgets_what_the_agent_has_said(api: Caller, world: World):
    instance = await world.instance()
    await api.as_("root")("POST", f"/instances/{instance}/action", {"reset_status": {}})
    assert await seen(api, instance) == ("ACTIVE", "ERROR")
    assert (await api("POST", f"/instances/{instance}/action", {"restart": {}})).status == 422
    await world.beat(instance, Engine.RUNNING)
    assert await seen(api, instance) == ("ACTIVE", "ACTIVE")
    assert await world.count("operations") == 0


async def test_a_reset_asks_for_the_end_of_what_runs(api: Caller, world: World):
    instance = await world.instance()
    backup = (await api("POST", "/backups", {"backup": {"name": "b", "instance": instance}})).must(202)["backup"]
    answer = await api.as_("root")("POST", f"/instances/{instance}/action", {"reset_status": {}})
    answer.must(202)
    assert answer.headers["x-coffer-operation"] == backup["operation_id"]
    assert (await seen(api, instance))[0] == "BACKUP"
    assert (await world.finish(OperationState.CANCELLED)).cancel_requested
    assert await seen(api, instance) == ("ACTIVE", "ERROR")


async def test_an_instance_whose_machine_was_taken_back_is_not_called_active(api: Caller, world: World):
    instance = await world.instance(failed=True, server_id=None)
    assert await seen(api, instance) == ("ERROR", "")
    await api.as_("root")("POST", f"/instances/{instance}/action", {"reset_status": {}})
    assert await seen(api, instance) == ("SHUTDOWN", "ERROR")


# --- deletion ---


async def test_weakness_16_an_instance_in_build_is_force_deleted_as_clients_do_it(api: Caller, world: World):
    root = api.as_("root")
    made = (await api("POST", "/instances", NEW)).must(200)["instance"]["id"]
    assert (await root("DELETE", f"/instances/{made}")).status == 422
    (await root("GET", f"/instances/{made}")).must(200)
    (await root("POST", f"/instances/{made}/action", {"reset_status": {}})).must(202)
    assert (await seen(api, made))[0] == "BUILD"
    deletion = asyncio.create_task(root("DELETE", f"/instances/{made}"))
    await asyncio.sleep(0.1)
    assert not deletion.done()
    assert (await world.finish(OperationState.CANCELLED)).kind == "create_instance"
    (await deletion).must(202)
    assert (await world.finish()).kind == "delete_instance"


@pytest.mark.parametrize("how", [
    {"failed": True}, {"failed": True, "server_id": None, "addresses": []}, {"healthy": False}, {},
], ids=str)
async def test_an_instance_in_any_state_of_rest_is_deleted(api: Caller, world: World, how: dict[str, Any]):
    instance = await world.instance(**how)
    (await api("DELETE", f"/instances/{instance}")).must(202)
    assert (await seen(api, instance))[0] == "SHUTDOWN"


async def test_many_deletions_at_once_are_one_and_give_the_quota_back_once(api: Caller, world: World):
    ids = [await world.instance() for _ in range(5)]
    assert (await api("POST", "/instances", NEW)).status == 413
    answers = await asyncio.gather(*(api("DELETE", f"/instances/{ids[0]}") for _ in range(6)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.headers["x-coffer-operation"] for answer in answers}) == 1
    await world.finish()
    await world.sql("UPDATE instances SET deleted_at = now() WHERE id = :id", id=ids[0])
    assert (await api("POST", "/instances", NEW)).status == 200
    assert (await api("POST", "/instances", NEW)).status == 413


# --- what administrators do ---


async def manage(api: Caller, instance: str, body: Any) -> Any:
    return await api.as_("root")("POST", f"/mgmt/instances/{instance}/action", body)


@pytest.mark.parametrize(("action", "args", "kind", "status"), [
    ("stop", {}, "stop_instance", "ACTIVE"), ("reboot", {}, "reboot_instance", "REBOOT"),
    ("rebuild", {"image_id": UNKNOWN}, "rebuild_instance", "BUILD"),
])
@pytest.mark.parametrize("how", [{}, {"failed": True}, {"healthy": False}], ids=str)
async def test_stop_reboot_and_rebuild_in_any_state(
    api: Caller, world: World, action: str, args: dict[str, Any], kind: str, status: str, how: dict[str, Any],
):
    instance = await world.instance(**how)
    answer = await manage(api, instance, {action: args})
    answer.must(202)
    assert await operations_of(world) == [(kind, args)]
    assert await seen(api, instance) == (status, "")
    for other in ("stop", "reboot"):
        assert (await manage(api, instance, {other: {}})).status == 422
    done = await world.finish()
    assert (done.kind, done.id, done.project_id) == (kind, answer.headers["x-coffer-operation"], "p1")


async def test_a_stopped_database_is_shown_so(api: Caller, world: World):
    instance = await world.instance()
    await world.beat(instance, Engine.STOPPED)
    assert await seen(api, instance) == ("ACTIVE", "SHUTDOWN")


async def test_a_task_is_reset(api: Caller, world: World):
    instance = await world.instance()
    answer = await manage(api, instance, {"reset-task-status": {}})
    answer.must(202)
    assert "x-coffer-operation" not in answer.headers
    assert await seen(api, instance) == ("ACTIVE", "HEALTHY")
    (await api("PUT", f"/instances/{instance}", {"instance": {"access": {"is_public": True}}})).must(202)
    answer = await manage(api, instance, {"reset-task-status": None})
    claimed = await world.finish(OperationState.CANCELLED)
    assert claimed.cancel_requested
    assert claimed.id == answer.headers["x-coffer-operation"]
    assert await seen(api, instance) == ("ACTIVE", "HEALTHY")


@pytest.mark.parametrize(("body", "status", "says"), [
    ({}, 400, "Exactly one"), ({"stop": {}, "reboot": {}}, 400, "Exactly one"),
    ({"foo": {}}, 400, "Invalid instance action: foo"), ({"stop": {"now": True}}, 400, "now"),
    ({"reboot": 1}, 400, "reboot"), ({"migrate": {"host": 1}}, 400, "host"), ({"migrate": {}}, 501, "migrate"),
    ({"migrate": {"host": "h"}}, 501, "migrate"), ({"rebuild": {}}, 400, "image_id"),
    ({"rebuild": {"image_id": "x"}}, 400, "image_id"), ({"rebuild": {"image_id": UNKNOWN, "x": 1}}, 400, "x"),
    ({"restart": {}}, 400, "Invalid instance action: restart"),
], ids=str)
async def test_a_management_action_that_is_none(api: Caller, world: World, body: Any, status: int, says: str):
    answer = await manage(api, await world.instance(), body)
    assert answer.status == status, answer.body
    assert says in answer.problem
    assert await world.count("operations") == 0


async def test_only_administrators_manage(api: Caller, world: World):
    instance = await world.instance()
    for user in ("ann", "rita"):
        answer = await api.as_(user)("POST", f"/mgmt/instances/{instance}/action", {"stop": {}})
        assert (answer.status, answer.problem) == (401, "User does not have admin privileges.")
    assert (await manage(api, UNKNOWN, {"stop": {}})).status == 404
    assert (await manage(api, "nothing", {"rebuild": {"image_id": UNKNOWN}})).status == 404
    assert await world.count("operations") == 0
