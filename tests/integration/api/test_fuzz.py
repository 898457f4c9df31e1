"""Whatever is sent, the answer is in Trove's envelope and never a failure of the service."""

from __future__ import annotations

from collections import defaultdict
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coffer_api import app
from integration.api.service import VERSION, Caller, World

UNKNOWN = "99999999-9999-4999-8999-999999999999"
INSTANCE = "11111111-1111-4111-8111-111111111111"
KEYS = st.sampled_from([
    "instance", "name", "flavorRef", "flavor", "volume", "size", "type", "datastore", "version", "version_number",
    "databases", "character_set", "collate", "users", "password", "host", "nics", "net-id", "subnet_id", "ip_address",
    "access", "is_public", "allowed_cidrs", "locality", "replica_of", "restorePoint", "configuration", "modules",
    "replica_count", "region_name", "restart", "resize", "user", "database", "id", "backup", "backupRef", "description",
    "swift_container", "storage_driver", "incremental", "parent_id", "restore_from", "instance_id", "backup_strategy",
    "values", "data_type", "restart_required", "max_size", "min_size",
    "quotas", "instances", "ram", "volumes", "datastore_name", "datastore_manager", "active", "default", "image",
    "image_tags", "packages", "registry_ext", "repl_strategy",
])
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(min_value=2**62, max_value=2**200),
    st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(exclude_categories=["Cs"])),
    st.sampled_from(["1", "postgresql", "17", "%", "10.0.0.0/8", "\0", "a" * 300, UNKNOWN]),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=20,
)
GOOD = {"name": "x", "flavorRef": 1, "volume": {"size": 1}, "datastore": {"type": "postgresql", "version": "17"}}
BACKUP = {"name": "x", "instance": INSTANCE}
PARAMETER = {"name": "x", "data_type": "integer", "restart_required": 1, "max_size": 5, "min_size": 0}
MANAGED = {"name": "x", "datastore_name": "x", "datastore_manager": "postgresql", "active": True, "image": UNKNOWN}
BODIES = st.one_of(
    st.builds(lambda more: {"version": MANAGED | more}, st.dictionaries(KEYS, VALUES, max_size=3)),
    st.builds(lambda more: {"quotas": more}, st.dictionaries(KEYS, LEAVES, max_size=3)),
    st.dictionaries(KEYS, VALUES, max_size=3),
    VALUES,
    st.builds(lambda more: {"instance": GOOD | more}, st.dictionaries(KEYS, VALUES, max_size=4)),
    st.builds(lambda more: {"backup": BACKUP | more}, st.dictionaries(KEYS, VALUES, max_size=3)),
    st.builds(lambda more: {"configuration": {"name": "x", "values": {}} | more}, st.dictionaries(KEYS, VALUES)),
    st.builds(lambda more: {"configuration-parameter": PARAMETER | more}, st.dictionaries(KEYS, VALUES)),
    st.builds(lambda key, value: {key: value}, KEYS, VALUES),
)
ROUTES = [
    (of.method, of.path.format_map(defaultdict(
        lambda: INSTANCE, user="ann", version=VERSION, name="x", **({"id": VERSION} if "-versions" in of.path else {}),
    )))
    for module in app._MODULES for of in module._declared if "requestBody" in of.document
]
"""All that take a body."""
PARTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
CALM = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True,
    database=None,
)


def fine(answer: Any, allowed: tuple[int, ...] = (501, 503)) -> None:
    assert answer.status < 500 or answer.status in allowed, answer.body
    assert answer.headers["x-openstack-request-id"]
    if answer.status >= 400:
        assert answer.problem


@pytest.fixture
async def instance(world: World) -> str:
    """One whose engine is not asked, so that a lawful change is refused at once."""
    return await world.instance(healthy=False, id=INSTANCE)


def test_the_routes_are_all_there():
    known = {path for _, path in ROUTES}
    assert {"/instances", f"/instances/{INSTANCE}/users/ann", "/backups", "/backup_strategies"} <= known


@CALM
@given(route=st.sampled_from(ROUTES), body=BODIES)
async def test_bodies(api: Caller, instance: str, route: tuple[str, str], body: Any):
    fine(await (api.as_("root") if route[1].startswith("/mgmt/") else api)(*route, body))


@CALM
@given(raw=st.binary(max_size=200))
async def test_bytes(api: Caller, raw: bytes):
    fine(await api("POST", "/instances", raw=raw))


@settings(CALM, max_examples=25)
@given(query=st.dictionaries(
    st.sampled_from(["limit", "marker", "datastore", "instance_id", "project_id", "all_projects"]),
    PARTS | st.sampled_from(["", "0", "1", "true", "postgresql", "p1", INSTANCE]), max_size=4,
))
async def test_queries(api: Caller, world: World, instance: str, query: dict[str, str]):
    for path in ("/backups", f"/instances/{instance}/backups", "/backup_strategies"):
        for caller in (api, api.as_("root")):
            fine(await caller("GET", f"{path}?{urlencode(query)}"))
    fine(await api("DELETE", f"/backup_strategies?{urlencode(query)}"))


@CALM
@given(parts=st.lists(PARTS, min_size=1, max_size=4), query=st.dictionaries(
    st.sampled_from(["limit", "marker", "deleted"]), PARTS, max_size=2,
))
async def test_paths(api: Caller, world: World, instance: str, parts: list[str], query: dict[str, str]):
    tail = "/".join(quote(part, safe="") for part in parts)
    users = f"/instances/{instance}/users/"
    for start in ("/instances/", users, "/datastores/", "/flavors/", "/operations/", "/backups/", "/"):
        fine(await api("GET", f"{start}{tail}?{urlencode(query)}"))
