"""What is malformed, unknown, foreign or too big is refused in Trove's envelope and leaves nothing behind."""

from __future__ import annotations

import http.client
import re
import time
from urllib.parse import urlsplit

import pytest

from support.stack import Api, Stack, run

UNKNOWN = "99999999-9999-4999-8999-999999999999"
GOOD = {
    "name": "x", "flavorRef": "1", "volume": {"size": 1}, "datastore": {"type": "postgresql", "version": "17"},
}
BAD_CREATES = {
    "no body": None,
    "empty": {},
    "wrong key": {"foo": 1},
    "no name": {"instance": {k: v for k, v in GOOD.items() if k != "name"}},
    "empty name": {"instance": {**GOOD, "name": ""}},
    "no flavor": {"instance": {k: v for k, v in GOOD.items() if k != "flavorRef"}},
    "unknown flavor": {"instance": {**GOOD, "flavorRef": "4711"}},
    "no volume": {"instance": {k: v for k, v in GOOD.items() if k != "volume"}},
    "volume 0": {"instance": {**GOOD, "volume": {"size": 0}}},
    "volume text": {"instance": {**GOOD, "volume": {"size": "many"}}},
    "volume huge": {"instance": {**GOOD, "volume": {"size": 10**9}}},
    "unknown datastore": {"instance": {**GOOD, "datastore": {"type": "oracle", "version": "17"}}},
    "unknown version": {"instance": {**GOOD, "datastore": {"type": "postgresql", "version": "1"}}},
    "reserved user": {"instance": {**GOOD, "users": [{"name": "postgres", "password": "x"}]}},
    "user without password": {"instance": {**GOOD, "users": [{"name": "u"}]}},
    "user of an unknown database": {
        "instance": {**GOOD, "users": [{"name": "u", "password": "p", "databases": [{"name": "nope"}]}]},
    },
    "reserved database": {"instance": {**GOOD, "databases": [{"name": "template1"}]}},
    "double database": {"instance": {**GOOD, "databases": [{"name": "a"}, {"name": "a"}]}},
    "two nics": {"instance": {**GOOD, "nics": [{"net-id": UNKNOWN}, {"net-id": UNKNOWN}]}},
    "bad cidr": {"instance": {**GOOD, "access": {"is_public": True, "allowed_cidrs": ["everybody"]}}},
    "extra key in datastore": {"instance": {**GOOD, "datastore": {"type": "postgresql", "version": "17", "x": 1}}},
    "list for an object": {"instance": [GOOD]},
    "text for an object": {"instance": "x"},
    "null for an object": {"instance": None},
    "object for a name": {"instance": {**GOOD, "name": {"a": 1}}},
    "long name": {"instance": {**GOOD, "name": "n" * 256}},
    "control characters": {"instance": {**GOOD, "name": "a\u0000b"}},
    "boolean for a size": {"instance": {**GOOD, "volume": {"size": True}}},
    "number for a list": {"instance": {**GOOD, "databases": 7}},
    "text for a flag": {"instance": {**GOOD, "access": {"is_public": "yes"}}},
    "unknown configuration": {"instance": {**GOOD, "configuration": {"id": 1}}},
}


@pytest.mark.parametrize("body", BAD_CREATES.values(), ids=BAD_CREATES)
def test_a_bad_create_is_refused_and_leaves_nothing(stack, api, body):
    answer = api("POST", "/instances", body)
    assert 400 <= answer.status < 500, answer.body
    (envelope,) = answer.body.values()
    assert envelope["code"] == answer.status
    assert envelope["message"]
    request = answer.headers["x-openstack-request-id"]
    assert re.fullmatch(r"req-[0-9a-f-]{36}", request)
    assert stack.sql(f"SELECT count(*) FROM operations WHERE request_id = '{request}'") == "0"
    assert stack.sql("SELECT count(*) FROM instances WHERE id NOT IN (SELECT instance_id FROM operations)") == "0"


@pytest.mark.parametrize(
    "raw",
    [
        b"{", b"[]", b"\xff\xfe", b'{"instance": NaN}', b"{" * 10_000, b"[" * 200_000, b'{"a":' * 40_000, b"null", b"",
        b'{"instance": ' + b"[" * 500 + b"]" * 500 + b"}", b'{"instance": {"name": "\\ud800"}}',
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_what_is_no_json_object_is_refused(api, raw):
    assert api("POST", "/instances", raw=raw).status == 400


@pytest.mark.parametrize(
    "name", ["Ünï¢ode 1", "數據庫 1", "\U0001f600 1", "e\u0301 1", "\u202e1", "a" * 255], ids=ascii,
)
def test_a_name_may_be_in_any_script(api, shop, name):
    api("PUT", f"/instances/{shop.id}", {"instance": {"name": name}}).must(202)
    assert api.instance(shop.id)["name"] == name
    api("PUT", f"/instances/{shop.id}", {"instance": {"name": "shop"}}).must(202)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("action", {}), ("action", {"jump": {}}), ("action", {"": {}}), ("action", {"restart": [1]}),
        ("action", {"resize": {}}), ("action", {"restart": {}, "resize": {}}), ("log", {}), ("log", {"publish": 1}),
    ],
    ids=str,
)
def test_what_trove_answers_with_500_is_400(api, shop, path, body):
    assert api("POST", f"/instances/{shop.id}/{path}", body).status == 400


