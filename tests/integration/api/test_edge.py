"""What every request meets: identity, paths, bodies, errors, cost."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from sqlalchemy import event

from coffer_api import reads
from coffer_api.metrics import Metrics
from coffer_db import roles
from coffer_db.database import Database
from coffer_shared.settings import BadSettings
from integration.api.service import Caller, World, serving, settings, state_dir

if TYPE_CHECKING:
    from support.postgres import Server

UNKNOWN = "99999999-9999-4999-8999-999999999999"


async def test_the_public_documents(api: Caller):
    api.user = ""
    assert (await api.bare("GET", "/")).must(200) == {"versions": [{
        "id": "v1.0", "status": "CURRENT", "updated": "2012-08-01T00:00:00Z",
        "links": [{"rel": "self", "href": f"{api.base}/v1.0/"}],
    }]}
    for path in ("/v1.0", "/v1.0/"):
        assert (await api.bare("GET", path)).must(200)["version"]["links"][0]["href"] == f"{api.base}/v1.0/"
    for path in ("/v1.0/p1", "/v1.0/p1/", "/v1.0/a%20b%2F"):
        link = (await api.bare("GET", path)).must(200)["version"]["links"][0]["href"]
        assert link == f"{api.base}{path.rstrip('/')}"
    assert (await api.bare("GET", "/v1.0/p1/%2F")).status == 401
    for path in ("/healthz", "/readyz", "/healthcheck"):
        assert (await api.bare("GET", path)).must(200) == "OK"
    for path in ("/metrics", "/redoc", "/nothing"):
        assert (await api.bare("GET", path)).status == 404
    page = (await api.bare("GET", "/docs")).must(200)
    assert "/docs/static/redoc.standalone.js" in page
    assert "https://" not in page  # a reader without the internet sees it too
    assert len((await api.bare("GET", "/docs/static/redoc.standalone.js")).must(200)) > 100_000


async def test_the_document_describes_every_route(api: Caller):
    document = (await api.bare("GET", "/openapi.json")).must(200)
    assert len(document["paths"]) > 50
    create = document["paths"]["/v1.0/{project}/instances"]["post"]
    reference = create["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference.rsplit("/", 1)[1] in document["components"]["schemas"]

    def references(node: Any) -> Any:
        if isinstance(node, dict):
            for key, value in node.items():
                yield from [value] if key == "$ref" else references(value)
        elif isinstance(node, list):
            for part in node:
                yield from references(part)

    for found in set(references(document)):
        place: Any = document
        for part in found.removeprefix("#/").split("/"):
            place = place[part]


@pytest.mark.parametrize("user", ["", "nobody", "ann"])
async def test_without_the_right_password_nothing_is_told(api: Caller, user: str):
    api.user, api.password = user, "wrong"
    for path in ("/instances", "/nothing", f"/instances/{UNKNOWN}"):
        answer = await api("GET", path)
        assert answer.status == 401
        assert set(answer.body) == {"unauthorized"}
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert answer.headers["x-openstack-request-id"].startswith("req-")


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Basic YW5u", "Bearer x", "Basic /////w==", "Basic " + "A" * 9000],
)
async def test_a_malformed_header_is_no_password(api: Caller, header: str):
    api.user = ""
    assert (await api("GET", "/instances", headers={"Authorization": header})).status == 401


async def test_guessing_is_slowed_for_the_guesser_only(api: Caller):
    guesser = api.as_("ann")
    answers = []
    for number in range(7):
        guesser.password = f"guess-{number}"
        answers.append(await guesser("GET", "/limits"))
    assert [("x-coffer-retry-after" in a.headers) for a in answers] == [False] * 5 + [True] * 2
    assert {a.status for a in answers} == {401}
    assert (await api.as_("rita")("GET", "/limits")).status == 200


async def test_projects_and_roles(api: Caller, world: World):
    instance = await world.instance()
    assert (await api.as_("ann", "p2")("GET", "/instances")).problem == "Access was denied to this resource."
    assert (await api.as_("root", "p1")("GET", f"/instances/{instance}")).status == 200
    rita = api.as_("rita")
    for path in (f"/instances/{instance}", f"/instances/{instance}/backups", "/backups", "/backup_strategies"):
        assert (await rita("GET", path)).status == 200
    for method, path, body, rule in [
        ("POST", "/instances", {}, "instance:create"), ("DELETE", f"/instances/{instance}", None, "instance:delete"),
        ("PUT", f"/instances/{instance}", {}, "instance:update"),
        ("POST", f"/instances/{instance}/action", {"restart": {}}, "instance:restart"),
        ("POST", f"/instances/{instance}/root", None, "instance:extension:root:create"),
        ("POST", f"/instances/{instance}/users", {}, "instance:extension:user:create"),
        ("POST", "/backups", {}, "backup:create"), ("DELETE", f"/backups/{UNKNOWN}", None, "backup:delete"),
        ("POST", "/backup_strategies", {}, "backup_strategy:create"),
        ("DELETE", "/backup_strategies", None, "backup_strategy:delete"),
        ("GET", "/backups?all_projects=1", None, "backup:index:all_projects"),
    ]:
        answer = await rita(method, path, body)
        assert (answer.status, answer.problem) == (403, f"Policy doesn't allow {rule} to be performed.")


async def test_paths_are_read_forgivingly(api: Caller, world: World):
    instance = await world.instance()
    for path in (f"//instances/{instance}", f"/instances///{instance}", f"/instances/{instance}.json",
                 f"/instances/{instance.upper()}", "/instances.json", "/instances?limit=3"):
        assert (await api("GET", path)).status == 200, path
    for path in ("/instances/", f"/instances/{instance}/", "/instance", "/instances/%2e%2e", "/instances/a%2Fb",
                 f"/instances/{instance}%00", "/instances/%ff", "/instances/%E2%98%83"):
        answer = await api("GET", path)
        assert answer.status in {400, 404}, path
        assert answer.problem


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/instances"), ("POST", "/flavors"), ("HEAD", "/instances"), ("OPTIONS", "/limits")],
)
async def test_a_method_that_is_not_routed_is_not_there(api: Caller, method: str, path: str):
    assert (await api(method, path)).status == 404


@pytest.mark.parametrize(
    "raw",
    [b"", b" ", b"{", b"[]", b"1", b'"x"', b"null", b"\xff", b'{"instance": NaN}', b"{" * 10_000, b"[" * 100_000,
     b'{"a": "\\ud800"}', b'{"instance": {"name": "\\ud800"}}', b'{"a": ' + b"1" * 9_000 + b"}"],
    ids=lambda raw: repr(raw[:20]),
)
async def test_what_is_no_json_object_is_refused(api: Caller, raw: bytes):
    answer = await api("POST", "/instances", raw=raw)
    assert answer.status == 400
    assert answer.problem


async def test_other_bodies(api: Caller):
    assert (await api("POST", "/instances", raw=b"a=1", headers={"Content-Type": "text/plain"})).status == 415
    big = await api("POST", "/instances", raw=b'{"a": "' + b"x" * 300_000 + b'"}')
    assert (big.status, set(big.body)) == (413, {"overLimit"})


async def test_flavors_and_datastores(api: Caller):
    flavors = (await api("GET", "/flavors")).must(200)["flavors"]
    assert [(f["id"], f["str_id"], f["vcpus"]) for f in flavors] == [(1, "1", 0.5), (None, "gold", 2)]
    assert (await api("GET", "/flavors/gold")).must(200)["flavor"] == flavors[1]
    assert (await api("GET", "/flavors/tiny")).status == 404
    (datastore,) = (await api("GET", "/datastores")).must(200)["datastores"]
    (version,) = datastore["versions"]
    assert datastore["default_version"] == version["id"]
    assert "active" not in version
    for name in (datastore["id"], "postgresql"):
        assert (await api("GET", f"/datastores/{name}")).must(200)["datastore"] == datastore
        for ref in (version["id"], "17"):
            shown = (await api("GET", f"/datastores/{name}/versions/{ref}")).must(200)["version"]
            assert shown == {**version, "datastore": datastore["id"]}
    assert (await api("GET", f"/datastores/versions/{version['id']}")).status == 200
    base = f"/datastores/postgresql/versions/{version['id']}"
    assert (await api("GET", base + "/flavors")).must(200)["flavors"] == flavors
    assert (await api("GET", base + "/volume-types")).must(200) == {"volume_types": []}
    for path, status in [("/datastores/x", 404), ("/datastores/postgresql/versions/9", 400),
                         (f"/datastores/postgresql/versions/{UNKNOWN}", 404), (f"/datastores/versions/{UNKNOWN}", 400)]:
        assert (await api("GET", path)).status == status
    seen = (await api.as_("root")("GET", "/datastores/postgresql/versions")).must(200)["versions"]
    assert {v["name"]: v["active"] for v in seen} == {"17": True, "9": False}


async def test_what_this_release_has_not(api: Caller, world: World):
    instance = await world.instance()
    for key in ("clusters", "modules"):
        assert (await api("GET", f"/{key}")).must(200) == {key: []}
        assert (await api("GET", f"/{key}/some")).status == 404
        assert (await api("POST", f"/{key}", {})).status == 501
    for method, path in [
        ("GET", f"/instances/{instance}/log"), ("GET", f"/instances/{instance}/ssl"),
        ("GET", f"/instances/{instance}/modules"),
    ]:
        answer = await api(method, path)
        assert (answer.status, set(answer.body)) == (501, {"notImplemented"})
    (limits,) = (await api("GET", "/limits")).must(200)["limits"]
    assert (limits["verb"], limits["max_instances"], limits["max_volumes"]) == ("ABSOLUTE", 5, 40)


async def test_what_breaks_inside_is_answered_without_its_reason(
    api: Caller, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
):
    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError("inner words")

    monkeypatch.setattr(reads.Reads, "fetch", broken)
    answer = await api("GET", "/instances")
    assert (answer.status, set(answer.body)) == (500, {"instanceFault"})
    assert answer.headers["x-openstack-request-id"].removeprefix("req-") in answer.problem
    assert "inner words" not in answer.problem
    assert "inner words" in capsys.readouterr().out


async def test_a_restart_of_the_database_costs_a_reader_nothing(api: Caller, world: World, postgres: Server):
    await world.instance()
    await asyncio.gather(*(api("GET", "/instances") for _ in range(8)))
    postgres.restart()  # not in a thread: the server ends with the thread that started it
    for _ in range(3):
        assert len((await api("GET", "/instances")).must(200)["instances"]) == 1


async def test_statements_do_not_grow_with_the_instances(
    postgres: Server, empty_database: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
):
    """Counted in the driver, so that transaction control counts too."""
    sent: list[str] = []
    made = Database.__init__

    def watched(self: Database, *args: Any, **more: Any) -> None:
        made(self, *args, **more)

        def note(connection: Any, _record: Any) -> None:
            connection.driver_connection.add_query_logger(lambda query: sent.append(query.query))

        event.listen(self._engine.sync_engine, "connect", note)

    monkeypatch.setattr(Database, "__init__", watched)
    chosen = settings(
        postgres.settings(empty_database), state_dir(tmp_path / "s"), quota_instances=-1, quota_volumes=-1,
        quota_backups=-1,
    )
    counts: dict[str, set[int]] = {}
    async with serving(chosen) as api:
        have = 0
        kept = await world.instance()
        for wanted in (1, 20, 100):
            while have < wanted:
                instance, backup, have = await world.instance(), await world.backup(kept), have + 1
                await world.sql(
                    "INSERT INTO backup_strategies (project_id, instance_id, backend, swift_container) "
                    "VALUES ('p1', :id, 'swift', 'c')", id=instance,
                )
            for path in (
                "/instances?limit=100", "/instances/detail?limit=100", f"/instances/{instance}", "/backups?limit=100",
                "/backups?limit=100&datastore=postgresql", f"/backups?limit=100&instance_id={kept}",
                f"/instances/{kept}/backups?limit=100", f"/backups/{backup}", "/mgmt/instances?limit=100",
                f"/mgmt/instances/{instance}", "/mgmt/quotas/p1", "/mgmt/datastore-versions", "/backup_strategies",
            ):
                caller = api.as_("root") if path.startswith("/mgmt/") else api
                for _ in range(2):
                    sent.clear()
                    found = (await caller("GET", path)).must(200)
                counts.setdefault(path.replace(instance, "").replace(backup, ""), set()).add(len(sent))
            assert len(found["backup_strategies"]) == wanted
        assert len(counts) == 13
        assert set().union(*counts.values()) == {1}, counts
        body = {"name": "x", "flavorRef": "1", "volume": {"size": 1}, "datastore": {"type": "postgresql"}}
        for more in ({}, {"databases": [{"name": f"d{n}"} for n in range(50)]}):
            sent.clear()
            (await api("POST", "/instances", {"instance": {**body, **more}})).must(200)
            assert len(sent) <= 10, sent
        for method, path, given, status, most in [
            ("POST", "/backups", {"backup": {"name": "n", "instance": instance}}, 202, 12),
            ("POST", "/instances", {"instance": {**body, "restorePoint": {"backupRef": backup}}}, 200, 12),
            ("DELETE", f"/backups/{await world.backup(kept)}", None, 202, 10),
        ]:
            sent.clear()
            (await api(method, path, given)).must(status)
            assert len(sent) <= most, sent


async def test_noauth_is_for_this_host_only(postgres: Server, empty_database: str, world: World, tmp_path: Path):
    state = state_dir(tmp_path / "s")
    database = postgres.settings(empty_database)
    with pytest.raises(BadSettings, match="loopback"):
        settings(database, state, auth_strategy="noauth", host="0.0.0.0").check()
    settings(database, state, auth_strategy="noauth", host="0.0.0.0", allow_noauth_remote=True).check()
    settings(database, state, auth_strategy="noauth", host="::1").check()
    instance = await world.instance("p7")
    async with serving(settings(database, state, auth_strategy="noauth")) as api:
        api.user, api.project = "", "p7"
        found = (await api("GET", "/instances", headers={"X-Auth-Token": "notused"})).must(200)["instances"]
        assert [item["id"] for item in found] == [instance]


async def test_the_monitoring_listener(postgres: Server, empty_database: str, world: World, tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chosen = settings(postgres.settings(empty_database), state_dir(tmp_path / "s"), metrics_port=port)
    async with serving(chosen) as api, aiohttp.ClientSession() as session:
        (await api("GET", f"/instances/{await world.instance()}")).must(200)
        await api("GET", "/nothing")
        async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            text = await answer.text()
    route = '/v1.0/{project}/instances/{id}"'
    assert f'coffer_api_requests_total{{method="GET",route="{route},status="200"}} 1.0' in text
    assert 'route="unknown",status="404"} 1.0' in text


def test_metrics_know_a_method_or_call_it_other():
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    Metrics(registry).request("BREW", "/", 404, 0.1)
    assert registry.get_sample_value(
        "coffer_api_requests_total", {"method": "other", "route": "/", "status": "404"},
    ) == 1.0


async def test_the_services_own_database_role_is_enough(
    postgres: Server, empty_database: str, world: World, tmp_path: Path,
):
    admin = await postgres.admin(empty_database)
    await roles.apply(admin, {"coffer_api": "api-word"})
    await admin.close()
    chosen = settings(
        postgres.settings(empty_database, "coffer_api", "api-word"), state_dir(tmp_path / "s"), operation_wait=0.1,
        default_datastore="postgresql",
    )
    instance = await world.instance()
    path = f"/instances/{instance}"
    async with serving(chosen) as api:
        body = {"name": "x", "flavorRef": "1", "volume": {"size": 1}}
        made = (await api("POST", "/instances", {"instance": body}, headers={"Idempotency-Key": "k"})).must(200)
        again = (await api("POST", "/instances", {"instance": body}, headers={"Idempotency-Key": "k"})).must(200)
        assert made["instance"]["id"] == again["instance"]["id"]
        for method, rest, given, status in [
            ("GET", "", None, 200), ("PUT", "", {"instance": {"name": "two"}}, 202),
            ("POST", "/users", {"users": [{"name": "u", "password": "word"}]}, 202), ("POST", "/root", None, 503),
            ("DELETE", "/root", None, 404), ("DELETE", "", None, 202), ("GET", "/operations", None, 200),
        ]:
            assert (await api(method, path + rest, given)).status == status, (method, rest)
        for general in ("/instances", "/instances/detail", "/operations", "/flavors", "/datastores", "/limits"):
            (await api("GET", general)).must(200)
        operation = (await api("GET", "/operations")).body["operations"][0]["id"]
        (await api("GET", f"/operations/{operation}")).must(200)
        (await api("DELETE", f"/operations/{operation}")).must(202)
