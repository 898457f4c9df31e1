"""What a project may have at most."""

from __future__ import annotations

from starlette.responses import Response

from coffer_api import documents, rates
from coffer_api.call import Call, Routes, reply

ROUTES = Routes("limits")


@ROUTES.add("GET", "/limits", rule="limits:index", reply=documents.Limits)
async def list_limits(call: Call) -> Response:
    """What the project may have, and then how many requests it may make in a minute."""
    settings = call.api.settings
    absolute = {
        "verb": "ABSOLUTE",
        "max_instances": settings.quota_instances,
        "max_ram": settings.quota_ram,
        "max_volumes": settings.quota_volumes,
        "max_backups": settings.quota_backups,
    }
    return reply({"limits": [absolute, *await rates.describe(call.api.reads, rates.limits_of(settings), call.project)]})
