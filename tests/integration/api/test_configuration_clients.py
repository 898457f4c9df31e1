"""Unmodified clients handle configuration groups and their parameters."""

from __future__ import annotations

import asyncio
import json
import warnings
from typing import Any

from keystoneauth1 import session
from keystoneauth1.http_basic import HTTPBasicAuth

from integration.api.client import openstack
from integration.api.service import VERSION, Caller, World


async def test_a_life_of_a_configuration_group_by_hand(api: Caller, world: World):
    instance = await world.instance(name="shop")
    known = await world.configuration({"jit": False, "geqo": True}, name="known")
    form = ["-f", "json"]
    begin = ["database", "configuration"]
    said = await openstack(
        api,
        [*begin, "create", "tuned", '{"work_mem": "64MB", "jit": false}', "--datastore", "postgresql",
         "--datastore-version", "17", "--description", "words", *form],
        [*begin, "list", *form],
        [*begin, "show", "tuned", *form],
        [*begin, "parameter", "set", known, '{"max_connections": 200}'],
        [*begin, "set", known, '{"jit": true}', "--name", "other"],
        [*begin, "show", "other", *form],
        [*begin, "instances", "other", *form],
        [*begin, "parameter", "list", "17", "--datastore", "postgresql", *form],
        [*begin, "parameter", "show", VERSION, "work_mem", *form],
        [*begin, "parameter", "show", "17", "jit", "--datastore", "postgresql", *form],
        [*begin, "default", "shop", *form],
        [*begin, "attach", "shop", "other"],
        [*begin, "detach", "shop"],
        [*begin, "delete", "tuned"],
        [*begin, "show", "tuned"],
        [*begin, "attach", "shop", instance],
        [*begin, "create", "bad", '{"work_mem": "much"}', "--datastore", "postgresql", "--datastore-version", "17"],
    )
    assert [status for status, _ in said] == [0] * 14 + [1] * 3, said
    found: list[Any] = [json.loads(text) if text.startswith(("{", "[")) else text for _, text in said]
    assert (found[0]["name"], found[0]["description"], found[0]["instance_count"]) == ("tuned", "words", 0)
    assert json.loads(found[0]["values"]) == {"work_mem": "64MB", "jit": False}
    assert {row["Name"]: row["Datastore Version Number"] for row in found[1]} == {"tuned": "17.6", "known": "17.6"}
    assert json.loads(found[5]["values"]) == {"jit": True}
    assert found[6] == []
    rows = {row["Name"]: row for row in found[7]}
    assert (rows["work_mem"]["Min Size"], rows["work_mem"]["Max Size"], rows["jit"]["Min Size"]) == (64, 2**31 - 1, "-")
    assert (found[8]["type"], found[9]["type"]) == ("integer", "boolean")
    assert found[10]["shared_buffers"] == "128MB"
    assert "No configuration with a name or ID" in said[14][1]
    assert "could not be found" in said[15][1]
    assert "is not of type integer" in said[16][1]


async def test_a_page_of_groups_is_one_request(api: Caller, world: World):
    """The client asks for each group that lacks a column of its table."""
    for _ in range(3):
        await world.configuration()
    asked = await _asked(api, "ann", lambda client: [
        (item.name, item.datastore_name, item.datastore_version_number) for item in client.configurations.list()
    ])
    assert asked == ([("tuned", "postgresql", "17.6")] * 3, 1)


async def test_administrators_manage_parameters(api: Caller, world: World):
    with warnings.catch_warnings(action="ignore"):  # the client's own
        from troveclient.v1.management import MgmtConfigurationParameters

    def use(client: Any) -> Any:
        managed = MgmtConfigurationParameters(client)
        managed.create(VERSION, "own", True, "integer", max_size=9, min_size=0)
        managed.modify(VERSION, "own", False, "integer", max_size=8, min_size=0)
        one = managed.get_any_parameter_by_version(VERSION, "own")
        listed = managed.list_all_parameter_by_version(VERSION)
        managed.delete(VERSION, "own")
        return one.max_size, one.min_size, one.restart_required, "own" in {item.name for item in listed}

    result, requests = await _asked(api.as_("root"), "root", use)
    assert (result, requests) == ((8, 0, False, True), 5)


async def _asked(api: Caller, user: str, use: Any) -> tuple[Any, int]:
    """What `use` returns of a client, and how many requests that took."""
    with warnings.catch_warnings(action="ignore"):  # the client's own
        from troveclient.v1 import client as trove

    def run() -> tuple[Any, int]:
        auth = HTTPBasicAuth(endpoint=f"{api.base}/v1.0/{api.project}", username=user, password=f"{user}-password")
        own = session.Session(auth=auth)
        sent: list[Any] = []
        plain = own.request

        def counted(*args: Any, **more: Any) -> Any:
            sent.append(args)
            return plain(*args, **more)

        own.request = counted
        return use(trove.Client(session=own)), len(sent)

    return await asyncio.to_thread(run)
