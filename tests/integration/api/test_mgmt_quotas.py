"""Quotas: what a project may have, what it has, and that neither can be got around."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from coffer_api.settings import Settings
from integration.api.service import Caller, World, serving

LIMITS = {"instances": 5, "ram": -1, "volumes": 40, "backups": 50}
"""As the settings of the tests say."""


@pytest.fixture
def root(api: Caller) -> Caller:
    return api.as_("root")


def wanted(**more: Any) -> dict[str, Any]:
    plain = {"name": "x", "flavorRef": 1, "volume": {"size": 2}, "datastore": {"type": "postgresql"}}
    return {"instance": {**plain, **more}}


async def quotas(caller: Caller, project: str = "p1") -> dict[str, tuple[int, int, int]]:
    found = (await caller("GET", f"/mgmt/quotas/{project}")).must(200)["quotas"]
    assert all(set(item) == {"resource", "in_use", "reserved", "limit"} for item in found)
    return {item["resource"]: (item["in_use"], item["reserved"], item["limit"]) for item in found}


async def test_what_is_being_made_is_reserved(api: Caller, world: World):
    assert await quotas(api) == {name: (0, 0, limit) for name, limit in LIMITS.items()}
    instance = await world.instance(flavor_id="gold")
    (await api("POST", "/instances", wanted())).must(200)
    for state in ("COMPLETED", "FAILED", "DELETING", "NEW", "BUILDING", "SAVING"):
        await world.backup(instance, state)
    await world.instance("p2")
    assert await quotas(api) == {
        "instances": (1, 1, 5), "ram": (4096, 512, -1), "volumes": (2, 2, 40), "backups": (3, 3, 50),
    }
    await world.finish()
    assert (await quotas(api))["volumes"] == (4, 0, 40)
    await world.sql("UPDATE instances SET deleted_at = now()")
    await world.sql("UPDATE backups SET deleted_at = now()")
    assert await quotas(api) == {name: (0, 0, limit) for name, limit in LIMITS.items()}


async def test_who_may_look_and_who_may_set(api: Caller, root: Caller, world: World):
    body = {"quotas": {"instances": 1}}
    for name, own in (("ann", "p1"), ("rita", "p1"), ("bob", "p2")):
        caller = api.as_(name)
        assert await quotas(caller, own) == {resource: (0, 0, limit) for resource, limit in LIMITS.items()}
        other = await caller("GET", "/mgmt/quotas/elsewhere")
        assert (other.status, other.problem) == (403, f"Operation not allowed for tenant {own}.")
        for project in (own, "elsewhere"):
            refused = await caller("PUT", f"/mgmt/quotas/{project}", body)
            assert (refused.status, refused.problem) == (401, "User does not have admin privileges.")
    assert await world.count("project_quotas") == 0
    assert await quotas(root, "a project nobody knows".replace(" ", "%20")) == await quotas(root, "p1")


async def test_limits_are_set_per_resource(api: Caller, root: Caller):
    body = {"quotas": {"instances": 7, "volumes": -1, "ram": None, "backups": 0}}
    assert (await root("PUT", "/mgmt/quotas/p1", body)).must(200) == {
        "quotas": {"instances": 7, "volumes": -1, "backups": 0},
    }
    assert {name: limit for name, (_, _, limit) in (await quotas(api)).items()} == {
        "instances": 7, "ram": -1, "volumes": -1, "backups": 0,
    }
    one = {"quotas": {"instances": 1}}
    assert (await root("PUT", "/mgmt/quotas/p1", one)).must(200) == one
    absolute = (await api("GET", "/limits")).must(200)["limits"][0]
    assert absolute == {
        "verb": "ABSOLUTE", "max_instances": 1, "max_ram": -1, "max_volumes": -1, "max_backups": 0,
    }
    other = (await api.as_("bob")("GET", "/limits")).must(200)["limits"][0]
    assert other == {"verb": "ABSOLUTE", **{f"max_{name}": limit for name, limit in LIMITS.items()}}
    assert (await root("PUT", "/mgmt/quotas/p1", {"quotas": {}})).must(200) == {"quotas": {}}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"quotas": {"disks": 1}}, 404), ({"quotas": {"disks": None}}, 404), ({"quotas": {"instances": -2}}, 400),
        ({"quotas": {"instances": "5"}}, 400), ({"quotas": {"instances": True}}, 400),
        ({"quotas": {"instances": 1.5}}, 400), ({"quotas": {"instances": 2**31}}, 400), ({"quotas": []}, 400),
        ({"quotas": None}, 400), ({}, 400), (None, 400), ([], 400), ({"quotas": {"instances": 1, "a\0b": 1}}, 404),
    ],
)
async def test_weakness_13_bad_limits_are_refused_whole(root: Caller, world: World, body: Any, status: int):
    assert (await root("PUT", "/mgmt/quotas/p1", body)).status == status
    assert await world.count("project_quotas") == 0


async def test_a_limit_of_its_own_holds(api: Caller, root: Caller, world: World):
    limits = {"instances": 1, "volumes": 3, "ram": 600, "backups": 1}
    (await root("PUT", "/mgmt/quotas/p1", {"quotas": limits})).must(200)
    for body, names in [
        (wanted(volume={"size": 4}), ["volumes"]), (wanted(flavorRef="gold"), ["ram"]),
        (wanted(volume={"size": 4}, flavorRef="gold"), ["ram", "volumes"]),
    ]:
        answer = await api("POST", "/instances", body)
        assert (answer.status, answer.problem) == (413, f"Quota exceeded for resources: {names}.")
    (await api("POST", "/instances", wanted())).must(200)
    answer = await api("POST", "/instances", wanted())
    assert answer.problem == "Quota exceeded for resources: ['instances', 'ram', 'volumes']."
    instance = await world.instance()
    (await api("POST", "/backups", {"backup": {"name": "b", "instance": instance}})).must(202)
    answer = await api("POST", "/backups", {"backup": {"name": "b", "instance": await world.instance()}})
    assert (answer.status, answer.problem) == (413, "Quota exceeded for resources: ['backups'].")
    (await root("PUT", "/mgmt/quotas/p1", {"quotas": {"backups": -1}})).must(200)
    (await api("POST", "/backups", {"backup": {"name": "b", "instance": await world.instance()}})).must(202)
    assert (await api.as_("bob")("POST", "/instances", wanted(flavorRef="gold"))).status == 200


async def test_weakness_12_creates_at_once_never_pass_the_quota(
    choose: Callable[..., Settings], world: World,
):
    """Twenty at a time, through two services."""
    async with serving(choose()) as one, serving(choose()) as two:
        (await one.as_("root")("PUT", "/mgmt/quotas/p1", {"quotas": {"instances": 7, "volumes": 14}})).must(200)
        for _ in range(2):
            answers = await asyncio.gather(*((one, two)[n % 2]("POST", "/instances", wanted()) for n in range(20)))
            assert sorted(a.status for a in answers) == [200] * 7 + [413] * 13
            assert {a.problem for a in answers if a.status == 413} == {
                "Quota exceeded for resources: ['instances', 'volumes'].",
            }
            assert (await quotas(two))["instances"] == (0, 7, 7)
            assert await world.count("operations WHERE state = 'pending'") == 7
            await world.sql("UPDATE operations SET state = 'succeeded', finished_at = now()")
            await world.sql("UPDATE instances SET deleted_at = now()")


async def test_weakness_12_deletes_at_once_release_once(choose: Callable[..., Settings], world: World):
    """Use is counted, so a deletion that is asked for again cannot free what another instance has."""
    async with serving(choose(quota_instances=3)) as one, serving(choose(quota_instances=3)) as two:
        first, *_ = [await world.instance() for _ in range(3)]
        answers = await asyncio.gather(*((one, two)[n % 2]("DELETE", f"/instances/{first}") for n in range(10)))
        assert {a.status for a in answers} == {202}
        assert await world.count("operations") == 1
        assert (await quotas(one))["instances"] == (3, 0, 3)  # it is there until it is gone
        assert (await one("POST", "/instances", wanted())).status == 413
        await world.finish()
        await world.sql("UPDATE instances SET deleted_at = now() WHERE id = :id", id=first)
        for _ in range(3):
            assert (await two("DELETE", f"/instances/{first}")).status == 404
        answers = await asyncio.gather(*((one, two)[n % 2]("POST", "/instances", wanted()) for n in range(6)))
        assert sorted(a.status for a in answers) == [200] + [413] * 5
        assert (await quotas(one))["instances"] == (2, 1, 3)


async def test_weakness_12_the_same_for_backups(choose: Callable[..., Settings], world: World):
    async with serving(choose(quota_backups=4)) as one, serving(choose(quota_backups=4)) as two:
        instances = [await world.instance() for _ in range(20)]

        def at_once() -> Any:
            return asyncio.gather(*(
                (one, two)[n % 2]("POST", "/backups", {"backup": {"name": "b", "instance": instance}})
                for n, instance in enumerate(instances)
            ))

        answers = await at_once()
        assert sorted(a.status for a in answers) == [202] * 4 + [413] * 16
        made = [a.body["backup"]["id"] for a in answers if a.status == 202]
        assert (await quotas(two))["backups"] == (0, 4, 4)
        for _ in made:
            await world.finish()
        await world.sql("UPDATE backups SET state = 'COMPLETED'")
        assert (await quotas(two))["backups"] == (4, 0, 4)
        answers = await asyncio.gather(*((one, two)[n % 2]("DELETE", f"/backups/{made[0]}") for n in range(10)))
        assert {a.status for a in answers} == {202}
        assert await world.count("operations WHERE kind = 'delete_backup'") == 1
        await world.finish()
        await world.sql("UPDATE backups SET state = 'DELETED', deleted_at = now() WHERE id = :id", id=made[0])
        answers = await at_once()
        assert sorted(a.status for a in answers) == [202] + [413] * 19
        assert (await quotas(one))["backups"] == (3, 1, 4)


async def test_weakness_17_a_refused_create_leaves_nothing(api: Caller, root: Caller, world: World):
    """No row of an instance that nothing builds, whatever refused it and however late."""
    (await root("PUT", "/mgmt/quotas/p1", {"quotas": {"instances": 0}})).must(200)
    missing = "99999999-9999-4999-8999-999999999999"
    for body in (
        wanted(), wanted(configuration=missing), wanted(restorePoint={"backupRef": missing}),
        wanted(modules=[{"id": missing}]),
        {"instance": {"name": "r", "replica_of": missing}},
    ):
        assert (await api("POST", "/instances", body)).status >= 400
    assert await world.count("instances") + await world.count("operations") == 0
    assert (await api("GET", "/instances")).must(200) == {"instances": []}
    assert (await quotas(api))["instances"] == (0, 0, 0)
