"""Backups through the API: what is made, refused and shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from coffer_api import quotas
from coffer_api.settings import Settings
from coffer_shared.messages import Engine
from integration.api.service import GIB, VERSION, Caller, World, serving

UNKNOWN = "99999999-9999-4999-8999-999999999999"


def wanted(instance: str | None, **more: Any) -> dict[str, Any]:
    return {"backup": {"name": "nightly", **({} if instance is None else {"instance": instance}), **more}}


def ids(answer: Any) -> list[str]:
    return [item["id"] for item in answer.must(200)["backups"]]


async def test_a_backup_is_filed_in_one_go(api: Caller, world: World):
    instance = await world.instance()
    answer = await api("POST", "/backups", wanted(instance, description="before the move", incremental=0))
    made = answer.must(202)["backup"]
    operation = answer.headers["x-coffer-operation"]
    assert {k: v for k, v in made.items() if k not in {"id", "created", "updated"}} == {
        "name": "nightly", "description": "before the move", "locationRef": None, "instance_id": instance,
        "size": None, "status": "NEW", "parent_id": None, "project_id": "p1", "stored_size": None,
        "datastore": {"type": "postgresql", "version": "17", "version_id": VERSION},
        "storage": "swift", "container": "database_backups", "operation_id": operation,
    }
    (row,) = await world.sql("SELECT * FROM backups")
    assert (row["id"], row["prefix"], row["data_key"]) == (made["id"], f"{instance}/{made['id']}/", None)
    (filed,) = await world.sql("SELECT *, extract(epoch FROM deadline - created_at) AS within FROM operations")
    assert (filed["id"], filed["kind"], filed["args"]) == (operation, "create_backup", {"backup": made["id"]})
    assert (filed["lifecycle"], filed["beside"], filed["user_id"]) == (True, True, "ann")
    assert round(filed["within"]) == 12 * 3600
    assert filed["request_id"] == answer.headers["x-openstack-request-id"]
    assert (await api("GET", f"/backups/{made['id'].upper()}")).must(200)["backup"] == made
    assert (await api("GET", "/backups")).must(200) == {"backups": [made]}
    assert (await api("GET", f"/instances/{instance}/backups")).must(200) == {"backups": [made]}


@pytest.mark.parametrize("more", [
    {"incremental": None}, {"incremental": False}, {"storage_driver": "swift", "swift_container": "mine.2_-@"},
    {"storage_driver": None, "swift_container": None, "description": None, "parent_id": None, "restore_from": None},
])
async def test_what_clients_send_that_says_little(api: Caller, world: World, more: dict[str, Any]):
    instance = await world.instance()
    body = {"backup": {"name": "n", "instance_id": instance.upper(), **more}}
    made = (await api("POST", "/backups", body)).must(202)["backup"]
    assert (made["instance_id"], made["container"]) == (instance, more.get("swift_container") or "database_backups")


BAD: dict[str, tuple[dict[str, Any], int, str]] = {
    "empty": ({}, 400, "backup"),
    "nothing in it": ({"backup": {}}, 400, r"name"),
    "no instance": (wanted(None), 400, "instance is missing."),
    "blank name": (wanted(UNKNOWN, name=" "), 400, "letter or a digit"),
    "long name": (wanted(UNKNOWN, name="n" * 256), 400, "name"),
    "no uuid": (wanted("one"), 400, "instance"),
    "description": (wanted(UNKNOWN, description=""), 400, "description"),
    "bit 2": (wanted(UNKNOWN, incremental=2), 400, "incremental"),
    "bit as text": (wanted(UNKNOWN, incremental="1"), 400, "incremental"),
    "bit 1.0": (wanted(UNKNOWN, incremental=1.0), 400, "incremental"),
    "parent": (wanted(UNKNOWN, parent_id="x"), 400, "parent_id"),
    "driver": (wanted(UNKNOWN, storage_driver="s3"), 400, "storage_driver"),
    "increment to nothing, true": (wanted(UNKNOWN, incremental=True), 404, "Resource"),
    "increment to nothing": (wanted(UNKNOWN, incremental=1), 404, "Resource"),
    "elsewhere, in part": (wanted(None, restore_from={"remote_location": "x"}), 400, "restore_from"),
    "elsewhere": (wanted(None, restore_from={
        "remote_location": "https://store.example/v1/a/c/o", "local_datastore_version_id": UNKNOWN, "size": 1.5,
    }), 501, "restore_from"),
    "unknown instance": (wanted(UNKNOWN), 404, f"Resource {UNKNOWN} cannot be found."),
}


@pytest.mark.parametrize(("body", "status", "says"), BAD.values(), ids=BAD)
async def test_a_bad_request_is_refused(api: Caller, world: World, body: Any, status: int, says: str):
    answer = await api("POST", "/backups", body)
    assert answer.status == status, answer.body
    assert says in answer.problem
    assert await world.count("backups") + await world.count("operations") == 0


@pytest.mark.parametrize("name", ["a/b", "a b", "a;b", "$HOME1", "a'b", "ä1", "a?b", "a&b", "`1`", "a\\b"])
async def test_a_container_is_a_plain_word(api: Caller, world: World, name: str):
    instance = await world.instance()
    answer = await api("POST", "/backups", wanted(instance, swift_container=name))
    assert (answer.status, answer.problem) == (400, f"The value is not allowed: {name}")
    answer = await api("POST", "/backup_strategies", {"backup_strategy": {"swift_container": name}})
    assert (answer.status, answer.problem) == (400, f"The value is not allowed: {name}")
    assert await world.count("backups") + await world.count("operations") + await world.count("backup_strategies") == 0


async def test_an_engine_or_a_version_without_backups(api: Caller, world: World):
    instance = await world.instance()
    await world.sql("UPDATE datastore_versions SET backup_image = '' WHERE id = :id", id=VERSION)
    answer = await api("POST", "/backups", wanted(instance))
    assert (answer.status, "version '17'" in answer.problem) == (400, True)
    await world.sql("UPDATE datastore_versions SET backup_image = 'x', manager = 'other' WHERE id = :id", id=VERSION)
    answer = await api("POST", "/backups", wanted(instance))
    assert answer.status == 400
    assert answer.problem == "The 'backup' operation is not supported for the 'postgresql' datastore."
    assert await world.count("backups") + await world.count("operations") == 0


async def test_one_task_at_a_time_and_users_meanwhile(api: Caller, world: World):
    instance = await world.instance()
    (await api("POST", "/backups", wanted(instance))).must(202)
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    assert (shown["status"], shown["operating_status"]) == ("BACKUP", "HEALTHY")
    for method, path, body in [
        ("POST", "/backups", wanted(instance)), ("POST", f"/instances/{instance}/action", {"restart": {}}),
    ]:
        answer = await api(method, path, body)
        assert (answer.status, "instance status was BACKUP" in answer.problem) == (422, True)
    assert await world.count("backups") == 1
    users = asyncio.create_task(
        api("POST", f"/instances/{instance}/users", {"users": [{"name": "u", "password": "word"}]}),
    )
    kinds = {(await world.claimed()).kind, (await world.claimed()).kind}
    assert kinds == {"create_backup", "create_users"}
    await world.sql("UPDATE operations SET state = 'succeeded', finished_at = now() WHERE kind = 'create_users'")
    await world.sql("SELECT pg_notify('coffer_operation', id) FROM operations WHERE kind = 'create_users'")
    (await users).must(202)


@pytest.mark.parametrize("how", ["no heartbeat", "old heartbeat", "no engine", "restart", "deletion"])
async def test_an_instance_that_is_not_fit_is_not_backed_up(api: Caller, world: World, how: str):
    instance = await world.instance(healthy=how != "no heartbeat")
    if how == "old heartbeat":
        await world.beat(instance, age=120)
    if how == "no engine":
        await world.beat(instance, Engine.ABSENT)
    if how == "restart":
        (await api("POST", f"/instances/{instance}/action", {"restart": {}})).must(202)
    if how == "deletion":
        (await api("DELETE", f"/instances/{instance}")).must(202)
    answer = await api("POST", "/backups", wanted(instance))
    assert (answer.status, "not currently available" in answer.problem) == (422, True)
    assert await world.count("backups") == 0


async def test_an_instance_in_a_fault_shows_it_while_it_is_backed_up(api: Caller, world: World):
    instance = await world.instance(failed=True, fault_message="no room")
    (await api("POST", "/backups", wanted(instance))).must(202)
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    assert (shown["status"], shown["fault"]["message"]) == ("ERROR", "no room")


async def test_an_instance_that_goes_meanwhile_is_not_backed_up(api: Caller, world: World):
    instance = await world.instance()
    async with world.db.begin() as session:
        await quotas.lock(session, "p1")
        request = asyncio.create_task(api("POST", "/backups", wanted(instance)))
        while not await world.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            await asyncio.sleep(0.01)
        await world.sql("UPDATE instances SET deleted_at = now()")
    assert (await request).status == 404
    assert await world.count("backups") + await world.count("operations") == 0


async def test_many_at_a_time_make_one(api: Caller, world: World):
    instance = await world.instance()
    answers = await asyncio.gather(*(api("POST", "/backups", wanted(instance)) for _ in range(8)))
    assert sorted(a.status for a in answers) == [202] + [422] * 7
    assert await world.count("backups") == await world.count("operations") == 1


async def test_the_quota_holds_against_many_at_a_time(choose: Callable[..., Settings], world: World):
    instances = [await world.instance() for _ in range(8)]
    gone = await world.backup(instances[0], "DELETED")
    await world.sql("UPDATE backups SET deleted_at = now() WHERE id = :id", id=gone)
    await world.backup(instances[0], "FAILED")
    async with serving(choose(quota_backups=4)) as api:
        assert (await api("GET", "/limits")).must(200)["limits"][0]["max_backups"] == 4
        answers = await asyncio.gather(*(api("POST", "/backups", wanted(each)) for each in instances))
        assert sorted(a.status for a in answers) == [202] * 3 + [413] * 5
        assert {a.problem for a in answers if a.status == 413} == {"Quota exceeded for resources: ['backups']."}
        assert len(ids(await api("GET", "/backups"))) == 4
        assert await world.count("operations") == 3
        bobs = await world.instance("p2")
        assert (await api.as_("bob")("POST", "/backups", wanted(bobs))).status == 202


async def test_an_idempotency_key_makes_one_backup(api: Caller, world: World):
    instance = await world.instance()
    key = {"Idempotency-Key": "abc"}
    answers = await asyncio.gather(*(api("POST", "/backups", wanted(instance), headers=key) for _ in range(5)))
    (first,) = {a.must(202)["backup"]["id"] for a in answers}
    assert len({a.headers["x-coffer-operation"] for a in answers}) == 1
    other = await api("POST", "/backups", wanted(instance, name="other"), headers=key)
    assert other.status == 422
    await world.finish()
    await world.sql("UPDATE backups SET state = 'COMPLETED'")
    assert (await api("POST", "/backups", wanted(instance, name="other"), headers=key)).status == 422
    await world.sql("UPDATE instances SET deleted_at = now()")
    assert (await api("POST", "/backups", wanted(instance), headers=key)).must(202)["backup"]["id"] == first
    assert (await api("POST", "/backups", wanted(instance))).status == 404
    await world.sql("UPDATE backups SET state = 'DELETED', deleted_at = now()")
    assert (await api("POST", "/backups", wanted(instance), headers=key)).status == 404
    assert await world.count("backups") == 1


async def test_an_administrator_backs_up_for_the_project(api: Caller, world: World):
    instance, root = await world.instance(), api.as_("root")
    key = {"Idempotency-Key": "k"}
    made = (await root("POST", "/backups", wanted(instance), headers=key)).must(202)["backup"]
    assert (await root("POST", "/backups", wanted(instance), headers=key)).must(202)["backup"] == made
    assert made["project_id"] == "p1"
    assert ids(await api("GET", "/backups")) == [made["id"]]
    assert ids(await root("GET", "/backups")) == []
    assert (await root("GET", f"/backups/{made['id']}")).must(200)["backup"] == made
    assert ids(await root("GET", f"/instances/{instance}/backups")) == [made["id"]]


async def test_another_project_sees_nothing(api: Caller, world: World):
    instance = await world.instance()
    backup = await world.backup(instance)
    bob = api.as_("bob")
    for method in ("GET", "DELETE"):
        answer = await bob(method, f"/backups/{backup}")
        assert (answer.status, answer.problem) == (404, f"Backup {backup} cannot be found.")
    assert (await bob("GET", f"/instances/{instance}/backups")).status == 404
    assert (await bob("POST", "/backups", wanted(instance))).status == 404
    assert ids(await bob("GET", f"/backups?instance_id={instance}")) == []
    (await api.as_("root")("DELETE", f"/backups/{backup}")).must(202)
    (filed,) = await world.sql("SELECT project_id, user_id FROM operations")
    assert dict(filed) == {"project_id": "p1", "user_id": "root"}


@pytest.mark.parametrize("name", ["nightly", "1", UNKNOWN, "%00", "%E2%98%83", "..", "x" * 300])
async def test_what_is_not_there(api: Caller, name: str):
    for method in ("GET", "DELETE"):
        answer = await api(method, f"/backups/{name}")
        assert answer.status in ({400, 404} if name in {"%00", ".."} else {404})
    if name.isalnum():
        assert answer.problem == f"Backup {name[:255]} cannot be found."


async def test_the_filters(api: Caller, world: World):
    one, two = await world.instance(), await world.instance()
    bobs = await world.instance("p2")
    first, second = await world.backup(one, age=30), await world.backup(two, age=20)
    foreign = await world.backup(bobs, project="p2", age=10)
    gone = await world.backup(one)
    await world.sql("UPDATE backups SET state = 'DELETED', deleted_at = now() WHERE id = :id", id=gone)
    (kind,) = await world.sql("SELECT id FROM datastores")
    root = api.as_("root")
    for caller, query, expected in [
        (api, "", [second, first]), (api, f"?instance_id={one}", [first]),
        (api, f"?instance_id={one.upper()}", [first]),
        (api, f"?instance_id={UNKNOWN}", []), (api, "?instance_id=nonsense", []), (api, f"?instance_id={bobs}", []),
        (api, "?datastore=postgresql", [second, first]), (api, f"?datastore={kind['id']}&instance_id={two}", [second]),
        (api, f"?datastore=postgresql&instance_id={UNKNOWN}", []), (api, "?all_projects=False", [second, first]),
        (api, "?project_id=&instance_id=&datastore=", [second, first]),
        (root, "", []), (root, "?all_projects=True", [foreign, second, first]), (root, "?project_id=p2", [foreign]),
        (root, "?project_id=p2&all_projects=1", [foreign]), (root, "?project_id=nobody", []),
        (root, f"?all_projects=yes&instance_id={two}&datastore=postgresql", [second]),
    ]:
        assert ids(await caller("GET", f"/backups{query}")) == expected, query
    for query in ("all_projects=True", "all_projects=1", "project_id=p1", "project_id=p2"):
        answer = await api("GET", f"/backups?{query}")
        assert (answer.status, answer.problem) == (
            403, "Policy doesn't allow backup:index:all_projects to be performed.",
        )
    answer = await api("GET", "/backups?datastore=oracle")
    assert (answer.status, answer.problem) == (404, "Datastore 'oracle' cannot be found.")
    for query in ("datastore=%00", "instance_id=%00", f"project_id={'p' * 600}"):
        assert (await api("GET", f"/backups?{query}")).status == 400
    await world.sql("UPDATE instances SET deleted_at = now() WHERE id = :id", id=one)
    assert ids(await api("GET", f"/backups?instance_id={one}")) == [first]
    assert (await api("GET", f"/backups/{first}")).must(200)["backup"]["instance_id"] == one
    answer = await api("GET", f"/instances/{one}/backups")
    assert (answer.status, answer.problem) == (404, f"Resource {one} cannot be found.")
    assert (await api("GET", "/instances/nonsense/backups")).status == 404


async def test_pages_follow_one_another(api: Caller, world: World):
    instance = await world.instance()
    every = [await world.backup(instance, age=age) for age in range(5)]
    for path in ("backups", f"instances/{instance}/backups"):
        extra = f"datastore=postgresql&instance_id={instance}&" if path == "backups" else ""
        answer = (await api("GET", f"/{path}?{extra}limit=2")).must(200)
        assert [item["id"] for item in answer["backups"]] == every[:2]
        href = f"{api.base}/v1.0/p1/{path}?{extra}limit=2&marker=2"
        assert answer["links"] == answer["backups_links"] == [{"rel": "next", "href": href}]
        answer = (await api.bare("GET", href.removeprefix(api.base))).must(200)
        assert [item["id"] for item in answer["backups"]] == every[2:4]
        assert answer["links"][0]["href"].endswith("limit=2&marker=4")
        answer = (await api.bare("GET", answer["links"][0]["href"].removeprefix(api.base))).must(200)
        assert ([item["id"] for item in answer["backups"]], "links" in answer) == (every[4:], False)
        answer = (await api("GET", f"/{path}?limit=5")).must(200)
        assert (len(answer["backups"]), "links" in answer) == (5, False)
        assert ids(await api("GET", f"/{path}?marker=5")) == ids(await api("GET", f"/{path}?marker={10**17}")) == []
        for query in ("limit=0", "limit=x", "marker=-1", "marker=x", f"marker={UNKNOWN}", "marker=", "marker=%00",
                      f"marker={'9' * 19}", "marker=1.5", "marker=%D9%A1"):
            assert (await api("GET", f"/{path}?{query}")).status == 400, query
    for _ in range(20):
        await world.backup(instance)
    answer = (await api("GET", "/backups")).must(200)
    assert len(answer["backups"]) == 20
    assert answer["links"][0]["href"] == f"{api.base}/v1.0/p1/backups?limit=20&marker=20"


async def test_what_is_shown_of_each_state(api: Caller, world: World):
    instance = await world.instance()
    done = await world.backup(instance, raw_bytes=1_288_490_189, stored_bytes=GIB // 3)
    failed = await world.backup(instance, "FAILED", failure_text="the store refused")
    leaving, discarded = await world.backup(instance, "DELETING"), await world.backup(
        instance, "DELETING", raw_bytes=None, stored_bytes=None, location=None,
    )

    async def shown(backup: str) -> Any:
        return (await api("GET", f"/backups/{backup}")).must(200)["backup"]

    one = await shown(done)
    assert (one["status"], one["size"], one["stored_size"]) == ("COMPLETED", 1.2, 0.333)
    assert one["locationRef"] == f"http://swift/v1/AUTH_p1/database_backups/{done}"
    assert "fault" not in one
    two = await shown(failed)
    assert (two["status"], two["size"], two["fault"]["message"]) == ("FAILED", None, "the store refused")
    assert (await shown(leaving))["status"] == "COMPLETED"
    assert (await shown(discarded))["status"] == "FAILED"
    for state in ("BUILDING", "SAVING"):
        assert (await shown(await world.backup(instance, state)))["status"] == state


async def test_weakness_21_a_parent_is_looked_at(api: Caller, world: World):
    """Increments are of a later release; a parent that could never have any is refused as such."""
    instance, other = await world.instance(), await world.instance()
    parent, elsewhere = await world.backup(instance), await world.backup(other)
    failed, foreign = await world.backup(instance, "FAILED"), await world.backup(instance, project="p2")
    for wrong, status in ((UNKNOWN, 404), (foreign, 404), (elsewhere, 400), (failed, 409), (parent, 501)):
        assert (await api("POST", "/backups", wanted(instance, parent_id=wrong))).status == status
    for bit in (1, True):
        answer = await api("POST", "/backups", wanted(instance, incremental=bit))
        assert (answer.status, "incremental" in answer.problem) == (501, True)
    assert await world.count("operations") == 0
