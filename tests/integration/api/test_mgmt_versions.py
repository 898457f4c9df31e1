"""Datastore versions: how administrators manage them, and what others see of that."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import uuid4

import pytest

from integration.api.service import BACKUP_DIGEST, DIGEST, VERSION, Caller, World

UNKNOWN = "99999999-9999-4999-8999-999999999999"
PATH = "/mgmt/datastore-versions"
NEW: dict[str, Any] = {
    "name": "gold", "datastore_name": "postgresql", "datastore_manager": "postgresql", "active": True,
    "image": UNKNOWN, "version": "17",
}


@pytest.fixture
def root(api: Caller) -> Caller:
    return api.as_("root")


def wanted(**more: Any) -> dict[str, Any]:
    return {"version": {**NEW, **more}}


async def added(root: Caller, **more: Any) -> dict[str, Any]:
    """The new version as it is listed."""
    before = {item["id"] for item in (await root("GET", PATH)).must(200)["versions"]}
    answer = await root("POST", PATH, wanted(**more))
    assert (answer.status, answer.body) == (202, "")
    (made,) = [v for v in (await root("GET", PATH)).must(200)["versions"] if v["id"] not in before]
    found: dict[str, Any] = made
    return found


def create(version: str, **more: Any) -> dict[str, Any]:
    return {"instance": {"name": "x", "flavorRef": 1, "volume": {"size": 1},
                         "datastore": {"type": "postgresql", "version": version}, **more}}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", PATH, 401), ("GET", f"{PATH}/{VERSION}", 401), ("POST", PATH, 401), ("PATCH", f"{PATH}/{VERSION}", 401),
     ("DELETE", f"{PATH}/{VERSION}", 401), ("DELETE", "/datastores/postgresql", 403)],
)
async def test_only_administrators_manage(api: Caller, world: World, method: str, path: str, status: int):
    for name in ("ann", "rita"):
        assert (await api.as_(name)(method, path, wanted())).status == status
    assert await world.count("datastore_versions") == 2


async def test_the_list_is_of_all_versions(root: Caller):
    versions = (await root("GET", PATH)).must(200)["versions"]
    assert [(v["name"], v["active"], v["default"]) for v in versions] == [("17", True, True), ("9", False, False)]
    assert versions[0] == {
        "id": VERSION, "name": "17", "version": "17.6", "datastore_id": versions[0]["datastore_id"],
        "datastore_name": "postgresql", "datastore_manager": "postgresql", "image": None, "image_tags": [],
        "packages": [], "active": True, "registry_ext": None, "repl_strategy": None, "default": True,
        "container_image": "coffer/postgres:17", "container_digest": DIGEST,
        "backup_image": "coffer/postgres-backup:17", "backup_digest": BACKUP_DIGEST,
    }
    assert (versions[1]["container_digest"], versions[1]["backup_image"]) == (None, None)
    assert (await root("GET", f"{PATH}/{VERSION}")).must(200) == {"version": versions[0]}
    for missing in (UNKNOWN, "17"):
        answer = await root("GET", f"{PATH}/{missing}")
        assert (answer.status, answer.problem) == (400, f"Datastore version '{missing}' cannot be found.")


async def test_a_version_of_a_known_image_can_be_used_at_once(api: Caller, root: Caller):
    tags, packages = ["a", "b"], ["p", "q"]
    made = await added(root, image=None, image_tags=tags, packages=packages, repl_strategy="async", default=True)
    assert (made["name"], made["version"], made["datastore_name"]) == ("gold", "17", "postgresql")
    assert (made["image"], made["image_tags"], made["packages"]) == (None, tags, packages)
    assert (made["active"], made["default"], made["repl_strategy"]) == (True, True, "async")
    assert (made["container_image"], made["container_digest"]) == ("coffer/postgres:17", DIGEST)
    assert (made["backup_image"], made["backup_digest"]) == ("coffer/postgres-backup:17", BACKUP_DIGEST)
    seen = (await root("GET", "/datastores/postgresql/versions/gold")).must(200)["version"]
    assert (seen["packages"], seen["image"], seen["image_tags"]) == ("p,q", None, tags)
    assert (seen["active"], seen["registry_ext"], seen["repl_strategy"]) == (True, None, "async")
    body = create("gold")
    del body["instance"]["datastore"]["version"]
    built = (await api("POST", "/instances", body)).must(200)["instance"]
    assert built["datastore"] == {"type": "postgresql", "version": "gold", "version_number": "17"}


async def test_a_version_without_a_digest_is_refused_early(api: Caller, root: Caller, world: World):
    """Guests pull by digest. A tag may have moved since it was looked at."""
    made = await added(root, version="18")
    assert (made["container_image"], made["container_digest"]) == ("coffer/postgres:18", None)
    answer = await api("POST", "/instances", create("gold"))
    assert answer.status == 400
    assert "no digest is recorded for its image coffer/postgres:18" in answer.problem
    assert await world.count("instances") == 0
    instance = await world.instance(datastore_version_id=made["id"])
    answer = await api("POST", "/backups", {"backup": {"name": "b", "instance": instance}})
    assert (answer.status, "not supported for version 'gold'" in answer.problem) == (400, True)
    await world.sql("UPDATE datastore_versions SET image_digest = 'sha256:3' WHERE version = '18'")
    (await api("POST", "/instances", create("gold"))).must(200)


async def test_the_repository_can_be_another(root: Caller):
    made = await added(root, registry_ext="team/postgres", version=None, name="16.4")
    assert (made["version"], made["registry_ext"]) == ("16.4", "team/postgres")
    assert (made["container_image"], made["backup_image"]) == ("team/postgres:16.4", "coffer/postgres-backup:16.4")


async def test_a_datastore_comes_and_goes_with_its_versions(api: Caller, root: Caller):
    made = await added(root, datastore_name="silver", active=False)
    assert (await api("GET", "/datastores/silver")).status == 404
    assert [d["name"] for d in (await api("GET", "/datastores")).must(200)["datastores"]] == ["postgresql"]
    shown = (await root("GET", "/datastores/silver")).must(200)["datastore"]
    assert ([v["id"] for v in shown["versions"]], "default_version" in shown) == ([made["id"]], False)
    answer = await root("DELETE", "/datastores/silver")
    assert (answer.status, answer.problem) == (400, "Datastore 'silver' has versions; delete them first.")
    (await root("DELETE", f"{PATH}/{made['id']}")).must(202)
    assert (await api("GET", "/datastores/silver/versions")).status == 404
    assert (await root("GET", "/datastores/silver/versions")).must(200) == {"versions": []}
    shown = (await root("GET", "/datastores/silver")).must(200)["datastore"]
    assert (shown["versions"], "default_version" in shown) == ([], False)
    assert {d["name"] for d in (await root("GET", "/datastores")).must(200)["datastores"]} == {"postgresql", "silver"}
    (await root("DELETE", f"/datastores/{shown['id']}")).must(202)
    for path in ("/datastores/silver", "/datastores/nope"):
        answer = await root("DELETE", path)
        assert (answer.status, answer.problem) == (404, f"Datastore '{path[12:]}' cannot be found.")


async def test_the_same_version_is_there_once(root: Caller, world: World):
    answers = await asyncio.gather(*(root("POST", PATH, wanted(datastore_name="new")) for _ in range(6)))
    assert sorted(a.status for a in answers) == [202] + [400] * 5
    assert {a.problem for a in answers if a.status == 400} == {"The datastore version 'gold(17)' already exists."}
    assert await world.count("datastores") == 2
    answer = await root("POST", PATH, wanted(name="17", version="17.6"))
    assert (answer.status, answer.problem) == (400, "The datastore version '17(17.6)' already exists.")


BAD: dict[str, tuple[Any, str]] = {
    "nothing": (None, "no body"),
    "empty": ({}, "version"),
    "extra": (wanted(speed=1), "speed"),
    "extra outside": ({**wanted(), "x": 1}, "x"),
    "no image": (wanted(image=None), "Image must be specified."),
    "no tags": (wanted(image=None, image_tags=[]), "Image must be specified."),
    "image of another form": (wanted(image="coffer/postgres"), "image"),
    "six tags": (wanted(image_tags=list("abcdef")), "image_tags"),
    "a tag twice": (wanted(image_tags=["a", "a"]), "twice"),
    "a long tag": (wanted(image_tags=["a" * 21]), "image_tags"),
    "packages as text": (wanted(packages="a,b"), "packages"),
    "a package with a comma": (wanted(packages=["a,b"]), "comma"),
    "active as text": (wanted(active="true"), "active"),
    "no active": ({"version": {k: v for k, v in NEW.items() if k != "active"}}, "active"),
    "no name": (wanted(name=""), "name"),
    "unknown manager": (wanted(datastore_manager="oracle"), "'oracle' is not known to this release.*postgresql"),
    "number that is no tag": (wanted(version="17 beta"), "tag of an image"),
    "name that is no tag": (wanted(version=None, name="my version"), "cannot be the tag"),
    "registry that is no repository": (wanted(registry_ext="trove.guestagent.Manager:X"), "repository"),
}


@pytest.mark.parametrize(("body", "says"), BAD.values(), ids=BAD)
async def test_weakness_13_a_bad_version_is_refused(root: Caller, world: World, body: Any, says: str):
    answer = await root("POST", PATH, body)
    assert answer.status == 400, answer.body
    assert re.search(says, answer.problem)
    assert await world.count("datastore_versions") == 2


@pytest.mark.parametrize(
    "body",
    [{"speed": 1}, {"version": "18"}, {"image": "x"}, {"name": ""}, {"active": 1}, {"datastore_manager": "oracle"}, [],
     None, {"default": "no"}, {"packages": [1]}, {"registry_ext": "../x"}],
)
async def test_weakness_13_a_bad_change_is_refused(root: Caller, body: Any):
    before = (await root("GET", f"{PATH}/{VERSION}")).body
    assert (await root("PATCH", f"{PATH}/{VERSION}", body)).status == 400
    assert (await root("GET", f"{PATH}/{VERSION}")).body == before
    assert (await root("PUT", f"{PATH}/{VERSION}", {"active": False})).status == 404


async def test_a_version_is_changed_part_by_part(api: Caller, root: Caller):
    made = await added(root)
    path = f"{PATH}/{made['id']}"

    async def changed(**given: Any) -> dict[str, Any]:
        answer = await root("PATCH", path, given)
        assert (answer.status, answer.body) == (202, "")
        found: dict[str, Any] = (await root("GET", path)).must(200)["version"]
        return found

    assert await changed() == made
    assert await changed(name="golden", active=None) == {**made, "name": "golden"}
    assert (await changed(image_tags=["x"]))["image"] is None
    found = await changed(image=VERSION)
    assert (found["image"], found["image_tags"]) == (VERSION, ["x"])
    assert (await changed(packages=["p"], repl_strategy="sync"))["packages"] == ["p"]
    found = await changed(registry_ext="team/pg")
    assert (found["container_image"], found["container_digest"]) == ("team/pg:17", None)
    found = await changed(registry_ext="coffer/postgres", datastore_manager="postgresql")
    assert (found["container_image"], found["container_digest"]) == ("coffer/postgres:17", DIGEST)
    assert (await api("GET", f"/datastores/versions/{made['id']}")).status == 200
    await changed(active=False)
    assert (await api("GET", f"/datastores/versions/{made['id']}")).status == 400
    answer = await root("PATCH", f"{PATH}/{UNKNOWN}", {"active": False})
    assert (answer.status, answer.problem) == (400, f"Datastore version '{UNKNOWN}' cannot be found.")
    await added(root, name="other")
    answer = await root("PATCH", path, {"name": "other"})
    assert (answer.status, answer.problem) == (400, "The datastore version 'other(17)' already exists.")


async def test_the_default_is_one_at_most(api: Caller, root: Caller, world: World):
    made = await added(root)
    path = f"{PATH}/{made['id']}"

    async def default() -> str | None:
        found: str | None = (await api("GET", "/datastores/postgresql")).must(200)["datastore"].get("default_version")
        return found

    assert await default() == VERSION
    (await root("PATCH", path, {"default": False})).must(202)  # it is not the default: nothing to end
    assert await default() == VERSION
    (await root("PATCH", path, {"default": True})).must(202)
    assert await default() == made["id"]
    listed = {v["id"]: v["default"] for v in (await root("GET", PATH)).must(200)["versions"]}
    assert [id_ for id_, chosen in listed.items() if chosen] == [made["id"]]
    (await root("PATCH", path, {"active": False})).must(202)
    assert await default() is None  # it is not among the versions that a member sees
    body = create("x")
    del body["instance"]["datastore"]["version"]
    answer = await api("POST", "/instances", body)
    assert (answer.status, answer.problem) == (400, "Default version for datastore 'postgresql' not found.")
    (await root("PATCH", path, {"active": True, "default": False})).must(202)
    assert await default() is None
    (await root("PATCH", path, {"default": True})).must(202)
    (await root("DELETE", path)).must(202)
    assert await default() is None
    assert await world.count("datastores WHERE default_version_id IS NULL") == 1


@pytest.mark.parametrize("what", ["instance", "backup", "configuration"])
async def test_a_version_in_use_stays(root: Caller, world: World, what: str):
    made = await added(root)
    path = f"{PATH}/{made['id']}"
    if what == "instance":
        await world.instance(datastore_version_id=made["id"])
    elif what == "backup":
        await world.backup(await world.instance(), datastore_version_id=made["id"])
    else:
        await world.sql(
            "INSERT INTO configurations (id, project_id, name, datastore_version_id) VALUES (:id, 'p1', 'c', :version)",
            id=str(uuid4()), version=made["id"],
        )
    for _ in range(2):
        answer = await root("DELETE", path)
        assert (answer.status, f"cannot be deleted: used by 1 {what}." in answer.problem) == (400, True)
    table = f"{what}s"
    await world.sql(f"UPDATE {table} SET deleted_at = now() WHERE datastore_version_id = :id", id=made["id"])
    await world.sql(
        "INSERT INTO configuration_parameters (version_id, name, data_type, restart_required) "
        "VALUES (:id, 'max_connections', 'integer', true)", id=made["id"],
    )
    await tie(world, made["id"], flavor="1", volume_type="fast")
    (await root("DELETE", path)).must(202)
    answer = await root("DELETE", path)
    assert (answer.status, answer.problem) == (400, f"Datastore version '{made['id']}' cannot be found.")
    assert await world.count(f"{table} WHERE datastore_version_id IS NULL") == 1
    for gone in ("configuration_parameters", "version_flavors", "version_volume_types"):
        assert await world.count(f"{gone} WHERE version_id = '{made['id']}'") == 0


async def test_a_version_does_not_go_while_an_instance_comes(api: Caller, root: Caller, world: World):
    """Whichever is first, no live instance is without its version."""
    for _ in range(6):
        made = await added(root)
        creating, deleting = await asyncio.gather(
            api("POST", "/instances", create("gold")), root("DELETE", f"{PATH}/{made['id']}"),
        )
        assert (creating.status, deleting.status) in {(200, 400), (400, 202)}, (creating.body, deleting.body)
        await world.sql("UPDATE operations SET state = 'succeeded', finished_at = now()")
        await world.sql("UPDATE instances SET deleted_at = now()")
        await root("DELETE", f"{PATH}/{made['id']}")


async def tie(world: World, version: str, *, flavor: str | None = None, volume_type: str | None = None) -> None:
    if flavor:
        await world.sql("INSERT INTO version_flavors VALUES (:v, :f)", v=version, f=flavor)
    if volume_type:
        await world.sql("INSERT INTO version_volume_types VALUES (:v, :t)", v=version, t=volume_type)


async def test_ties_to_flavors_and_volume_types_hold(api: Caller, world: World):
    base = f"/datastores/postgresql/versions/{VERSION}"
    assert len((await api("GET", base + "/flavors")).must(200)["flavors"]) == 2
    await tie(world, VERSION, flavor="gold", volume_type="fast")
    (flavor,) = (await api("GET", base + "/flavors")).must(200)["flavors"]
    assert flavor["str_id"] == "gold"
    assert (await api("GET", base + "/volume-types")).must(200) == {
        "volume_types": [{"id": "fast", "name": "fast", "is_public": True, "description": None}],
    }
    answer = await api("POST", "/instances", create("17"))
    assert (answer.status, answer.problem) == (
        400, "Flavor 1 is not supported for datastore postgresql version 17.",
    )
    volume = {"size": 1, "type": "slow"}
    answer = await api("POST", "/instances", create("17", flavorRef="gold", volume=volume))
    assert (answer.status, answer.problem) == (
        400, "The volume type slow is not valid for datastore postgresql version 17; valid types: fast.",
    )
    assert await world.count("instances") == 0
    for kind in (None, "fast"):
        (await api("POST", "/instances", create("17", flavorRef="gold", volume={"size": 1, "type": kind}))).must(200)


async def test_what_is_not_active_is_for_administrators(api: Caller, root: Caller, world: World):
    (old,) = await world.sql("SELECT id FROM datastore_versions WHERE NOT active")
    base = "/datastores/postgresql/versions"
    for path, status in [(f"{base}/{old['id']}", 404), (f"{base}/9", 400), (f"/datastores/versions/{old['id']}", 400),
                         (f"{base}/{old['id']}/flavors", 404), (f"{base}/{UNKNOWN}/volume-types", 404)]:
        assert (await api("GET", path)).status == status
        if UNKNOWN not in path:
            (await root("GET", path)).must(200)
    await world.sql("UPDATE datastore_versions SET active = false")
    assert (await api("GET", "/datastores")).must(200) == {"datastores": []}
    for path in ("/datastores/postgresql", base):
        answer = await api("GET", path)
        assert (answer.status, answer.problem) == (404, "Datastore 'postgresql' cannot be found.")


async def test_a_name_of_several_versions_needs_more(api: Caller, root: Caller):
    made = await added(root, name="17", version="17.7")
    answer = await api("GET", "/datastores/postgresql/versions/17")
    assert (answer.status, "use the id" in answer.problem) == (400, True)
    (await api("GET", f"/datastores/postgresql/versions/{made['id'].upper()}")).must(200)
    answer = await api("POST", "/instances", create("17"))
    assert (answer.status, "give version_number too" in answer.problem) == (400, True)
    body = create("17", datastore={"type": "postgresql", "version": "17", "version_number": "17.6"})
    assert (await api("POST", "/instances", body)).must(200)["instance"]["datastore"]["version_number"] == "17.6"
