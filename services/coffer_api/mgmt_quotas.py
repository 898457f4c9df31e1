"""The quotas of projects: what they use, and limits of their own."""

from __future__ import annotations

from starlette.responses import Response

from coffer_api import mgmt_documents, quotas
from coffer_api.call import Call, Routes, reply
from coffer_api.identity import MANAGEMENT
from coffer_api.mgmt_bodies import SetQuotas
from coffer_api.problems import Problem, bad_request, not_found
from coffer_db import usage

ROUTES = Routes("management")
_PATH = "/mgmt/quotas/{id}"


@ROUTES.add("GET", _PATH, rule=None, reply=mgmt_documents.Quotas)
async def show_quotas(call: Call) -> Response:
    """Of one's own project; of any, for administrators. What is being made is `reserved`; it counts as well."""
    project = call.part(2)
    if project != call.project and not call.identity.admin:
        raise Problem(403, f"Operation not allowed for tenant {call.project}.")
    rows = await call.api.reads.fetch(usage.USAGE, _known(project))
    found = [
        {
            "resource": use.resource, "in_use": use.in_use, "reserved": use.reserved,
            "limit": quotas.limit(call.api.settings, use),
        }
        for use in map(usage.use, rows)
    ]
    return reply({"quotas": found})


@ROUTES.add("PUT", _PATH, rule=MANAGEMENT, body=SetQuotas, reply=mgmt_documents.QuotasSet)
async def set_quotas(call: Call) -> Response:
    """Those given; what a project has beyond a lower limit stays."""
    project = _known(call.part(2))
    given = (await call.body(SetQuotas)).quotas
    for resource in given:
        if resource not in usage.RESOURCES:
            raise not_found(f"Quota resource {resource[:255]} is not known.")
    limits = {resource: limit for resource, limit in given.items() if limit is not None}
    async with call.api.db.begin() as session:
        await usage.set_limits(session, project, limits)
    return reply({"quotas": limits})


def _known(project: str) -> str:
    """Nothing knows all projects; but this can be none."""
    if not project or "\0" in project or len(project) > 255:
        raise bad_request("Validation error: this is not the id of a project.")
    return project
