"""Parameters as tenants see them, and as administrators manage them."""

from __future__ import annotations

from typing import Any

import pytest

from coffer_db import parameters
from coffer_db.catalogue import Catalogue, DatastoreOffer, VersionOffer, register, version_id
from integration.api.service import OLD_VERSION, VERSION, Caller, World

UNKNOWN = "99999999-9999-4999-8999-999999999999"
MANAGED = f"/mgmt/datastores/versions/{VERSION}/parameters"


@pytest.fixture
async def bare(world: World) -> World:
    """With no parameter."""
    await world.sql("DELETE FROM configuration_parameters")
    return world


@pytest.fixture
def root(api: Caller) -> Caller:
    return api.as_("root")


def spec(name: str = "own", kind: str = "integer", restart: Any = 0, **more: Any) -> dict[str, Any]:
    ends = {"max_size": 5, "min_size": 0} if kind == "integer" else {}
    return {"configuration-parameter": {"name": name, "data_type": kind, "restart_required": restart, **ends, **more}}


async def test_parameters_by_the_names_and_ids_of_their_version(api: Caller, world: World):
    listed = (await api("GET", f"/datastores/versions/{VERSION}/parameters")).must(200)["configuration-parameters"]
    assert len(listed) > 150
    assert [item["name"].lower() for item in listed] == sorted(item["name"].lower() for item in listed)
    (datastore,) = (await api("GET", "/datastores")).body["datastores"]
    for name in ("postgresql", datastore["id"]):
        for version in ("17", VERSION, VERSION.upper()):
            path = f"/datastores/{name}/versions/{version}/parameters"
            assert (await api("GET", path)).must(200) == {"configuration-parameters": listed}
            assert (await api("GET", f"{path}/WORK_MEM")).must(200) == {
                "name": "work_mem", "datastore_version_id": VERSION, "restart_required": False, "type": "integer",
                "min": 64, "max": 2147483647, "unit": "kB", "default": 4096,
            }
    one = (await api("GET", f"/datastores/versions/{VERSION}/parameters/max_connections")).must(200)
    assert (one["restart_required"], one["min"], one["max"]) == (True, 10, 262143)
    choices = (await api("GET", f"/datastores/versions/{VERSION}/parameters/log_statement")).must(200)["choices"]
    assert choices == ["none", "ddl", "mod", "all"]


async def test_ends_of_ranges_are_numbers(api: Caller, world: World):
    """gophercloud decodes nothing else."""
    listed = (await api("GET", f"/datastores/versions/{VERSION}/parameters")).must(200)["configuration-parameters"]
    ends = [item[end] for item in listed for end in ("min", "max") if end in item]
    assert len(ends) > 200
    assert all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends)
    assert 0 in ends


async def test_a_version_out_of_use_has_parameters_and_one_without_has_an_empty_list(api: Caller, bare: World):
    assert (await api("GET", "/datastores/postgresql/versions/17/parameters")).must(200) == {
        "configuration-parameters": [],
    }
    await bare.parameters(OLD_VERSION)
    listed = (await api("GET", "/datastores/postgresql/versions/9/parameters")).must(200)["configuration-parameters"]
    assert {item["datastore_version_id"] for item in listed} == {OLD_VERSION}


@pytest.mark.parametrize(("path", "status"), [
    ("/datastores/oracle/versions/17/parameters", 404),
    ("/datastores/oracle/versions/17/parameters/work_mem", 404),
    ("/datastores/postgresql/versions/1/parameters", 400),
    (f"/datastores/postgresql/versions/{UNKNOWN}/parameters", 404),
    ("/datastores/postgresql/versions/17/parameters/nothing", 404),
    (f"/datastores/versions/{UNKNOWN}/parameters", 400),
    (f"/datastores/versions/{UNKNOWN}/parameters/work_mem", 400),
    (f"/datastores/versions/{VERSION}/parameters/nothing", 404),
    (f"/datastores/versions/{VERSION}/parameters/%25", 404),
])
async def test_parameters_that_are_not_there(api: Caller, world: World, path: str, status: int):
    answer = await api("GET", path)
    assert answer.status == status
    assert answer.problem


