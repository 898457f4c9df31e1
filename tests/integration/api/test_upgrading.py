"""Upgrading instances through the API: what is refused, what is filed, what is shown meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from coffer_db.tables import OperationState
from coffer_shared.messages import Engine
from integration.api.service import OLD_VERSION, VERSION, Caller, World
from integration.api.test_instance_actions import operations_of, seen
from integration.api.test_restores import add_version

UNKNOWN = "99999999-9999-4999-8999-999999999999"


def wish(version: Any) -> dict[str, Any]:
    return {"instance": {"datastore_version": version}}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
@pytest.mark.parametrize("by", ["id", "name"])
async def test_an_upgrade_is_an_operation(api: Caller, world: World, method: str, by: str) -> None:
    newer = await add_version(world, "17.9")
    instance = await world.instance()
    answer = await api(method, f"/instances/{instance}", wish(newer if by == "id" else "17.9"))
    assert answer.must(202) == ""
    assert await operations_of(world) == [("upgrade_instance", {"version": newer, "former": VERSION})]
    assert await seen(api, instance) == ("UPGRADE", "")
    shown = (await api("GET", f"/instances/{instance}")).body["instance"]["datastore"]
    assert shown["version_number"] == "17.6", "until it runs"
    for method_, path, body in (("POST", "/action", {"restart": {}}), ("PUT", "", wish(newer))):
        assert (await api(method_, f"/instances/{instance}{path}", body)).status == 422
    assert (await world.finish()).id == answer.headers["x-coffer-operation"]
    assert await seen(api, instance) == ("ACTIVE", "HEALTHY")


async def test_one_that_failed_is_told_and_the_instance_serves_on(api: Caller, world: World) -> None:
    newer = await add_version(world, "17.9")
    instance = await world.instance()
    (await api("PUT", f"/instances/{instance}", wish(newer))).must(202)
    await world.finish(OperationState.FAILED)
    assert await seen(api, instance) == ("ACTIVE", "HEALTHY")


async def test_the_version_that_it_has_is_accepted_and_nothing_happens(api: Caller, world: World) -> None:
    instance = await world.instance()
    for version in ("17", VERSION):
        (await api("PUT", f"/instances/{instance}", wish(version))).must(202)
    assert await operations_of(world) == []


async def test_weakness_18_what_it_cannot_be_upgraded_to(api: Caller, world: World) -> None:
    await add_version(world, "17.5")
    await add_version(world, "18.1")
    await add_version(world, "17.9", manager="mysql")
    await add_version(world, "17.8")
    await world.sql("UPDATE datastore_versions SET image_digest = '' WHERE name = '17.8'")
    other = await add_version(world, "11.8", kind="mariadb", manager="mariadb")
    instance = await world.instance()
    for version, status, word in (
        ("17.5", 400, "earlier version"),
        ("18.1", 501, "convert the data"),
        ("17.9", 400, "another engine"),
        ("17.8", 400, "No digest"),
        ("99", 400, "cannot be found"),
        (UNKNOWN, 400, "cannot be found"),
        (OLD_VERSION, 400, "cannot be found"),
        (other, 404, "cannot be found"),
        (7, 400, "datastore_version"),
        ("", 400, "datastore_version"),
        ([], 400, "datastore_version"),
    ):
        answer = await api("PUT", f"/instances/{instance}", wish(version))
        assert (answer.status, word in answer.problem) == (status, True), (version, answer.body)
    assert await operations_of(world) == []


async def test_a_group_of_the_former_version_is_in_the_way(api: Caller, world: World) -> None:
    newer = await add_version(world, "17.9")
    instance = await world.instance(configuration_id=await world.configuration())
    answer = await api("PUT", f"/instances/{instance}", wish(newer))
    assert (answer.status, "Detach it first" in answer.problem) == (400, True)


async def test_no_group_is_attached_while_the_version_that_it_is_for_is_left(api: Caller, world: World) -> None:
    newer, group = await add_version(world, "17.9"), await world.configuration()
    instance = await world.instance()
    path, attach = f"/instances/{instance}", {"instance": {"configuration": group}}
    (await api("PUT", path, wish(newer))).must(202)
    answer = await api("PUT", path, attach)
    assert (answer.status, "upgrade_instance" in answer.problem) == (422, True)
    await world.finish(OperationState.FAILED)
    (await api("PUT", path, attach)).must(202)


async def test_of_a_group_and_an_upgrade_at_once_one_is_refused(api: Caller, world: World) -> None:
    newer, group = await add_version(world, "17.9"), await world.configuration()
    path = f"/instances/{await world.instance()}"
    for _ in range(8):
        answers = await asyncio.gather(
            api("PUT", path, {"instance": {"configuration": group}}), api("PUT", path, wish(newer)),
        )
        assert sorted(answer.status for answer in answers) in [[202, 400], [202, 422]], [a.body for a in answers]
        await world.sql("DELETE FROM operations")
        await world.sql("UPDATE instances SET configuration_id = NULL")


async def test_who_is_silent_or_has_no_database_is_not_upgraded(api: Caller, world: World) -> None:
    newer = await add_version(world, "17.9")
    instance = await world.instance()
    await world.beat(instance, age=120)
    assert (await api("PUT", f"/instances/{instance}", wish(newer))).status == 422
    await world.beat(instance, Engine.ABSENT)
    assert (await api("PUT", f"/instances/{instance}", wish(newer))).status == 422
    assert await operations_of(world) == []


async def test_one_attribute_at_a_time_and_nobody_elses_instance(api: Caller, world: World) -> None:
    newer = await add_version(world, "17.9")
    instance = await world.instance()
    both = {"instance": {"datastore_version": newer, "configuration": None}}
    assert (await api("PUT", f"/instances/{instance}", both)).status == 400
    assert (await api.as_("bob")("PUT", f"/instances/{instance}", wish(newer))).status == 404
    named = {"instance": {"datastore_version": newer, "name": "two"}}
    (await api("PUT", f"/instances/{instance}", named)).must(202)
    assert (await api("GET", f"/instances/{instance}")).body["instance"]["name"] == "two"
    assert [kind for kind, _ in await operations_of(world)] == ["upgrade_instance"]
