"""Instances of all projects for administrators, deleted ones too, with what stands behind them.

All of it is what the rows and the last heartbeat tell; no cloud is asked. What changes an instance is elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg
from starlette.responses import Response

from coffer_api import backup_rows, instance_rows, mgmt_documents, views
from coffer_api.call import Call, Routes, empty, reply
from coffer_api.filing import GUEST_TIMEOUT
from coffer_api.identity import MANAGEMENT
from coffer_api.instance_rows import UUID, facts
from coffer_api.problems import bad_request, not_found
from coffer_api.status import doing, heard, service
from coffer_shared.messages import Engine

ROUTES = Routes("management")
_PATH = "/mgmt/instances"
_ONE = _PATH + "/{id}"
_LIST = instance_rows.SELECT + """
    WHERE ($1::boolean IS NULL OR (i.deleted_at IS NOT NULL) = $1) AND ($2::text IS NULL OR i.project_id = $2)
    ORDER BY i.updated_at DESC, i.id DESC LIMIT $3 OFFSET $4
"""
_SHOW = instance_rows.SELECT + "WHERE i.id = $1 AND (i.deleted_at IS NULL OR $2)"
_ROOT = """
    SELECT i.id, r.user_id, r.enabled_at FROM instances i LEFT JOIN root_history r ON r.instance_id = i.id
    WHERE i.id = $1 ORDER BY r.enabled_at DESC, r.id DESC LIMIT 1
"""
_WORDS: Mapping[str, bool | None] = {"": None, "true": True, "false": False}
_DELETED = "DELETED"
_STATES: Mapping[str, str] = {
    "HEALTHY": "healthy", "ACTIVE": "running", "BLOCKED": "blocked", "SHUTDOWN": "shutdown", "NEW": "new",
    _DELETED: "deleted",
}
"""Trove's word for the service, in its other vocabulary; any other is unknown."""


@ROUTES.add(
    "GET", _PATH, rule=MANAGEMENT, reply=mgmt_documents.ManagedInstances, paged=True,
    query=("deleted", "project_id", "include_clustered"),
)
async def list_managed_instances(call: Call) -> Response:
    """Those that changed last first. `deleted`: true or false; both kinds without it. The marker is a number: how many
    to pass over. There are no clusters that could be left out."""
    limit, offset = call.limit(), backup_rows.offset(call)
    rows = await call.api.reads.fetch(_LIST, _deleted(call), call.query("project_id"), limit + 1, offset)
    more = call.next_links("instances", "mgmt/instances", limit, str(offset + limit)) if len(rows) > limit else {}
    links = views.Links(call)
    return reply({"instances": [_view(call, links, row) for row in rows[:limit]], **more})


@ROUTES.add("GET", _ONE, rule=MANAGEMENT, reply=mgmt_documents.ManagedInstanceReply, query=("deleted",))
async def show_managed_instance(call: Call) -> Response:
    """A deleted one with `deleted=true` only."""
    row = await _one(call, _SHOW, _deleted(call) is True)
    return reply({"instance": _detail(call, row)})


@ROUTES.add("GET", _ONE + "/root", rule=MANAGEMENT, reply=mgmt_documents.RootHistoryReply)
async def show_root_history(call: Call) -> Response:
    """Who enabled root last. Of deleted instances too."""
    row = await _one(call, _ROOT)
    found = {"id": row["id"], "enabled": views.time(row["enabled_at"]) or "Never", "user": row["user_id"] or "Nobody"}
    return reply({"root_history": found})


@ROUTES.add("GET", _ONE + "/rpc_ping", rule=MANAGEMENT, status=204)
async def ping_guest(call: Call) -> Response:
    """400 where the agent of the instance is silent."""
    row = await instance_rows.load(call, call.part(2))
    if not await call.api.guests.query(row["id"], "ping"):
        raise bad_request(GUEST_TIMEOUT)
    return empty(204)


async def _one(call: Call, statement: str, *values: Any) -> asyncpg.Record:
    wanted = call.part(2)
    row = await call.api.reads.one(statement, wanted.lower(), *values) if UUID.fullmatch(wanted) else None
    if row is None:
        raise not_found(f"Resource {wanted[:255]} cannot be found.")
    return row


def _deleted(call: Call) -> bool | None:
    given = (call.query("deleted") or "").lower()
    if given not in _WORDS:
        raise bad_request("Validation error: deleted must be true or false.")
    return _WORDS[given]


def _view(call: Call, links: views.Links, row: asyncpg.Record) -> dict[str, Any]:
    """As the owner sees it in detail, and more. A deleted one has neither addresses nor a status that changes."""
    gone = row["deleted_at"] is not None
    known: Any = {**row, **{name: row[name] or "" for name in ("flavor_id", "datastore", "version", "number")}}
    found = views.instance_detail(call, links, known)
    if gone:
        found |= {"status": "SHUTDOWN", "operating_status": ""}
        for name in ("ip", "addresses", "fault"):
            found.pop(name, None)
    return found | {
        "server": _server(call, row),
        "service_status": _DELETED if gone else service(facts(row), call.api.settings.heartbeat_expiry),
        "tenant_id": row["project_id"],
        "deleted": gone,
        "deleted_at": views.time(row["deleted_at"]),
        "task_description": _task(row["task"]),
    }


def _detail(call: Call, row: asyncpg.Record) -> dict[str, Any]:
    found = _view(call, views.Links(call), row)
    word = found["service_status"]
    crashed = word == "SHUTDOWN" and row["engine"] == Engine.CRASHED
    found["guest_status"] = {"state_description": "crashed" if crashed else _STATES.get(word, "unknown")}
    found["volume"] = _volume(row)
    if found["server"] is not None:
        by_network: dict[str, list[dict[str, Any]]] = {}
        for address in found.get("addresses", ()):
            one = {"addr": address["address"], "version": 6 if ":" in address["address"] else 4}
            by_network.setdefault(address.get("network") or address["type"], []).append(one)
        found["server"]["addresses"] = by_network
    if row["root_enabled_at"] is not None:
        found["root_enabled"] = views.time(row["root_enabled_at"])
        found["root_enabled_by"] = row["root_enabled_by"] or ""
    return found


def _server(call: Call, row: asyncpg.Record) -> dict[str, Any] | None:
    """The machine, as far as its agent tells. None where there is none."""
    if row["server_id"] is None or row["deleted_at"] is not None:
        return None
    if doing(facts(row)) == "BUILD":
        status = "BUILD"
    else:
        status = "ACTIVE" if heard(facts(row), call.api.settings.heartbeat_expiry) else "UNKNOWN"
    return {
        "id": row["server_id"], "name": row["name"], "status": status, "tenant_id": row["project_id"], "host": None,
    }


def _volume(row: asyncpg.Record) -> dict[str, Any] | None:
    if row["volume_id"] is None or row["deleted_at"] is not None:
        return None
    used, total = instance_rows.volume_bytes(row)
    server = row["server_id"]
    return {
        "id": row["volume_id"],
        "size": row["volume_gib"],
        "status": "available" if server is None else "in-use",
        "attachments": [] if server is None else [{"server_id": server}],
        "availability_zone": row["availability_zone"],
        "created_at": views.time(row["created_at"]),
        "used": round(used / views.GIB, 2) if used else None,
        "total": round(total / views.GIB, 2) if total else None,
    }


def _task(kind: str | None) -> str:
    """A sentence for the operation that is under way."""
    return "No tasks for the instance." if kind is None else f"{kind.replace('_', ' ').capitalize()}."