async def test_a_name_of_two_versions_is_not_enough(api: Caller, world: World):
    other = VersionOffer(name="17", version="17.7", manager="postgresql", image="i")
    async with world.db.begin() as session:
        await register(session, Catalogue((DatastoreOffer("postgresql", (other,)),), ()))
    answer = await api("GET", "/datastores/postgresql/versions/17/parameters")
    assert (answer.status, "Several versions" in answer.problem) == (400, True)
    own = version_id("postgresql", other)
    assert (await api("GET", f"/datastores/postgresql/versions/{own}/parameters")).status == 200
    body = {"configuration": {"name": "x", "values": {}, "datastore": {"type": "postgresql", "version": "17"}}}
    assert (await api("POST", "/configurations", body)).status == 400
    body["configuration"]["datastore"]["version_number"] = "17.7"
    assert (await api("POST", "/configurations", body)).must(200)["configuration"]["datastore_version_id"] == own


async def test_a_managed_parameter_from_its_creation_to_its_end(root: Caller, bare: World):
    made = (await root("POST", MANAGED, spec(restart=1))).must(200)
    assert made == {
        "name": "own", "datastore_version_id": VERSION, "restart_required": True, "type": "integer", "max_size": 5,
        "min_size": 0,
    }
    path = f"{MANAGED.replace(VERSION, VERSION.upper())}/own"
    assert (await root("GET", path)).must(200) == made
    assert (await root("GET", MANAGED)).must(200) == {"configuration-parameters": [made]}
    public = (await root("GET", f"/datastores/versions/{VERSION}/parameters/own")).must(200)
    assert (public["min"], public["max"]) == (0, 5)
    changed = (await root("PUT", path, spec(restart=0, max_size=-1, min_size=-7))).must(200)
    assert (changed["restart_required"], changed["min_size"], changed["max_size"]) == (False, -7, -1)
    assert (await root("GET", path)).must(200) == changed
    gone = await root("DELETE", path)
    assert (gone.status, gone.body) == (204, "")
    assert (await root("DELETE", path)).status == 400
    assert (await root("GET", path)).status == 404
    assert (await root("PUT", path, spec())).status == 404


@pytest.mark.parametrize(("kind", "more", "ends"), [
    ("string", {}, {}), ("string", {"max_size": 9, "min_size": 1}, {}), ("boolean", {}, {}),
    ("float", {}, {}), ("float", {"min_size": 0.5}, {"min_size": 0.5}),
    ("integer", {"max_size": "12", "min_size": "0"}, {"max_size": 12, "min_size": 0}),
    ("integer", {"max_size": 2**63 - 1, "min_size": -(2**63)}, {"max_size": 2**63 - 1, "min_size": -(2**63)}),
])
async def test_types_of_managed_parameters(root: Caller, bare: World, kind: str, more: Any, ends: Any):
    made = (await root("POST", MANAGED, spec(kind=kind, **more))).must(200)
    assert {key: made[key] for key in ("max_size", "min_size") if key in made} == ends
    assert (await root("GET", f"{MANAGED}/own")).must(200) == made


async def test_a_changed_parameter_keeps_what_the_body_cannot_say_while_its_type_stays(root: Caller, world: World):
    path = f"/datastores/versions/{VERSION}/parameters/work_mem"
    (await root("PUT", f"{MANAGED}/WORK_MEM", spec("work_mem", max_size=1024, min_size=64))).must(200)
    shown = (await root("GET", path)).must(200)
    assert (shown["name"], shown["max"], shown["unit"], shown["default"]) == ("work_mem", 1024, "kB", 4096)
    (await root("PUT", f"{MANAGED}/work_mem", spec("work_mem", "string"))).must(200)
    assert not {"max", "unit", "default"} & (await root("GET", path)).must(200).keys()


