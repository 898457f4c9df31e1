"""Users, databases and root: questions to a guest over a real NATS server, changes as operations."""

from __future__ import annotations

import asyncio
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from coffer_db.tables import OperationState
from coffer_shared import keyset, subjects
from coffer_shared.bus import Link, tls_context
from coffer_shared.commands import UserFound
from coffer_shared.messages import Engine
from coffer_shared.seal import KeyPair
from coffer_shared.wake import receive_wakes
from integration.api.guest import PROVISIONER, StubGuest, doing, enrol
from integration.api.service import MASTER, Caller, World, serving, settings, state_dir
from support.nats_server import NatsServer

if TYPE_CHECKING:
    from support.postgres import Server

ANN = UserFound("ann", "%", ["shop"])


@pytest.fixture
def api(asking: Caller) -> Caller:
    return asking


def secret(claimed: Any) -> Any:
    return MASTER.unwrap(f"operation/{claimed.id}", bytes(claimed.secret_args))


async def test_databases_are_listed_in_pages(api: Caller, guest: StubGuest):
    guest.databases = ["c", "a", "b", "template1", "postgres"]
    base = f"/instances/{guest.instance}/databases"
    assert (await api("GET", base)).must(200) == {"databases": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}
    first = (await api("GET", base + "?limit=2")).must(200)
    assert first["databases_links"] == first["links"]
    rest = await api.bare("GET", first["links"][0]["href"].removeprefix(api.base))
    assert rest.must(200) == {"databases": [{"name": "c"}]}
    assert {q.name for q in guest.asked} == {"databases"}


async def test_users_are_listed_and_shown(api: Caller, guest: StubGuest):
    odd = UserFound("a.b@c/d 50%", "%", [])
    guest.users = [odd, ANN, UserFound("postgres", "%", [])]
    base = f"/instances/{guest.instance}/users"
    listed = (await api("GET", base)).must(200)["users"]
    assert listed == [
        {"name": odd.name, "host": "%", "databases": []}, {"name": "ann", "host": "%", "databases": [{"name": "shop"}]},
    ]
    first = (await api("GET", base + "?limit=1")).must(200)
    rest = await api.bare("GET", first["links"][0]["href"].removeprefix(api.base))
    assert [u["name"] for u in rest.must(200)["users"]] == ["ann"]
    assert (await api("GET", base + "/ann")).must(200)["user"] == listed[1]
    assert (await api("GET", base + "/ann%40%25")).must(200)["user"] == listed[1]
    assert (await api("GET", base + "/ann/databases")).must(200) == {"databases": [{"name": "shop"}]}
    nobody = await api("GET", base + "/nobody")
    assert (nobody.status, nobody.problem) == (404, "User nobody cannot be found on the instance.")
    assert (await api("GET", base + "/postgres")).status == 400


async def test_a_name_in_a_path_may_hold_anything_that_its_datastore_allows(api: Caller, guest: StubGuest):
    odd = UserFound("a.b c%2F'\"", "%", [])
    guest.users = [odd]
    path = f"/instances/{guest.instance}/users/{quote(odd.name, safe='').replace('.', '%2e')}"
    assert (await api("GET", path)).must(200)["user"]["name"] == odd.name
    assert (await api("GET", f"/instances/{guest.instance}/users/a%2Fb")).status == 400


async def test_a_marker_is_encoded_once_and_taken_encoded_twice(api: Caller, guest: StubGuest):
    """Trove's links encode it twice, so that what follows a name with an @ goes on at the wrong place."""
    guest.users = [UserFound(name, "%", []) for name in ("a@b", "a@b %41", "b c", "c%d")]
    base = f"/instances/{guest.instance}/users"
    path, seen = base + "?limit=1", []
    while True:
        page = (await api.bare("GET", f"/v1.0/p1{path}")).must(200)
        seen += [user["name"] for user in page["users"]]
        if "links" not in page:
            break
        assert page["users_links"] == page["links"]
        path = page["links"][0]["href"].removeprefix(f"{api.base}/v1.0/p1")
    assert seen == [user.name for user in guest.users]
    twice = quote(quote("a@b %41@%", safe=""), safe="")
    assert [u["name"] for u in (await api("GET", f"{base}?marker={twice}")).must(200)["users"]] == ["b c", "c%d"]


