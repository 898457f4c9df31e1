"""A configuration group in the life of an instance: at once, after a restart, refused, gone again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from support.stack import Api, address, eventually, psql
from support.tenants import Shop


@pytest.fixture(scope="module")
def group(api: Api) -> Iterator[str]:
    made = _group(api, {"work_mem": "6MB", "max_connections": 60})
    yield made
    api("DELETE", f"/configurations/{made}").must(202)


@pytest.fixture(scope="module")
def shop(api: Api, group: str) -> Iterator[Shop]:
    """Made with the group."""
    password = secrets.token_urlsafe(18)
    made = api.create(
        "configured", access={"is_public": True}, databases=[{"name": "shop"}], configuration=group,
        users=[{"name": "app", "password": password, "databases": [{"name": "shop"}]}],
    )
    shown = api.until_ready(made)
    yield Shop(made, password, address(shown, "public"), address(shown, "private"), shown)
    api.delete(made)


def _group(api: Api, values: dict[str, Any]) -> str:
    wanted = {"name": "g", "datastore": {"type": "postgresql", "version": "17"}, "values": values}
    return str(api("POST", "/configurations", {"configuration": wanted}).must(200)["configuration"]["id"])


def _value(shop: Shop, name: str) -> str:
    return psql(shop.public, "app", shop.password, "shop", f"SHOW {name}")


def _ended(api: Api, operation: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = api("GET", f"/operations/{operation}").must(200)["operation"]
        return found if "finished" in found else None

    found: dict[str, Any] = eventually(ended, within=60, what="the operation has ended")
    return found


def _change(api: Api, shop: Shop, configuration: str | None, *, ends: str = "succeeded") -> dict[str, Any]:
    answer = api("PUT", f"/instances/{shop.id}", {"instance": {"configuration": configuration}})
    answer.must(202)
    found = _ended(api, answer.headers["x-coffer-operation"])
    assert found["state"] == ends, found
    return found


def _restart(api: Api, shop: Shop, *, ends: str = "succeeded") -> dict[str, Any]:
    answer = api("POST", f"/instances/{shop.id}/action", {"restart": {}})
    answer.must(202)
    found = _ended(api, answer.headers["x-coffer-operation"])
    assert found["state"] == ends, found
    return found


def _waits_for(api: Api, shop: Shop, *names: str) -> None:
    def told() -> bool:
        shown = api.instance(shop.id)
        expected = "RESTART_REQUIRED" if names else "ACTIVE"
        return (shown["status"], shown.get("restart_required", [])) == (expected, list(names))

    eventually(told, within=30, what=f"it waits for {names}")


def test_it_is_made_with_it(api: Api, shop: Shop, group: str) -> None:
    assert api.instance(shop.id)["configuration"]["id"] == group
    assert (_value(shop, "work_mem"), _value(shop, "max_connections")) == ("6MB", "60")


def test_new_values_act_at_once_or_after_a_restart(api: Api, shop: Shop, group: str) -> None:
    values = {"work_mem": "7MB", "max_connections": 70}
    api("PATCH", f"/configurations/{group}", {"configuration": {"values": values}}).must(200)
    eventually(lambda: _value(shop, "work_mem") == "7MB", within=30, what="the new value acts")
    assert _value(shop, "max_connections") == "60"
    _waits_for(api, shop, "max_connections")
    _restart(api, shop)
    _waits_for(api, shop)
    assert (_value(shop, "work_mem"), _value(shop, "max_connections")) == ("7MB", "70")


def test_what_the_server_refuses_is_told_and_changes_nothing(api: Api, shop: Shop, group: str) -> None:
    bad = _group(api, {"default_text_search_config": "nowhere.nothing"})
    ended = _change(api, shop, bad, ends="failed")
    assert "nowhere.nothing" in ended["failure"]["message"]
    assert api.instance(shop.id)["configuration"]["id"] == group
    assert _value(shop, "work_mem") == "7MB"
    api("DELETE", f"/configurations/{bad}").must(202)


def test_what_it_does_not_start_with_is_taken_back(api: Api, shop: Shop, group: str) -> None:
    """More than there is memory for."""
    fatal = _group(api, {"work_mem": "5MB", "max_connections": 70, "shared_buffers": "900GB"})
    _change(api, shop, fatal)
    _waits_for(api, shop, "shared_buffers")
    ended = _restart(api, shop, ends="failed")
    assert "runs with the former ones" in ended["failure"]["message"]
    eventually(lambda: _value(shop, "work_mem") == "7MB", within=60, what="it runs as before")
    _change(api, shop, group)
    api("DELETE", f"/configurations/{fatal}").must(202)


def test_without_it_the_defaults_are_back(api: Api, shop: Shop, group: str) -> None:
    assert api("DELETE", f"/configurations/{group}").status == 400
    _change(api, shop, None)
    assert "configuration" not in api.instance(shop.id)
    assert _value(shop, "work_mem") == "4MB"
    _waits_for(api, shop, "max_connections")
    _restart(api, shop)
    assert _value(shop, "max_connections") == "100"
