"""Whoever may only read changes nothing, by any route."""

from __future__ import annotations

import pytest

from coffer_api import app
from integration.api.service import VERSION, Caller, World

WRITES = [
    (of.method, of.path, of.rule)
    for module in app._MODULES for of in module._declared if of.method != "GET" and of.rule is not None
]


@pytest.mark.parametrize(("method", "path", "rule"), WRITES, ids=[f"{method} {path}" for method, path, _ in WRITES])
async def test_weakness_9_a_reader_cannot_write(api: Caller, world: World, method: str, path: str, rule: str):
    """Before anything of the request is looked at."""
    instance = await world.instance()
    where = path.format(id=instance, user="ann", name="x", version=VERSION, datastore="postgresql", module="m")
    answer = await api.as_("rita")(method, where, {})
    if rule == "context_is_admin":
        assert (answer.status, answer.problem) == (401, "User does not have admin privileges.")
    else:
        assert (answer.status, answer.problem) == (403, f"Policy doesn't allow {rule} to be performed.")
    assert await world.count("operations") == 0


async def test_weakness_9_nor_act(api: Caller, world: World):
    """What an action needs depends on the action."""
    instance = await world.instance()
    answer = await api.as_("rita")("POST", f"/instances/{instance}/action", {"restart": {}})
    assert (answer.status, answer.problem) == (403, "Policy doesn't allow instance:restart to be performed.")
    assert await world.count("operations") == 0


def test_the_routes_are_all_there():
    known = {(method, path) for method, path, _ in WRITES}
    assert {("POST", "/instances"), ("DELETE", "/backups/{id}"), ("PUT", "/mgmt/quotas/{id}"),
            ("PATCH", "/mgmt/datastore-versions/{id}"), ("DELETE", "/datastores/{datastore}")} <= known
