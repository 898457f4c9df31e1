"""Configuration groups on instances: attached, exchanged, detached, changed while they are attached."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text

from integration.api.service import OLD_VERSION, Caller, World

UNKNOWN = "99999999-9999-4999-8999-999999999999"
V17 = {"type": "postgresql", "version": "17"}


async def test_an_attached_group_stays(api: Caller, world: World):
    made = await world.configuration()
    ids = sorted([await world.instance(configuration_id=made, name=f"i{n}") for n in range(3)])
    path = f"/configurations/{made}"
    assert (await api("GET", path)).must(200)["configuration"]["instance_count"] == 3
    first = (await api("GET", f"{path}/instances?limit=2")).must(200)
    assert [item["id"] for item in first["instances"]] == ids[:2]
    assert set(first["instances"][0]) == {"id", "name"}
    (link,) = first["links"]
    assert first["instances_links"] == [link]
    second = (await api.bare("GET", link["href"].removeprefix(api.base))).must(200)
    assert [item["id"] for item in second["instances"]] == ids[2:]
    assert "links" not in second
    answer = await api("DELETE", path)
    assert (answer.status, set(answer.body)) == (400, {"badRequest"})
    await world.sql("UPDATE instances SET deleted_at = now()")
    assert (await api("GET", f"{path}/instances")).must(200) == {"instances": []}
    (await api("DELETE", path)).must(202)


async def test_what_cannot_be_attached(api: Caller, world: World):
    instance = await world.instance()
    path = f"/instances/{instance}"
    other = await world.configuration(datastore_version_id=OLD_VERSION)
    foreign = await world.configuration(project="p2")
    good = {"name": "x", "flavorRef": "1", "volume": {"size": 1}, "datastore": V17}
    for group_id, status in [(UNKNOWN, 404), ("tuned", 404), (foreign, 404), (other, 400), (7, 400)]:
        for method in ("PUT", "PATCH"):
            answer = await api(method, path, {"instance": {"configuration": group_id}})
            assert answer.status == status, answer.body
        answer = await api("POST", "/instances", {"instance": {**good, "configuration": group_id}})
        assert answer.status == status, answer.body
        if status == 404:
            assert answer.problem == f"Configuration group id: {group_id} could not be found."
    assert await world.count("instances") == 1
    assert await world.count("operations") == 0


async def attached(world: World, instance: str) -> str | None:
    (row,) = await world.sql("SELECT configuration_id FROM instances WHERE id = :id", id=instance)
    found: str | None = row["configuration_id"]
    return found


async def test_a_group_is_attached_exchanged_and_detached(api: Caller, world: World):
    """One after the other without waiting, as Terraform does."""
    instance = await world.instance()
    path, one, two = f"/instances/{instance}", await world.configuration(), await world.configuration(name="two")
    steps: list[tuple[str, Any, str | None, str | None]] = [
        ("PUT", {"configuration": one}, None, one),
        ("PATCH", {"configuration": f"https://host/v1.0/p1/configurations/{two}"}, one, two),
        ("PUT", {}, two, None),
        ("PUT", {"configuration": one}, None, one),
        ("PUT", {"configuration": None, "name": "renamed"}, one, None),
        ("PUT", {"configuration": two}, None, two),
        ("PUT", {"configuration": ""}, two, None),
    ]
    for method, body, former, group_id in steps:
        answer = await api(method, path, {"instance": body})
        answer.must(202)
        assert await attached(world, instance) == group_id
        (filed,) = await world.sql(
            "SELECT * FROM operations WHERE id = :id", id=answer.headers["x-coffer-operation"],
        )
        assert (filed["kind"], filed["lifecycle"]) == ("configure_instance", False)
        assert filed["args"] == {"configuration": group_id, "former": former}
    assert (await api("GET", path)).must(200)["instance"]["name"] == "renamed"


async def test_what_changes_nothing_files_nothing(api: Caller, world: World):
    path, made = f"/instances/{await world.instance()}", await world.configuration()
    for body in ({}, {"configuration": None}, {"configuration": ""}, {"name": "two", "configuration": None}):
        assert (await api("PUT", path, {"instance": body})).status == 202
    assert (await api("PATCH", path, {"instance": {}})).status == 202
    assert await world.count("operations") == 0
    (await api("PUT", path, {"instance": {"configuration": made}})).must(202)
    for method, body in (("PUT", {"configuration": made}), ("PUT", {"name": "three"}), ("PATCH", {})):
        (await api(method, path, {"instance": body})).must(202)
    assert await world.count("operations") == 1
    shown = (await api("GET", path)).must(200)["instance"]
    assert (shown["name"], shown["configuration"]["id"]) == ("three", made)
    assert {link["rel"] for link in shown["configuration"]["links"]} == {"self", "bookmark"}


async def test_one_that_is_deleted_meanwhile_is_not_attached(api: Caller, world: World):
    instance, made = await world.instance(), await world.configuration()
    answers = await asyncio.gather(
        api("DELETE", f"/configurations/{made}"),
        *(api("PUT", f"/instances/{instance}", {"instance": {"configuration": made}}) for _ in range(3)),
    )
    gone, *rest = [answer.status for answer in answers]
    if gone == 202:
        assert (set(rest), await attached(world, instance)) == ({404}, None)
    else:
        assert (gone, set(rest), await attached(world, instance)) == (400, {202}, made)


async def test_new_values_go_to_every_instance_that_has_the_group(api: Caller, world: World):
    made, other = await world.configuration(), await world.configuration()
    mine = sorted([await world.instance(configuration_id=made, name=f"i{n}") for n in range(3)])
    gone = await world.instance(configuration_id=made)
    await world.instance(configuration_id=other)
    await world.sql("UPDATE instances SET deleted_at = now() WHERE id = :id", id=gone)
    path = f"/configurations/{made}"
    for count, (method, body) in enumerate([
        ("PATCH", {"values": {"jit": True}}), ("PUT", {"values": {}}), ("PUT", {"values": {"work_mem": "9MB"}}),
    ], start=1):
        assert (await api(method, path, {"configuration": body})).status in {200, 202}
        filed = await world.sql("SELECT * FROM operations ORDER BY seq")
        assert len(filed) == 3 * count
        assert sorted(row["instance_id"] for row in filed[-3:]) == mine
        assert {(row["kind"], str(row["args"])) for row in filed} == {
            ("configure_instance", str({"configuration": made})),
        }
    (await api("PUT", path, {"configuration": {"name": "other"}})).must(202)
    (await api("PATCH", path, {"configuration": {"values": {}}})).must(200)
    assert await world.count("operations") == 9


async def test_an_instance_is_created_with_a_group(api: Caller, world: World):
    made = await world.configuration({"jit": True})
    good = {"name": "x", "flavorRef": "1", "volume": {"size": 1}, "datastore": V17, "configuration": made}
    shown = (await api("POST", "/instances", {"instance": good})).must(200)["instance"]
    assert shown["configuration"]["id"] == made
    assert (await api("DELETE", f"/configurations/{made}")).status == 400
    assert await attached(world, shown["id"]) == made


async def test_what_waits_for_a_restart_is_told(api: Caller, world: World):
    instance = await world.instance()
    await world.sql(
        "UPDATE heartbeats SET facts = jsonb_set(facts, '{restart_required}', '[\"max_connections\"]')",
    )
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    assert (shown["status"], shown["restart_required"]) == ("RESTART_REQUIRED", ["max_connections"])


async def test_who_attaches_waits_for_a_change_of_the_values(api: Caller, world: World):
    """Or the database would be told the old ones, and nobody would tell it the new."""
    instance, made = await world.instance(), await world.configuration()
    async with world.db.begin() as session:
        await session.execute(text("UPDATE configurations SET values = '{}' WHERE id = :id"), {"id": made})
        attaching = asyncio.create_task(api("PUT", f"/instances/{instance}", {"instance": {"configuration": made}}))
        done, _ = await asyncio.wait({attaching}, timeout=0.5)
        assert not done
        assert await attached(world, instance) is None
    (await attaching).must(202)
    assert await attached(world, instance) == made


async def test_changes_and_attachments_at_once_end_all(api: Caller, world: World):
    made = await world.configuration()
    mine = [await world.instance(configuration_id=made, name=f"i{n}") for n in range(3)]
    for turn in range(12):
        wanted = made if turn % 2 else None
        answers = await asyncio.gather(
            *(api("PUT", f"/instances/{each}", {"instance": {"configuration": wanted}}) for each in mine),
            *(api("PATCH", f"/configurations/{made}", {"configuration": {"values": {"jit": True}}}) for _ in range(3)),
        )
        assert {answer.status for answer in answers} <= {200, 202}, [answer.body for answer in answers]
        assert {await attached(world, each) for each in mine} == {wanted}