async def test_passwords_of_an_unknown_user_change_nothing(api: Caller, world: World, guest: StubGuest):
    given = {"users": [{"name": "u", "password": "word-one"}, {"name": "nobody", "password": "word-two"}]}
    answer, filed = await doing(
        api, world, "PUT", f"/instances/{guest.instance}/users", given, state=OperationState.FAILED,
        failure_code="not_found", failure_text="User nobody cannot be found on the instance.", failure_step="x",
    )
    assert (answer.status, answer.problem) == (404, "User nobody cannot be found on the instance.")
    assert (filed.kind, len(secret(filed)["users"])) == ("set_passwords", 2)  # one command: all or none


async def test_an_administrator_pings_a_guest(api: Caller, world: World, guest: StubGuest):
    root = api.as_("root")
    path = f"/mgmt/instances/{guest.instance}/rpc_ping"
    answer = await root("GET", path)
    assert (answer.status, answer.body, [q.name for q in guest.asked]) == (204, "", ["ping"])
    guest.silent = True
    answer = await root("GET", path)
    assert (answer.status, answer.problem) == (400, "Timeout trying to connect to the Guest Agent.")
    other = await world.instance()
    assert (await root("GET", f"/mgmt/instances/{other}/rpc_ping")).status == 400


async def test_a_silent_guest_is_a_timeout(api: Caller, guest: StubGuest):
    guest.silent = True
    answer = await api("GET", f"/instances/{guest.instance}/databases")
    assert (answer.status, answer.problem) == (400, "Timeout trying to connect to the Guest Agent.")
    guest.silent, guest.garbled = False, True
    assert (await api("GET", f"/instances/{guest.instance}/databases")).status == 400


async def test_a_guest_with_new_keys_is_heard(api: Caller, world: World, guest: StubGuest):
    base = f"/instances/{guest.instance}/databases"
    (await api("GET", base)).must(200)
    guest.keys = KeyPair.generate()
    await enrol(world, guest)
    guest.databases = ["new"]
    assert (await api("GET", base)).must(200) == {"databases": [{"name": "new"}]}


async def test_a_guest_that_never_enrolled_is_a_timeout(api: Caller, world: World, guest: StubGuest):
    other = await world.instance()
    assert (await api("GET", f"/instances/{other}/databases")).status == 400


@pytest.mark.parametrize(("engine", "age"), [(Engine.CRASHED, 0), (Engine.STOPPED, 0), (Engine.HEALTHY, 120)])
async def test_an_engine_that_does_not_serve_is_not_asked(
    api: Caller, world: World, guest: StubGuest, engine: Engine, age: float,
):
    await world.beat(guest.instance, engine, age=age)
    base = f"/instances/{guest.instance}"
    for method, path, body in [
        ("GET", "/databases", None), ("POST", "/databases", {"databases": [{"name": "a"}]}), ("GET", "/users", None),
        ("DELETE", "/users/ann", None), ("GET", "/root", None), ("POST", "/root", None),
    ]:
        answer = await api(method, base + path, body)
        assert answer.status == 422
        assert f"Instance {guest.instance} is not ready, status: " in answer.problem
    assert guest.asked == []
    assert await world.count("operations") == 0


