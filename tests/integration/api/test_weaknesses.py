"""Trove's known weaknesses as far as they are in its API and no other test here shows what Coffer does instead."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from integration.api.guest import StubGuest
from integration.api.service import Caller, World

UNKNOWN = "99999999-9999-4999-8999-999999999999"
GOOD: dict[str, Any] = {
    "name": "x", "flavorRef": 1, "volume": {"size": 1}, "datastore": {"type": "postgresql", "version": "17"},
}


async def test_weakness_10_a_log_is_asked_for_under_a_rule(api: Caller, world: World):
    path = f"/instances/{await world.instance()}/log"
    answer = await api.as_("rita")("POST", path, {"name": "general", "publish": 1})
    assert (answer.status, answer.problem) == (403, "Policy doesn't allow instance:update to be performed.")
    assert (await api.as_("bob")("POST", path, {"name": "general"})).status == 404
    assert (await api("POST", path, {"name": "general"})).status == 501


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/instances", None), ("POST", "/instances", {}), ("POST", "/instances", {"foo": 1}),
        ("POST", "/backups", None), ("POST", "/backups", {"foo": 1}), ("PUT", "/instances/{id}", {}),
        ("POST", "/instances/{id}/action", None), ("POST", "/instances/{id}/action", {}),
        ("POST", "/instances/{id}/action", {"jump": {}}), ("POST", "/instances/{id}/action", {"": {}}),
        ("POST", "/instances/{id}/action", {"resize": {}}), ("POST", "/instances/{id}/action", {"resize": None}),
        ("POST", "/instances", {"instance": {**GOOD, "datastore": {"type": "postgresql", "extra": 1}}}),
        ("GET", "/instances?limit=x", None), ("GET", "/instances?limit=0", None), ("GET", "/backups?limit=-1", None),
        ("POST", "/instances/{id}/log", {}), ("POST", "/instances/{id}/log", {"publish": 1}),
        ("POST", "/instances/{id}/log", {"name": "general", "enable": 1, "disable": 1}),
        ("POST", "/instances/{id}/ssl", {"ssl": {"enable": True}}), ("POST", "/instances/{id}/ssl", {}),
        ("POST", "/mgmt/instances/{id}/action", {}),
        ("POST", "/mgmt/instances/{id}/action", {"stop": {}, "reboot": {}}),
    ],
    ids=str,
)
async def test_weakness_13_bad_input_is_400(api: Caller, world: World, method: str, path: str, body: Any):
    caller = api.as_("root") if path.startswith("/mgmt") else api
    answer = await caller(method, path.format(id=await world.instance()), body)
    assert (answer.status, set(answer.body)) == (400, {"badRequest"})
    assert answer.problem
    assert await world.count("operations") == 0


async def test_weakness_14_no_guest_is_asked_to_show_or_list(asking: Caller, world: World, guest: StubGuest):
    """A guest that never answers costs nobody a moment, nor the figures that it told earlier."""
    guest.silent = True
    path = f"/instances/{guest.instance}"
    for each in ("/instances", "/instances/detail", path, f"{path}/backups", "/backups", f"{path}/operations"):
        (await asking("GET", each)).must(200)
    shown = (await asking("GET", path)).must(200)["instance"]
    assert shown["volume"] == {"size": 2, "used": 0.5, "used_percent": 25.0}
    (await asking("PUT", path, {"instance": {"name": "two"}})).must(202)
    (await asking("POST", f"{path}/action", {"restart": {}})).must(202)
    for each in ("/mgmt/instances", f"/mgmt/instances/{guest.instance}"):
        (await asking.as_("root")("GET", each)).must(200)
    assert guest.asked == []


async def test_weakness_23_names_are_reserved_where_their_datastore_says_so(api: Caller):
    """MySQL's own names, and its old limit of 16, are nothing to PostgreSQL."""
    names = ["mysql", "performance_schema", "sys"]
    users = [{"name": name, "password": "word"} for name in ("os_admin", "a-name-of-more-than-sixteen-letters")]
    (await api("POST", "/instances", {"instance": {
        **GOOD, "databases": [{"name": name} for name in names], "users": users,
    }})).must(200)
    for kind, entry in (("databases", {"name": "template1"}), ("users", {"name": "postgres", "password": "word"})):
        answer = await api("POST", "/instances", {"instance": {**GOOD, kind: [entry]}})
        assert (answer.status, "reserved" in answer.problem) == (400, True)


@pytest.mark.parametrize(("given", "kept"), [
    (["2001:DB8:0::/32", "10.1.2.3/8"], ["2001:db8::/32", "10.0.0.0/8"]), (["2001:db8::7"], ["2001:db8::7/128"]),
    (["::/0"], ["::/0"]), (["::ffff:192.0.2.1"], ["::ffff:192.0.2.1/128"]), (["2001:db8::1/64"], ["2001:db8::/64"]),
])
async def test_weakness_31_ranges_of_both_versions_are_allowed(api: Caller, given: list[str], kept: list[str]):
    access = {"is_public": True, "allowed_cidrs": given}
    made = (await api("POST", "/instances", {"instance": {**GOOD, "access": access}})).must(200)["instance"]
    assert made["access"]["allowed_cidrs"] == [str(ip_network(cidr)) for cidr in kept]


@pytest.mark.parametrize("cidr", [
    "2001:db8::/129", "2001:db8::/032", "2001:db8::/ffff::", "fe80::1%eth0", "fe80::%1/64", ":", "::1::", "1:2/64",
    "[::1]", " ::1", "::1/", "::/-1", "::g", "2001:db8:0:0:0:0:0:0:1/64",
])
async def test_weakness_31_what_is_no_range_is_refused_in_words(api: Caller, cidr: str):
    answer = await api("POST", "/instances", {"instance": {**GOOD, "access": {"allowed_cidrs": [cidr]}}})
    assert (answer.status, "allowed_cidrs" in answer.problem) == (400, True), answer.body


async def test_a_range_is_not_given_twice_in_two_writings(api: Caller):
    access = {"allowed_cidrs": ["2001:db8::/32", "2001:0DB8:1::/32"]}
    answer = await api("POST", "/instances", {"instance": {**GOOD, "access": access}})
    assert (answer.status, "twice" in answer.problem) == (400, True)


async def test_weakness_31_an_address_of_version_6_is_refused_in_words(api: Caller):
    nics = [{"subnet_id": UNKNOWN, "ip_address": "2001:db8::7"}]
    answer = await api("POST", "/instances", {"instance": {**GOOD, "nics": nics}})
    assert answer.status == 400
    assert "address" in answer.problem