async def test_what_an_administrator_changes_holds_for_values(root: Caller, api: Caller, world: World):
    body = {"configuration": {"name": "x", "values": {"work_mem": 4096}, "datastore": {"type": "postgresql"}}}
    kept = (await api("POST", "/configurations", body)).must(200)["configuration"]
    (await root("PUT", f"{MANAGED}/work_mem", spec("work_mem", max_size=1024, min_size=64))).must(200)
    assert (await api("POST", "/configurations", body)).status == 422
    (await root("DELETE", f"{MANAGED}/work_mem")).must(204)
    assert "is not supported" in (await api("POST", "/configurations", body)).problem
    shown = (await api("GET", f"/configurations/{kept['id']}")).must(200)["configuration"]
    assert shown["values"] == {"work_mem": 4096}


REFUSED = {
    "no body": None,
    "empty": {},
    "no name": {"configuration-parameter": {"data_type": "string", "restart_required": 0}},
    "empty name": spec(""),
    "long name": spec("n" * 129),
    "name with a space": spec("a b"),
    "name with a zero": spec("a\0"),
    "no type": {"configuration-parameter": {"name": "own", "restart_required": 0}},
    "unknown type": spec(kind="list"),
    "no restart": {"configuration-parameter": {"name": "own", "data_type": "string"}},
    "restart two": spec(restart=2),
    "restart text": spec(restart="1"),
    "restart null": spec(restart=None),
    "no max": {"configuration-parameter": {"name": "own", "data_type": "integer", "restart_required": 0,
                                           "min_size": 0}},
    "null min": spec(min_size=None),
    "max below min": spec(max_size=-1),
    "text": spec(max_size="many"),
    "fraction": spec(max_size=5.5),
    "boolean": spec(max_size=True),
    "too large": spec(max_size=2**63),
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
async def test_managed_parameters_that_are_refused(root: Caller, bare: World, body: Any):
    for method, path in (("POST", MANAGED), ("PUT", f"{MANAGED}/own")):
        answer = await root(method, path, body)
        assert (answer.status, set(answer.body)) == (400, {"badRequest"}), answer.body
    assert await bare.count("configuration_parameters") == 0


async def test_names_are_unique_in_whatever_case_and_stay(root: Caller, world: World):
    for name in ("work_mem", "Work_Mem"):
        answer = await root("POST", MANAGED, spec(name))
        assert (answer.status, "already exists" in answer.problem) == (400, True)
    assert (await root("PUT", f"{MANAGED}/work_mem", spec("other"))).status == 400
    unknown = MANAGED.replace(VERSION, UNKNOWN)
    for method, path, body in [
        ("GET", "", None), ("POST", "", spec()), ("GET", "/x", None), ("PUT", "/own", spec()), ("DELETE", "/x", None),
    ]:
        assert (await root(method, unknown + path, body)).status == 400


async def test_only_administrators_manage_parameters(api: Caller, world: World):
    for caller in (api, api.as_("rita")):
        for method, path, body in [
            ("GET", "", None), ("POST", "", spec()), ("GET", "/work_mem", None), ("PUT", "/work_mem", spec()),
            ("DELETE", "/work_mem", None),
        ]:
            answer = await caller(method, MANAGED + path, body)
            assert (answer.status, answer.problem) == (401, "User does not have admin privileges.")


async def test_a_list_that_is_loaded_again_brings_its_own_back_and_leaves_others(world: World, root: Caller):
    (await root("POST", MANAGED, spec())).must(200)
    (await root("PUT", f"{MANAGED}/work_mem", spec("work_mem", max_size=1024, min_size=64))).must(200)
    async with world.db.begin() as session:
        before = await parameters.known(session, VERSION)
    await world.parameters()
    async with world.db.begin() as session:
        after = await parameters.known(session, VERSION)
    assert {p.name for p in after} == {p.name for p in before}
    assert {p.name: p.max for p in after}["work_mem"] == 2147483647