async def test_databases_are_created_and_dropped(api: Caller, world: World, guest: StubGuest):
    base = f"/instances/{guest.instance}/databases"
    answer, filed = await doing(api, world, "POST", base, {"databases": [{"name": "a", "character_set": "UTF8"}]})
    assert (answer.status, answer.body) == (202, "")
    assert answer.headers["x-coffer-operation"] == filed.id
    assert (filed.kind, filed.args) == ("create_databases", {"databases": [{"name": "a", "character_set": "UTF8"}]})
    answer, filed = await doing(api, world, "POST", base, {"database": {"name": "b"}})
    assert (answer.status, filed.args) == (202, {"databases": [{"name": "b"}]})
    answer, filed = await doing(api, world, "DELETE", base + "/b.c")
    assert (answer.status, filed.kind, filed.args) == (202, "drop_database", {"name": "b.c"})
    assert (await api("GET", base + "/a")).status == 501
    assert (await api("POST", base, {"databases": []})).status == 202


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("exists", 400, "it said so"), ("not_found", 404, "Database b cannot be found on the instance."),
        ("invalid", 400, "it said so"), ("not_ready", 422, "it said so"),
        ("engine", 400, "An error occurred communicating with the guest: it said so"),
        ("deadline", 400, "Timeout trying to connect to the Guest Agent."), ("cancelled", 409, "cancelled"),
    ],
)
async def test_how_a_change_failed_is_told(
    api: Caller, world: World, guest: StubGuest, code: str, status: int, says: str,
):
    answer, filed = await doing(
        api, world, "DELETE", f"/instances/{guest.instance}/databases/b", state=OperationState.FAILED,
        failure_code=code, failure_text="it said so", failure_step="x",
    )
    assert answer.status == status
    assert says in answer.problem
    assert answer.headers["x-coffer-operation"] == filed.id


async def test_users_passwords_and_grants(api: Caller, world: World, guest: StubGuest):
    base = f"/instances/{guest.instance}/users"
    new = {"name": "u", "password": "word-one", "databases": [{"name": "shop"}]}
    answer, filed = await doing(api, world, "POST", base, {"users": [new]})
    assert (answer.status, filed.kind, filed.args) == (202, "create_users", {"names": ["u"]})
    assert secret(filed) == {"users": [{"name": "u", "password": "word-one", "databases": ["shop"]}]}
    _, filed = await doing(api, world, "PUT", base, {"users": [{"name": "u", "password": "word-two"}]})
    assert (filed.kind, filed.args) == ("set_passwords", {"names": ["u"]})
    assert secret(filed) == {"users": [{"name": "u", "password": "word-two"}]}
    _, filed = await doing(api, world, "PUT", base + "/u", {"user": {"name": "v", "password": "word-3"}})
    assert (filed.kind, filed.args) == ("change_user", {"name": "u", "host": "%"})
    assert secret(filed) == {"name": "u", "new_name": "v", "password": "word-3"}
    _, filed = await doing(api, world, "PUT", base + "/u/databases", {"databases": [{"name": "a"}, {"name": "a"}]})
    assert (filed.kind, filed.args) == ("grant", {"name": "u", "databases": ["a"], "host": "%"})
    answer, filed = await doing(
        api, world, "DELETE", base + "/u/databases/a", state=OperationState.FAILED, failure_code="not_found",
        failure_text="no", failure_step="x",
    )
    assert (answer.status, filed.kind, filed.args) == (404, "revoke", {"name": "u", "database": "a", "host": "%"})
    answer, filed = await doing(api, world, "DELETE", base + "/u")
    assert (answer.status, filed.kind, filed.args) == (202, "drop_user", {"name": "u", "host": "%"})
    stored = await world.sql("SELECT o::text AS text FROM operations o")
    assert not [row for row in stored if "word-" in row["text"]]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "", {"users": [{"name": "pg_x", "password": "hush-hush"}]}),
        ("POST", "", {"users": [{"name": "a" * 64, "password": "hush-hush"}]}),
        ("POST", "", {"users": {"name": "a", "password": "hush-hush"}}),
        ("POST", "", {"users": [{"name": "a", "password": "hush-hush", "host": "no host"}]}),
        ("PUT", "", {"users": []}), ("PUT", "", {"users": [{"name": "a"}]}),
        ("PUT", "/ann", {"user": {}}), ("PUT", "/ann", {"user": {"name": "postgres"}}), ("PUT", "/ann", {}),
        ("PUT", "/ann/databases", {"databases": [{"name": "postgres"}]}), ("DELETE", "/postgres", None),
        ("DELETE", "/ann/databases/template0", None),
    ],
)
async def test_bad_users_are_refused(
    api: Caller, world: World, guest: StubGuest, method: str, path: str, body: Any,
):
    answer = await api(method, f"/instances/{guest.instance}/users{path}", body)
    assert answer.status == 400, answer.body
    assert "hush" not in answer.problem
    assert await world.count("operations") == 0