@pytest.mark.parametrize("query", ["limit=0", "limit=-1", "limit=x", "limit=1.5", "limit=", "marker=%00"])
@pytest.mark.parametrize("collection", ["instances", "instances/detail", "backups", "operations"])
def test_bad_paging_is_refused(api, collection, query):
    assert api("GET", f"/{collection}?{query}").status == 400


def test_big_bodies_are_refused_at_once_and_cost_no_memory(stack, api):
    """10 MB, sent in pieces as long as the service takes them; and as one JSON text of a thousand keys."""
    before = memory(stack)
    for _ in range(30):
        began = time.monotonic()
        assert pushed(api, 10_000_000) == 413
        assert time.monotonic() - began < 5
    wide = {"instance": {**GOOD, **{f"key{n}": {"a": [n] * 10} for n in range(3_000)}, "flavorRef": "4711"}}
    for _ in range(30):
        assert api("POST", "/instances", wide).status == 400
    assert memory(stack) - before < 64 * 1024**2


def memory(stack: Stack) -> int:
    """Bytes that the API's processes hold, in all."""
    containers = run("docker", "ps", "-q", "--filter", f"label=com.docker.compose.project={stack.name}", "--filter",
                     "label=com.docker.compose.service=api").split()
    assert containers
    return sum(
        int(line) * 1024 for container in containers
        for line in run("docker", "top", container, "-eo", "pid,rss").split()[3::2]
    )


def pushed(api: Api, size: int) -> int:
    """The status of a POST whose body is sent as long as it is taken."""
    place = urlsplit(api.endpoint)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=20)
    connection.putrequest("POST", place.path + "/instances")
    for name, value in api.headers().items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(size))
    connection.endheaders()
    piece = b'"' + b"x" * 65535
    try:
        for _ in range(size // len(piece) + 1):
            connection.send(piece)
    except OSError:
        pass  # it has heard enough
    try:
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", f"/instances/{UNKNOWN}", None),
        ("GET", "/instances/not-a-uuid", None),
        ("DELETE", f"/instances/{UNKNOWN}", None),
        ("POST", f"/instances/{UNKNOWN}/action", {"restart": {}}),
        ("GET", f"/instances/{UNKNOWN}/databases", None),
        ("POST", f"/instances/{UNKNOWN}/users", {"users": [{"name": "a", "password": "b"}]}),
        ("GET", f"/operations/{UNKNOWN}", None),
        ("GET", "/flavors/4711", None),
        ("GET", "/datastores/oracle", None),
        ("GET", "/nothing/here", None),
    ],
)
def test_what_is_unknown_is_not_found(api, method, path, body):
    assert api(method, path, body).status == 404


@pytest.mark.parametrize(
    "users",
    [
        [{"name": "pg_sneaky", "password": "x"}],
        [{"name": "postgres", "password": "x"}],
        [{"name": "a" * 64, "password": "x"}],
        [{"name": "twice", "password": "x"}, {"name": "twice", "password": "x"}],
        [{"name": "", "password": "x"}],
        [{"password": "x"}],
        "no list",
    ],
    ids=["prefix", "reserved", "long", "double", "empty", "nameless", "no-list"],
)
def test_bad_users_are_refused(api, shop, users):
    assert api("POST", f"/instances/{shop.id}/users", {"users": users}).status == 400


@pytest.mark.parametrize("name", ["'; DROP TABLE x; --", 'quo"te', "per%cent", "Ünï¢ode", "white space", "$$"])
def test_names_are_data_never_statements(api, shop, name):
    """Strange but lawful names work as names, and nothing else happens."""
    base = f"/instances/{shop.id}/databases"
    answer = api("POST", base, {"databases": [{"name": name}]})
    if answer.status == 400:
        return
    answer.must(202)
    assert name in {d["name"] for d in api("GET", base).must(200)["databases"]}
    from urllib.parse import quote

    api("DELETE", f"{base}/{quote(name, safe='')}").must(202)
    assert {d["name"] for d in api("GET", base).must(200)["databases"]} == {"shop"}


def test_wrong_credentials_are_refused_and_slowed(stack, api):
    from support.stack import Api

    stranger = Api(api.endpoint, "nobody", "guess")
    answers = [stranger("GET", "/instances") for _ in range(8)]
    assert {a.status for a in answers} == {401}
    assert any("x-coffer-retry-after" in a.headers for a in answers)
    assert api("GET", "/instances").status == 200
