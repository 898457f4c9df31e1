"""Limits on the number of requests: exact over several replicas, and cheap where a project is busy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from coffer_api.settings import Settings
from integration.api.service import World, serving


async def test_weakness_11_one_limit_over_all_replicas(choose: Callable[..., Settings], world: World) -> None:
    """Two services, many requests at a time: not one more than the limit and what has filled again meanwhile."""
    limit = 60
    async with serving(choose(http_get_rate=limit)) as one, serving(choose(http_get_rate=limit)) as two:
        began = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(caller("GET", "/limits") for caller in (one, two) for _ in range(60)))
        took = asyncio.get_running_loop().time() - began
        served = sum(answer.status == 200 for answer in answers)
        refused = [answer for answer in answers if answer.status == 413]
        assert served + len(refused) == 120
        # What a replica took and holds unspent is missing for some seconds; it is small when the bucket is low.
        assert limit - 10 <= served <= limit + took * limit / 60 + 1
        inside = refused[0].body["overLimit"]
        assert inside["code"] == 413
        assert inside["message"] == "This request was rate-limited."
        assert inside["details"] == f"Only {limit} GET request(s) can be made to * every minute."
        assert int(refused[0].headers["retry-after"]) >= 1
        # another verb, another project: other buckets
        assert (await one("POST", "/instances", {})).status == 400
        assert (await two.as_("bob")("GET", "/limits")).status == 200


async def test_a_refused_project_may_ask_again_when_told(choose: Callable[..., Settings], world: World) -> None:
    async with serving(choose(http_get_rate=120)) as api:
        while (answer := await api("GET", "/flavors")).status == 200:
            pass
        assert answer.status == 413
        await asyncio.sleep(float(answer.headers["retry-after"]))
        assert (await api("GET", "/flavors")).status == 200


async def test_refusals_and_busy_projects_cost_few_statements(choose: Callable[..., Settings], world: World) -> None:
    async with serving(choose(http_get_rate=1000)) as api:
        for _ in range(300):
            (await api("GET", "/flavors")).must(200)
        (row,) = await world.sql("SELECT tokens, taken FROM request_rates WHERE project_id = 'p1' AND verb = 'GET'")
        assert row["taken"] == 20
        assert row["tokens"] <= 1000 - 280


async def test_limits_are_listed_with_what_is_left(choose: Callable[..., Settings], world: World) -> None:
    async with serving(choose(http_get_rate=100, http_delete_rate=7)) as api:
        found = (await api("GET", "/limits")).must(200)["limits"]
        assert [limit["verb"] for limit in found] == ["ABSOLUTE", "GET", "DELETE"]
        assert found[1]["value"] == 100
        assert 90 <= found[1]["remaining"] <= 99
        assert found[1]["nextAvailable"].endswith("Z")
        assert found[2] | {"nextAvailable": ""} == {
            "verb": "DELETE", "value": 7, "remaining": 7, "unit": "MINUTE", "uri": "*", "regex": ".*",
            "nextAvailable": "",
        }


async def test_strangers_spend_nothing(choose: Callable[..., Settings], world: World) -> None:
    async with serving(choose(http_get_rate=5)) as api:
        for _ in range(20):
            assert (await api.as_("bob", "p1")("GET", "/flavors")).status == 403
        assert (await api("GET", "/flavors")).status == 200
