"""What holds for every call: links, markers, methods, trailing slashes, headers, and the names of errors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from coffer_api import reads
from coffer_api.settings import Settings
from coffer_shared.commands import UserFound
from integration.api.guest import StubGuest, doing
from integration.api.service import VERSION, Caller, World, serving

UNKNOWN = "99999999-9999-4999-8999-999999999999"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")


async def routes(api: Caller) -> dict[str, set[str]]:
    """Methods by path below the project, with something in the place of every parameter. A path that another one's
    parameter may stand for answers to the methods of that one, too."""
    document = (await api.bare("GET", "/openapi.json")).must(200)
    start = "/v1.0/{project}"
    known = {
        path.removeprefix(start): {method.upper() for method in found}
        for path, found in document["paths"].items() if path.startswith(start)
    }
    found: dict[str, set[str]] = {}
    for path in known:
        plain = re.sub(r"{\w+}", UNKNOWN, path)
        meant = [other for other in known if re.fullmatch(re.sub(r"{\w+}", "[^/]+", other), plain)]
        found[plain] = set[str]().union(*(known[other] for other in meant))
    return found


@pytest.mark.parametrize(
    ("trusted", "sent", "base"),
    [
        ((), {"Host": "db.example.org:8779"}, "http://db.example.org:8779"),
        (("127.0.0.1",), {"Host": "db.example.org", "X-Forwarded-Proto": "https"}, "https://db.example.org"),
        (("192.0.2.1",), {"Host": "db.example.org", "X-Forwarded-Proto": "https"}, "http://db.example.org"),
    ],
    ids=["as addressed", "behind a trusted proxy", "behind another"],
)
async def test_links_keep_the_scheme_and_host_of_the_request(
    choose: Callable[..., Settings], world: World, trusted: tuple[str, ...], sent: dict[str, str], base: str,
):
    instances = {await world.instance() for _ in range(2)}
    async with serving(choose(trusted_proxies=trusted)) as api:
        page = (await api("GET", "/instances?limit=1", headers=sent)).must(200)
        (item,) = page["instances"]
        assert page["links"][0]["href"].startswith(f"{base}/v1.0/p1/instances?limit=1&marker=")
        assert item["links"] == [
            {"rel": "self", "href": f"{base}/v1.0/p1/instances/{item['id']}"},
            {"rel": "bookmark", "href": f"{base}/instances/{item['id']}"},
        ]
        assert item["id"] in instances


async def test_links_begin_as_the_setting_says(choose: Callable[..., Settings], world: World):
    await world.instance()
    async with serving(choose(public_endpoint="https://databases.example.org/")) as api:
        (item,) = (await api("GET", "/instances")).must(200)["instances"]
        assert item["links"][0]["href"].startswith("https://databases.example.org/v1.0/p1/instances/")


async def test_the_shape_of_links(api: Caller, world: World):
    instance = await world.instance()
    operation = (await api("POST", f"/instances/{instance}/action", {"restart": {}})).headers["x-coffer-operation"]
    shown = (await api("GET", f"/instances/{instance}")).must(200)["instance"]
    (datastore,) = (await api("GET", "/datastores")).must(200)["datastores"]
    for links, collection, item in [
        (shown["links"], "instances", instance), (shown["flavor"]["links"], "flavors", "1"),
        ((await api("GET", "/flavors/gold")).body["flavor"]["links"], "flavors", "gold"),
        (datastore["links"], "datastores", datastore["id"]),
        (datastore["versions"][0]["links"], "datastores/versions", VERSION),
        ((await api("GET", f"/operations/{operation}")).body["operation"]["links"], "operations", operation),
    ]:
        assert links == [
            {"rel": "self", "href": f"{api.base}/v1.0/p1/{collection}/{item}"},
            {"rel": "bookmark", "href": f"{api.base}/{collection}/{item}"},
        ]
    seen = (await api.as_("root")("GET", f"/instances/{instance}")).must(200)["instance"]
    assert seen["links"][0]["href"] == f"{api.base}/v1.0/ops/instances/{instance}"  # the caller's project


def once(text: str) -> str:
    return quote(text, safe="")


@pytest.mark.parametrize("encode", [once, lambda text: once(once(text))], ids=["once", "twice"])
async def test_a_marker_is_understood_encoded_once_or_twice(
    asking: Caller, guest: StubGuest, encode: Callable[[str], str],
):
    names = ["a b", "a%20b", "alice@home", "per%cent", "plus+1", "z"]
    guest.users, guest.databases = [UserFound(name, "%", []) for name in names], names
    base = f"/instances/{guest.instance}"
    for name in names:
        if name == "a b" and encode is not once:
            continue  # encoded twice it is the other name encoded once, which is taken first
        after = [other for other in sorted(names) if other > name]
        for kind, marker in (("users", f"{name}@%"), ("databases", name)):
            page = (await asking("GET", f"{base}/{kind}?marker={encode(marker)}")).must(200)
            assert [item["name"] for item in page[kind]] == after, (kind, name)


async def test_a_next_link_holds_the_marker_encoded_once(asking: Caller, guest: StubGuest):
    guest.users = [UserFound("alice", "%", []), UserFound("zoe", "%", [])]
    page = (await asking("GET", f"/instances/{guest.instance}/users?limit=1")).must(200)
    assert page["links"] == [{
        "rel": "next",
        "href": f"{asking.base}/v1.0/p1/instances/{guest.instance}/users?limit=1&marker=alice%40%25",
    }]


async def test_a_marker_of_something_that_is_gone_goes_on_after_it(asking: Caller, guest: StubGuest):
    guest.databases = ["a", "c"]
    page = (await asking("GET", f"/instances/{guest.instance}/databases?marker=b")).must(200)
    assert page["databases"] == [{"name": "c"}]


async def test_a_method_that_is_not_routed_is_404_on_every_path(api: Caller):
    root, every = api.as_("root"), await routes(api)
    assert len(every) > 50
    for path, known in every.items():
        for method in set(METHODS) - known:
            answer = await root(method, path, {} if method != "GET" else None)
            assert (answer.status, set(answer.body)) == (404, {"itemNotFound"}), (method, path)


async def test_a_trailing_slash_is_404_on_every_path(api: Caller):
    root = api.as_("root")
    for path, known in (await routes(api)).items():
        for method in known:
            assert (await root(method, f"{path}/", None if method == "GET" else {})).status == 404, (method, path)


async def test_every_answer_carries_a_request_id_of_its_own(
    asking: Caller, world: World, guest: StubGuest, monkeypatch: pytest.MonkeyPatch,
):
    api, base = asking, f"/instances/{guest.instance}"
    answers = {
        200: await api("GET", base), 202: await api("PUT", base, {"instance": {"name": "n"}}),
        400: await api("POST", "/instances", {}), 403: await api.as_("rita")("POST", "/instances", {}),
        401: await api.as_("nobody", "p1")("GET", base), 404: await api("GET", "/nothing"),
        413: await api("POST", "/instances", raw=b'"' + b"x" * 300_000 + b'"'),
        415: await api("POST", "/instances", raw=b"a", headers={"Content-Type": "text/plain"}),
        501: await api("GET", f"{base}/ssl"),
    }
    await world.sql("UPDATE instances SET root_enabled_at = now()")
    answers[204], _ = await doing(api, world, "DELETE", f"{base}/root")
    (await api("POST", f"{base}/action", {"restart": {}})).must(202)
    answers[422] = await api("POST", f"{base}/action", {"restart": {}})

    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(reads.Reads, "fetch", broken)
    answers[500] = await api("GET", "/instances")
    api.user = ""
    every = [*answers.values(), *[await api.bare("GET", path) for path in ("/", "/v1.0", "/healthcheck", "/nowhere")]]
    assert {status: answer.status for status, answer in answers.items()} == {status: status for status in answers}
    ids = [answer.headers["x-openstack-request-id"] for answer in every]
    assert all(re.fullmatch(r"req-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", found) for found in ids)
    assert len(set(ids)) == len(ids)
    names = {400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound", 413: "overLimit",
             415: "badMediaType", 422: "unprocessableEntity", 500: "instanceFault", 501: "notImplemented"}
    for status, name in names.items():
        assert set(answers[status].body) == {name}
        assert answers[status].problem
    for status in (202, 204):
        assert (answers[status].body, answers[status].headers["content-type"]) == ("", "application/json")


@pytest.mark.parametrize(("accept", "status"), [
    ("application/vnd.openstack.trove+json;version=1.0", 200), ("application/json", 200), ("*/*", 200),
    ("application/vnd.openstack.trove+json;version=2.0", 406), ("application/vnd.openstack.trove+json; version=x", 406),
])
async def test_an_unknown_version_in_the_accept_header_is_not_acceptable(api: Caller, accept: str, status: int):
    answer = await api.bare("GET", "/", headers={"Accept": accept})
    assert answer.status == status
    if status == 406:
        assert answer.problem
        assert set(answer.body) == {"notAcceptable"}
