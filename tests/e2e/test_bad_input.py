"""What is malformed, unknown, foreign or too big is refused in Trove's envelope and leaves nothing behind."""

from __future__ import annotations

import pytest

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
}


@pytest.mark.parametrize("body", BAD_CREATES.values(), ids=BAD_CREATES)
def test_a_bad_create_is_refused_and_leaves_nothing(stack, api, body):
    before = stack.sql("SELECT (SELECT count(*) FROM instances), (SELECT count(*) FROM operations)")
    answer = api("POST", "/instances", body)
    assert 400 <= answer.status < 500, answer.body
    (envelope,) = answer.body.values()
    assert envelope["code"] == answer.status
    assert envelope["message"]
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    assert stack.sql("SELECT (SELECT count(*) FROM instances), (SELECT count(*) FROM operations)") == before


@pytest.mark.parametrize("raw", [b"{", b"[]", b"\xff\xfe", b'{"instance": NaN}', b"{" * 10_000], ids=repr)
def test_what_is_no_json_object_is_refused(api, raw):
    assert api("POST", "/instances", raw=raw[:50_000]).status == 400


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
    assert any("retry-after" in a.headers for a in answers)
    assert api("GET", "/instances").status == 200
