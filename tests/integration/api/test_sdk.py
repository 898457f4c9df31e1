"""The unmodified openstacksdk connects, with nothing set but how to sign in and where the service is."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from integration.api.service import Caller, World, serving

if TYPE_CHECKING:
    from support.keystone import Keystone

SDK = """
import json, sys, openstack
database = openstack.connection.Connection(**json.load(sys.stdin)).database
made = database.create_instance(
    name="x", flavor="1", volume={"size": 1}, datastore={"type": "postgresql", "version": "17"})
print(json.dumps({
    "endpoint": database.get_endpoint(), "proxy": type(database).__module__, "made": made.id,
    "instances": [found.id for found in database.instances()], "got": database.get_instance(made.id).name,
    "found": database.find_instance("x").id, "flavors": len(list(database.flavors())),
}))
"""


def sign_in(api: Caller, how: str) -> dict[str, Any]:
    endpoint = f"{api.base}/v1.0/p1"
    who = {"username": "ann", "password": "ann-password"} if how == "http_basic" else {}
    return {"auth_type": how, "auth": {"endpoint": endpoint, **who}}


@pytest.mark.parametrize("override", [{}, {"database_endpoint_override": "/v1.0/p1"}], ids=["plain", "override"])
@pytest.mark.parametrize(("strategy", "how"), [("http_basic", "http_basic"), ("noauth", "none")])
async def test_standalone(choose: Callable[..., Any], strategy: str, how: str, override: dict[str, str]):
    async with serving(choose(auth_strategy=strategy)) as api:
        more = {name: api.base + path for name, path in override.items()}
        await connects(api, {**sign_in(api, how), **more}, "p1")


@pytest.mark.parametrize("slash", ["", "/"])
async def test_the_endpoint_may_end_with_a_slash(choose: Callable[..., Any], slash: str):
    async with serving(choose(auth_strategy="noauth")) as api:
        await connects(api, {"auth_type": "none", "auth": {"endpoint": f"{api.base}/v1.0/p1{slash}"}}, "p1")


@pytest.mark.docker
@pytest.mark.timeout(300)
async def test_keystone(keystone: Keystone, choose: Callable[..., Any], world: World):
    account = keystone.account()
    async with serving(choose(
        auth_strategy="keystone", keystone_clouds=keystone.clouds(), keystone_cloud="coffer", keystone_timeout=20.0,
    )) as api:
        keystone.place("database", f"{api.base}/v1.0/%(project_id)s")
        await connects(api, {"auth": {
            "auth_url": keystone.url, "user_id": account.id, "password": account.password,
            "project_id": account.project,
        }}, account.project)
    assert [row["project_id"] for row in await world.sql("SELECT project_id FROM instances")] == [account.project]


async def connects(api: Caller, settings: dict[str, Any], project: str) -> None:
    def run() -> str:
        return subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SDK], input=json.dumps(settings), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=100,
        ).stdout

    said = await asyncio.to_thread(run)
    assert said.startswith("{"), said
    found = json.loads(said)
    assert found["endpoint"].rstrip("/") == f"{api.base}/v1.0/{project}"
    assert found["proxy"] == "openstack.database.v1._proxy"
    assert found["instances"] == [found["made"]]
    assert (found["got"], found["found"], found["flavors"]) == ("x", found["made"], 2)
