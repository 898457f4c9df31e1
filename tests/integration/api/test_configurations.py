"""Configuration groups: what is kept, what is refused, what clients insist on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import coffer_datastores
from coffer_shared.datastore import Sizes
from integration.api.service import GIB, OLD_VERSION, VERSION, Caller, World

UNKNOWN = "99999999-9999-4999-8999-999999999999"
VALUES = {"max_connections": 200, "work_mem": "64MB", "random_page_cost": 1.1, "jit": False, "log_statement": "ddl"}
V17 = {"type": "postgresql", "version": "17"}


def group(**more: Any) -> dict[str, Any]:
    return {"configuration": {"name": "tuned", "values": {}, "datastore": V17, **more}}


async def test_a_group_from_its_creation_to_its_end(api: Caller, world: World):
    made = (await api("POST", "/configurations", group(values=VALUES, description="for reports"))).must(200)
    made = made["configuration"]
    assert made == {
        "id": made["id"], "name": "tuned", "description": "for reports", "created": made["created"],
        "updated": made["created"], "datastore_version_id": VERSION, "datastore_name": "postgresql",
        "datastore_version_name": "17", "datastore_version_number": "17.6", "instance_count": 0, "project_id": "p1",
        "values": VALUES,
    }
    path = f"/configurations/{made['id']}"
    assert (await api("GET", path)).must(200) == {"configuration": made}
    (listed,) = (await api("GET", "/configurations")).must(200)["configurations"]
    assert listed == {key: value for key, value in made.items() if key != "values"}
    assert (await api("GET", f"{path}/instances")).must(200) == {"instances": []}
    (await api("DELETE", path)).must(202)
    for method, rest, body in [
        ("GET", "", None), ("GET", "/instances", None), ("DELETE", "", None), ("PUT", "", group()),
        ("PATCH", "", {"configuration": {"values": {}}}),
    ]:
        answer = await api(method, path + rest, body)
        assert answer.status == 404
        assert answer.problem == f"Configuration group with ID {made['id']} could not be found."
    assert (await api("GET", "/configurations")).must(200) == {"configurations": []}


async def test_what_troveclient_needs_to_show_one(api: Caller, world: World):
    """It pops `datastore_version_id` and prints `values`, whatever they hold."""
    made = (await api("POST", "/configurations", group())).must(200)["configuration"]
    shown = (await api("GET", f"/configurations/{made['id']}")).must(200)["configuration"]
    assert shown["datastore_version_id"] == VERSION
    assert shown["values"] == {}


async def test_the_codes_that_gophercloud_and_tempest_insist_on(api: Caller, world: World):
    answer = await api("POST", "/configurations", group())
    assert answer.status == 200
    path = f"/configurations/{answer.body['configuration']['id']}"
    assert (await api("PATCH", path, {"configuration": {"values": {"jit": True}}})).status == 200
    assert (await api("PUT", path, {"configuration": {"values": {"jit": False}}})).status == 202
    assert (await api("DELETE", path)).status == 202


async def test_finding_by_name_starts_with_a_404(api: Caller, world: World):
    assert (await api("GET", "/configurations/tuned")).problem == (
        "Configuration group with ID tuned could not be found."
    )
    for path in ("tuned/instances", f"{UNKNOWN}/instances", UNKNOWN, "%00"):
        assert (await api("GET", f"/configurations/{path}")).status in {400, 404}


async def test_patch_merges_and_put_replaces(api: Caller, world: World):
    made = (await api("POST", "/configurations", group(values=VALUES))).must(200)["configuration"]
    path = f"/configurations/{made['id']}"

    async def values() -> Any:
        return (await api("GET", path)).must(200)["configuration"]["values"]

    assert (await api("PATCH", path, {"configuration": {"values": {"JIT": True, "geqo": False}}})).body == ""
    assert await values() == {**VALUES, "jit": True, "geqo": False}
    assert (await api("PUT", path, {"configuration": {"values": {"geqo": True}}})).body == ""
    assert await values() == {"geqo": True}
    (await api("PUT", path, {"configuration": {"values": {}}})).must(202)
    assert await values() == {}


async def test_put_without_values_keeps_them(api: Caller, world: World):
    made = (await api("POST", "/configurations", group(values=VALUES, description="first"))).must(200)["configuration"]
    path = f"/configurations/{made['id']}"
    (await api("PUT", path, {"configuration": {"name": "other"}})).must(202)
    shown = (await api("GET", path)).must(200)["configuration"]
    assert (shown["name"], shown["description"], shown["values"]) == ("other", "first", VALUES)
    (await api("PUT", path, {"configuration": {"description": None}})).must(202)
    (await api("PUT", path, {"configuration": {}})).must(202)
    shown = (await api("GET", path)).must(200)["configuration"]
    assert (shown["name"], shown["description"], shown["values"]) == ("other", None, VALUES)


async def test_names_are_kept_as_they_are_registered(api: Caller, world: World):
    given_ = {"WORK_MEM": 4096, "datestyle": "ISO, DMY", "timezone": "Europe/Vienna"}
    made = (await api("POST", "/configurations", group(values=given_))).must(200)["configuration"]
    assert made["values"] == {"work_mem": 4096, "DateStyle": "ISO, DMY", "TimeZone": "Europe/Vienna"}


LAWFUL = {
    "float from integer": {"random_page_cost": 2},
    "no upper bound": {"random_page_cost": 1e300},
    "least": {"max_connections": 10},
    "most": {"max_connections": 262143},
    "negative": {"autovacuum_work_mem": -1},
    "size": {"shared_buffers": "1GB"},
    "size with a space": {"shared_buffers": "0.5 GB"},
    "time": {"statement_timeout": "5min"},
    "float time": {"vacuum_cost_delay": "2ms"},
    "choice in capitals": {"log_statement": "ALL"},
    "nothing": {},
}


@pytest.mark.parametrize("values", LAWFUL.values(), ids=LAWFUL)
async def test_what_values_may_be(api: Caller, world: World, values: Any):
    made = (await api("POST", "/configurations", group(values=values))).must(200)["configuration"]
    assert made["values"] == values


STATEMENT = "for this datastore: postgresql 17."
UNLAWFUL = {
    "unknown": ({"nothing": 1}, f"The configuration parameter nothing is not supported {STATEMENT}"),
    "of Coffer": ({"listen_addresses": "*"}, f"listen_addresses is not supported {STATEMENT}"),
    "empty name": ({"": 1}, "is not supported"),
    "name with zero": ({"a\0": 1}, "is not supported"),
    "twice": ({"work_mem": 64, "Work_Mem": 65}, "work_mem is given twice"),
    "text for integer": (
        {"max_connections": "9"},
        "The value provided for the configuration parameter max_connections is not of type integer.",
    ),
    "boolean for integer": ({"max_connections": True}, "max_connections is not of type integer"),
    "float for integer": ({"max_connections": 20.0}, "max_connections is not of type integer"),
    "null": ({"max_connections": None}, "max_connections is not of type integer"),
    "list": ({"max_connections": [1]}, "max_connections is not of type integer"),
    "integer for boolean": ({"jit": 1}, "jit is not of type boolean"),
    "text for boolean": ({"jit": "on"}, "jit is not of type boolean"),
    "boolean for float": ({"random_page_cost": True}, "random_page_cost is not of type float"),
    "text for float": ({"random_page_cost": "4"}, "random_page_cost is not of type float"),
    "integer for text": ({"DateStyle": 1}, "DateStyle is not of type string"),
    "object for text": ({"DateStyle": {"a": 1}}, "DateStyle is not of type string"),
    "too little": (
        {"max_connections": 9},
        "The value for the configuration parameter max_connections is less than the minimum allowed: 10",
    ),
    "too much": (
        {"max_connections": 262144},
        "The value for the configuration parameter max_connections is greater than the maximum allowed: 262143",
    ),
    "huge": ({"max_connections": 10**40}, "greater than the maximum"),
    "float too little": ({"geqo_seed": -0.1}, "less than the minimum allowed: 0"),
    "no such unit": ({"work_mem": "64M"}, "work_mem is not of type integer"),
    "another unit": ({"work_mem": "64ms"}, "work_mem is not of type integer"),
    "no unit": ({"work_mem": "64"}, "work_mem is not of type integer"),
    "unit for none": ({"max_connections": "64kB"}, "max_connections is not of type integer"),
    "too little of a unit": ({"shared_buffers": "64kB"}, "less than the minimum allowed: 16"),
    "too much of a unit": ({"statement_timeout": "9999 d"}, "greater than the maximum allowed"),
    "no choice": ({"log_statement": "some"}, "must be one of none, ddl, mod, all."),
    "line break": ({"DateStyle": "ISO\n"}, "must be printable"),
    "zero": ({"DateStyle": "ISO\0"}, "must be printable"),
    "long": ({"DateStyle": "I" * 1025}, "at most 1024"),
}


@pytest.mark.parametrize(("values", "words"), UNLAWFUL.values(), ids=UNLAWFUL)
async def test_values_that_are_refused(api: Caller, world: World, values: Any, words: str):
    kept = await world.configuration({"jit": True})
    for method, path in (("POST", ""), ("PUT", f"/{kept}"), ("PATCH", f"/{kept}")):
        answer = await api(method, f"/configurations{path}", group(values=values))
        assert (answer.status, set(answer.body)) == (422, {"unprocessableEntity"})
        assert words in answer.problem
    assert (await api("GET", f"/configurations/{kept}")).must(200)["configuration"]["values"] == {"jit": True}
    assert await world.count("configurations") == 1


BAD = {
    "no body": (None, 400),
    "empty": ({}, 400),
    "null": ({"configuration": None}, 400),
    "no name": ({"configuration": {"values": {}}}, 400),
    "empty name": (group(name=""), 400),
    "long name": (group(name="n" * 256), 400),
    "no values": ({"configuration": {"name": "x"}}, 400),
    "null values": (group(values=None), 400),
    "list of values": (group(values=[1]), 400),
    "text of values": (group(values='{"jit": true}'), 400),
    "too many values": (group(values={f"x{n}": 1 for n in range(1001)}), 400),
    "empty description": (group(description=""), 400),
    "datastore text": (group(datastore="postgresql"), 400),
    "more in datastore": (group(datastore={**V17, "x": 1}), 400),
    "unknown datastore": (group(datastore={"type": "oracle"}), 404),
    "unknown version": (group(datastore={"type": "postgresql", "version": "1"}), 400),
    "unknown number": (group(datastore={**V17, "version_number": "1"}), 400),
}


@pytest.mark.parametrize(("body", "status"), BAD.values(), ids=BAD)
async def test_bodies_that_are_refused(api: Caller, world: World, body: Any, status: int):
    answer = await api("POST", "/configurations", body)
    assert answer.status == status, answer.body
    assert answer.problem
    assert await world.count("configurations") == 0


async def test_changes_that_are_refused(api: Caller, world: World):
    path = f"/configurations/{await world.configuration()}"
    for body in (None, {}, {"configuration": []}, group(name=""), group(description=""), group(values=3)):
        assert (await api("PUT", path, body)).status == 400
    for body in (None, {}, {"configuration": {}}, {"configuration": {"values": None}}):
        assert (await api("PATCH", path, body)).status == 400


async def test_the_version_is_named_or_the_default_and_may_be_out_of_use(api: Caller, world: World):
    for datastore, version in [
        (None, None), ({"type": "postgresql"}, VERSION), ({"type": "postgresql", "version": VERSION}, VERSION),
        ({"type": "postgresql", "version_number": "17.6"}, VERSION),
        ({"type": "postgresql", "version": "9"}, OLD_VERSION),
    ]:
        answer = await api("POST", "/configurations", group(datastore=datastore))
        if version is None:
            assert "no default" in answer.problem
        else:
            assert answer.must(200)["configuration"]["datastore_version_id"] == version


async def test_a_version_without_parameters_has_no_groups(api: Caller, world: World):
    await world.sql("DELETE FROM configuration_parameters")
    answer = await api("POST", "/configurations", group(values={"jit": True}))
    assert answer.status == 422
    assert answer.problem == "Configuration groups are not supported for this datastore: postgresql 17"


async def test_pages_are_in_the_order_of_ids(api: Caller, world: World):
    ids = sorted([await world.configuration() for _ in range(5)])
    seen: list[str] = []
    path = "/v1.0/p1/configurations?limit=2"
    while path:
        page = (await api.bare("GET", path)).must(200)
        seen += [item["id"] for item in page["configurations"]]
        assert page.get("links") == page.get("configurations_links")
        path = page["links"][0]["href"].removeprefix(api.base) if "links" in page else ""
    assert seen == ids
    assert (await api("GET", "/configurations?limit=0")).status == 400


async def test_groups_are_seen_by_their_project_and_by_administrators(api: Caller, world: World):
    own, other = await world.configuration({"jit": True}), await world.configuration(project="p2")
    assert [g["id"] for g in (await api("GET", "/configurations")).body["configurations"]] == [own]
    root = api.as_("root")
    found = (await root("GET", "/configurations")).must(200)["configurations"]
    assert {g["id"]: g["project_id"] for g in found} == {own: "p1", other: "p2"}
    assert (await root("GET", f"/configurations/{own}")).must(200)["configuration"]["values"] == {"jit": True}
    bob = api.as_("bob")
    for method, rest, body in [
        ("GET", "", None), ("GET", "/instances", None), ("DELETE", "", None), ("PUT", "", group()),
        ("PATCH", "", group()),
    ]:
        assert (await bob(method, f"/configurations/{own}{rest}", body)).status == 404
    rita = api.as_("rita")
    assert (await rita("GET", f"/configurations/{own}")).status == 200
    for method, path, body in [
        ("POST", "", group()), ("PUT", f"/{own}", group()), ("PATCH", f"/{own}", group()), ("DELETE", f"/{own}", None),
    ]:
        assert (await rita(method, f"/configurations{path}", body)).status == 403
    (await root("DELETE", f"/configurations/{own}")).must(202)


async def test_the_defaults_of_an_instance_follow_from_its_flavor(api: Caller, world: World):
    spec = coffer_datastores.specs()["postgresql"]
    assert spec.defaults is not None
    for flavor, memory, vcpus in (("1", 512, 0.5), ("gold", 4096, 2)):
        instance = await world.instance(flavor_id=flavor)
        shown = (await api("GET", f"/instances/{instance}/configuration")).must(200)["instance"]["configuration"]
        assert shown == dict(spec.defaults(Sizes(memory << 20, vcpus, 2 * GIB)))
        assert shown["shared_buffers"] == f"{memory // 4}MB"
        assert (shown["max_connections"], shown["jit"]) == (100, False)
    assert (await api.as_("bob")("GET", f"/instances/{instance}/configuration")).status == 404
    assert (await api.as_("root")("GET", f"/instances/{instance}/configuration")).status == 200
    for path in (UNKNOWN, "one"):
        assert (await api("GET", f"/instances/{path}/configuration")).status == 404


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(min_value=2**62, max_value=2**200)
    | st.floats(allow_nan=False, allow_infinity=False) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3), max_leaves=8,
)
NAMES = st.sampled_from(["max_connections", "random_page_cost", "jit", "DateStyle", "log_statement", "work_mem"])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True,
    database=None,
)
@given(values=ANY | st.dictionaries(NAMES | st.text(st.characters(exclude_categories=["Cs"])), ANY, max_size=4))
async def test_any_values_are_kept_or_refused(api: Caller, world: World, values: Any):
    answer = await api("POST", "/configurations", group(values=values))
    assert answer.status in {200, 400, 422}, answer.body
    if answer.status == 200:
        assert answer.body["configuration"]["values"] == values
