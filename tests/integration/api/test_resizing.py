"""Resizing instances through the API: what is refused, what is filed, what it counts for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from coffer_api.settings import Settings
from coffer_db.tables import OperationState
from coffer_shared.messages import Engine
from integration.api.service import Caller, World, serving
from integration.api.test_instance_actions import operations_of, seen
from integration.api.test_mgmt_quotas import quotas, wanted

FIVE = {"resize": {"volume": {"size": 5}}}
GOLD = {"resize": {"flavorRef": "gold"}}
SMALL = {"resize": {"flavorRef": "1"}}


def action(instance: str) -> str:
    return f"/instances/{instance}/action"


@pytest.mark.parametrize(("body", "filed"), [
    (FIVE, ("resize_volume", {"volume_gib": 5})),
    ({"resize": {"volume": {"size": "5"}}}, ("resize_volume", {"volume_gib": 5})),
    ({"resize": {"volume": 5}}, ("resize_volume", {"volume_gib": 5})),
    (GOLD, ("resize_flavor", {"flavor": "gold"})),
    ({"resize": {"flavorRef": "http://x/v1.0/p1/flavors/gold"}}, ("resize_flavor", {"flavor": "gold"})),
], ids=str)
async def test_a_resize_is_an_operation(api: Caller, world: World, body: Any, filed: tuple[str, Any]) -> None:
    instance = await world.instance()
    answer = await api("POST", action(instance), body)
    assert answer.must(202) == ""
    assert await operations_of(world) == [filed]
    assert await seen(api, instance) == ("RESIZE", "")
    shown = (await api("GET", f"/instances/{instance}")).body["instance"]
    assert (shown["volume"]["size"], shown["flavor"]["id"]) == (2, "1"), "until it has it"
    for other in (FIVE, GOLD, {"restart": {}}):
        assert (await api("POST", action(instance), other)).status == 422
    assert (await world.finish()).id == answer.headers["x-coffer-operation"]
    assert await seen(api, instance) == ("ACTIVE", "HEALTHY")


@pytest.mark.parametrize("body", [FIVE, GOLD], ids=str)
async def test_who_is_silent_or_has_no_database_is_not_resized(api: Caller, world: World, body: Any) -> None:
    instance = await world.instance()
    await world.beat(instance, age=120)
    answer = await api("POST", action(instance), body)
    assert (answer.status, "instance status was ERROR" in answer.problem) == (422, True)
    await world.beat(instance, Engine.ABSENT)
    assert (await api("POST", action(instance), body)).status == 422
    for engine in (Engine.STOPPED, Engine.CRASHED, Engine.UNHEALTHY):
        await world.beat(instance, engine)
        (await api("POST", action(instance), body)).must(202)
        await world.finish(OperationState.FAILED)


async def test_users_are_changed_while_a_volume_grows_and_not_with_the_flavor(api: Caller, world: World) -> None:
    instance = await world.instance()
    (await api("POST", action(instance), FIVE)).must(202)
    assert (await api("GET", f"/instances/{instance}/users")).status != 422
    await world.finish()
    (await api("POST", action(instance), GOLD)).must(202)
    assert (await api("GET", f"/instances/{instance}/users")).status == 422


async def test_what_is_wrong_is_told_before_what_the_instance_does(api: Caller, world: World) -> None:
    instance = await world.instance(healthy=False)
    for body, status in (
        ({"resize": {"volume": 2}}, 400), ({"resize": {"volume": 11}}, 413), ({"resize": {"flavorRef": "none"}}, 400),
        ({"resize": {"flavorRef": "1"}}, 400), (FIVE, 422), (GOLD, 422),
    ):
        assert (await api("POST", action(instance), body)).status == status, body
    assert await operations_of(world) == []


async def test_a_flavor_that_the_version_is_not_tied_to(api: Caller, world: World) -> None:
    instance = await world.instance()
    ((version,),) = [tuple(row.values()) for row in await world.sql("SELECT datastore_version_id FROM instances")]
    await world.sql("INSERT INTO version_flavors (version_id, flavor_id) VALUES (:v, '1')", v=version)
    answer = await api("POST", action(instance), GOLD)
    assert (answer.status, "Flavor gold is not supported" in answer.problem) == (400, True)
    await world.sql("INSERT INTO version_flavors (version_id, flavor_id) VALUES (:v, 'gold')", v=version)
    (await api("POST", action(instance), GOLD)).must(202)


async def test_what_a_resize_adds_is_reserved_and_refused_above_the_quota(api: Caller, world: World) -> None:
    instance, root = await world.instance(), api.as_("root")
    limits = {"quotas": {"volumes": 4, "ram": 4000}}
    (await root("PUT", "/mgmt/quotas/p1", limits)).must(200)
    for body, name in ((FIVE, "volumes"), (GOLD, "ram")):
        answer = await api("POST", action(instance), body)
        assert (answer.status, answer.problem) == (413, f"Quota exceeded for resources: ['{name}'].")
    assert await operations_of(world) == []
    (await api("POST", action(instance), {"resize": {"volume": 4}})).must(202)
    assert (await quotas(api))["volumes"] == (2, 2, 4)
    assert (await api("POST", "/instances", wanted(volume={"size": 1}))).status == 413
    await world.sql("UPDATE instances SET volume_gib = 4")
    assert (await quotas(api))["volumes"] == (4, 0, 4), "nothing is counted twice"
    await world.finish()
    assert (await quotas(api))["volumes"] == (4, 0, 4)
    (await root("PUT", "/mgmt/quotas/p1", {"quotas": {"ram": 5000}})).must(200)
    (await api("POST", action(instance), GOLD)).must(202)
    assert (await quotas(api))["ram"] == (512, 3584, 5000)
    await world.finish(OperationState.FAILED)
    assert (await quotas(api))["ram"] == (512, 0, 5000), "one that failed gives it back"


async def test_a_smaller_flavor_is_had_above_the_quota(api: Caller, world: World) -> None:
    instance = await world.instance(flavor_id="gold")
    (await api.as_("root")("PUT", "/mgmt/quotas/p1", {"quotas": {"ram": 1}})).must(200)
    (await api("POST", action(instance), SMALL)).must(202)
    assert (await quotas(api))["ram"] == (4096, 0, 1)


async def test_resizes_at_once_never_pass_the_quota(choose: Callable[..., Settings], world: World) -> None:
    many = [await world.instance() for _ in range(5)]
    async with serving(choose()) as one, serving(choose()) as two:
        (await one.as_("root")("PUT", "/mgmt/quotas/p1", {"quotas": {"volumes": 16}})).must(200)
        answers = await asyncio.gather(*(
            (one, two)[n % 2]("POST", action(instance), FIVE) for n, instance in enumerate(many * 2)
        ))
        assert sorted(answer.status for answer in answers).count(202) == 2
        assert (await quotas(two))["volumes"] == (10, 6, 16)


async def test_everything_is_given_as_much_longer_as_the_cloud_is_slower(
    choose: Callable[..., Settings], world: World,
) -> None:
    async with serving(choose(patience=3.0)) as api:
        instance = await world.instance()
        (await api("POST", "/instances", wanted())).must(200)
        (await api("POST", action(instance), FIVE)).must(202)
    found = await world.sql("SELECT kind, deadline - created_at AS within FROM operations")
    assert {row["kind"]: row["within"] for row in found} == {
        "create_instance": timedelta(minutes=60), "resize_volume": timedelta(minutes=45),
    }
