"""What a project may have at most."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from coffer_api import documents, quotas, rates
from coffer_api.call import Call, Routes, reply
from coffer_db import usage

ROUTES = Routes("limits")


@ROUTES.add("GET", "/limits", rule="limits:index", reply=documents.Limits)
async def list_limits(call: Call) -> Response:
    """What the project may have, and then how many requests it may make in a minute."""
    requests = await rates.describe(call.api.reads, rates.limits_of(call.api.settings), call.project)
    return reply({"limits": [await _absolute(call), *requests]})


async def _absolute(call: Call) -> dict[str, Any]:
    """The limits of the project, its own before the settings'. -1: none."""
    own = await call.api.reads.fetch(usage.LIMITS, call.project)
    found = {**quotas.defaults(call.api.settings), **{row["resource"]: row["hard_limit"] for row in own}}
    return {"verb": "ABSOLUTE", **{f"max_{resource}": found[resource] for resource in usage.RESOURCES}}
