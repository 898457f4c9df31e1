"""Where backups go: strategies of projects and instances, and which of them counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from coffer_api.settings import Settings
from coffer_shared.settings import BadSettings
from integration.api.service import Caller, World, serving

UNKNOWN = "99999999-9999-4999-8999-999999999999"


def strategy(container: str, instance: str | None = None) -> dict[str, Any]:
    return {"backup_strategy": {"swift_container": container, **({"instance_id": instance} if instance else {})}}


def shown(container: str, instance: str = "", project: str = "p1") -> dict[str, Any]:
    return {"project_id": project, "instance_id": instance, "backend": "swift", "swift_container": container}


async def test_they_are_set_listed_and_removed(api: Caller, world: World):
    instance = await world.instance()
    assert (await api("GET", "/backup_strategies")).must(200) == {"backup_strategies": []}
    assert (await api("DELETE", "/backup_strategies")).must(202) == ""
    for container in ("first", "general"):
        answer = await api("POST", "/backup_strategies", strategy(container))
        assert answer.must(202) == {"backup_strategy": shown(container)}
    answer = await api("POST", "/backup_strategies", strategy("special", instance.upper()))
    assert answer.must(202) == {"backup_strategy": shown("special", instance)}
    both = [shown("general"), shown("special", instance)]
    assert (await api("GET", "/backup_strategies")).must(200)["backup_strategies"] == both
    assert (await api("GET", f"/backup_strategies?instance_id={instance}")).must(200)["backup_strategies"] == both[1:]
    assert (await api("GET", f"/backup_strategies?instance_id={UNKNOWN}")).must(200)["backup_strategies"] == []
    assert (await api.as_("bob")("GET", "/backup_strategies")).must(200)["backup_strategies"] == []
    (await api("DELETE", "/backup_strategies")).must(202)
    assert (await api("GET", "/backup_strategies")).must(200)["backup_strategies"] == both[1:]
    (await api("DELETE", f"/backup_strategies?instance_id={instance}")).must(202)
    assert await world.count("backup_strategies") == 0


async def test_the_one_of_a_deleted_instance_is_not_listed(api: Caller, world: World):
    instance = await world.instance()
    (await api("POST", "/backup_strategies", strategy("special", instance))).must(202)
    await world.sql("UPDATE instances SET deleted_at = now()")
    assert (await api("GET", "/backup_strategies")).must(200)["backup_strategies"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400), ({"backup_strategy": {}}, 400), ({"backup_strategy": {"swift_container": ""}}, 400),
        ({"backup_strategy": {"swift_container": "..."}}, 400), ({"backup_strategy": {"swift_container": 1}}, 400),
        ({"backup_strategy": {"swift_container": "a", "backend": "swift"}}, 400), ({**strategy("a"), "more": 1}, 400),
        (strategy("a", "one"), 400), (strategy("a", UNKNOWN), 404), (strategy("c" * 256), 400),
    ],
)
async def test_a_bad_one_is_refused(api: Caller, world: World, body: Any, status: int):
    assert (await api("POST", "/backup_strategies", body)).status == status
    assert await world.count("backup_strategies") == 0


async def test_projects(api: Caller, world: World):
    instance, root = await world.instance(), api.as_("root")
    assert (await api.as_("bob")("POST", "/backup_strategies", strategy("mine", instance))).status == 404
    for method in ("GET", "DELETE"):
        for project in ("p1", "p2"):
            answer = await api(method, f"/backup_strategies?project_id={project}")
            assert (answer.status, answer.problem) == (403, "Operation not allowed for tenant p1.")
    made = (await root("POST", "/backup_strategies", strategy("special", instance))).must(202)
    assert made == {"backup_strategy": shown("special", instance)}
    assert (await root("GET", "/backup_strategies")).must(200)["backup_strategies"] == []
    assert (await root("GET", "/backup_strategies?project_id=p1")).must(200)["backup_strategies"] == [
        shown("special", instance),
    ]
    (await root("DELETE", f"/backup_strategies?instance_id={instance}")).must(202)
    assert await world.count("backup_strategies") == 1
    (await root("DELETE", f"/backup_strategies?instance_id={instance}&project_id=p1")).must(202)
    assert await world.count("backup_strategies") == 0


async def test_the_nearest_counts(choose: Callable[..., Settings], world: World):
    async with serving(choose(backup_container="of-the-operator")) as api:

        async def container(**more: Any) -> str:
            instance = await world.instance()
            if special:
                (await api("POST", "/backup_strategies", strategy("of-the-instance", instance))).must(202)
            body = {"backup": {"name": "n", "instance": instance, **more}}
            return str((await api("POST", "/backups", body)).must(202)["backup"]["container"])

        special = False
        (await api.as_("bob")("POST", "/backup_strategies", strategy("of-bob"))).must(202)
        assert await container() == "of-the-operator"
        (await api("POST", "/backup_strategies", strategy("of-the-project"))).must(202)
        assert await container() == "of-the-project"
        special = True
        assert await container() == "of-the-instance"
        assert await container(swift_container="of-the-request") == "of-the-request"


def test_the_operators_container_must_be_one(choose: Callable[..., Settings]):
    with pytest.raises(BadSettings, match="COFFER_BACKUP_CONTAINER"):
        choose(backup_container="a/b").check()
    choose(backup_container="backups.2").check()