async def test_a_change_that_takes_long_goes_on(api: Caller, world: World, guest: StubGuest):
    answer = await api("POST", f"/instances/{guest.instance}/databases", {"databases": [{"name": "a"}]})
    assert answer.status == 202
    shown = await api("GET", f"/operations/{answer.headers['x-coffer-operation']}")
    assert shown.must(200)["operation"]["state"] == "pending"


async def test_root(api: Caller, world: World, guest: StubGuest):
    base = f"/instances/{guest.instance}/root"
    assert (await api("GET", base)).must(200) == {"rootEnabled": False}
    gone = await api("DELETE", base)
    assert (gone.status, gone.problem) == (404, "Root user has never been enabled on the instance.")
    answer, filed = await doing(api, world, "POST", base)
    given = answer.must(200)["user"]
    assert (given["name"], len(given["password"])) == ("root", 36)
    assert set(given["password"]) <= set(string.ascii_letters + string.digits)
    assert (filed.args, secret(filed)) == ({}, {"password": given["password"]})
    answer, filed = await doing(api, world, "POST", base, {"password": "my-own-word"})
    assert answer.must(200)["user"]["password"] == "my-own-word"
    await world.sql("UPDATE instances SET root_enabled_at = now()")
    guest.root = True
    assert (await api("GET", base)).must(200) == {"rootEnabled": True}
    answer, filed = await doing(api, world, "DELETE", base)
    assert (answer.status, filed.kind) == (204, "disable_root")


async def test_root_that_cannot_be_enabled_in_time_is_taken_back(api: Caller, world: World, guest: StubGuest):
    answer = await api("POST", f"/instances/{guest.instance}/root", {"password": "my-own-word"})
    assert answer.status == 503
    assert "my-own" not in answer.problem
    (row,) = await world.sql("SELECT id, cancel_requested FROM operations")
    assert (row["id"], row["cancel_requested"]) == (answer.headers["x-coffer-operation"], True)


async def test_the_provisioner_is_woken(api: Caller, guest: StubGuest, nats: NatsServer, guests_state: Path):
    woken: asyncio.Queue[str] = asyncio.Queue()
    link = Link(
        (nats.url,), nats.service_creds("provisioner", "CTL"), name="p", tls=tls_context(nats.ca_pem),
        inbox="_INBOX.provisioner",
    )
    trusted = keyset.verify((guests_state / "keyset").read_text(), (guests_state / "root.pub").read_text())
    await receive_wakes(link, PROVISIONER, trusted, woken.put_nowait)
    await link.start()
    await link.ready(10)
    (await api("POST", f"/instances/{guest.instance}/action", {"restart": {}})).must(202)
    async with asyncio.timeout(5):
        assert subjects.instance_id(await woken.get()) == guest.instance
    await link.close()


async def test_without_nats_changes_are_filed_and_questions_are_unavailable(
    postgres: Server, empty_database: str, world: World, tmp_path: Path,
):
    instance = await world.instance()
    chosen = settings(postgres.settings(empty_database), state_dir(tmp_path / "s"), operation_wait=0.1)
    async with serving(chosen) as api:
        assert (await api("GET", f"/instances/{instance}/users")).status == 503
        assert (await api("DELETE", f"/instances/{instance}/users/ann")).status == 202
