"""Operations as a tenant follows them: list, show, cancel."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.responses import Response

from coffer_api import documents, instance_rows, views
from coffer_api.call import Call, Routes, reply
from coffer_api.filing import accepted
from coffer_api.instance_rows import UUID
from coffer_api.problems import Problem, not_found
from coffer_db import operation_views, operations
from coffer_db.operation_views import OperationView
from coffer_db.tables import OPEN_STATES

ROUTES = Routes("operations")
_EVENTS = 100


@ROUTES.add("GET", "/operations", rule="operation:index", reply=documents.Operations, paged=True, extension=True)
async def list_operations(call: Call) -> Response:
    """Of the project, newest first."""
    limit, marker = call.limit(), call.marker()

    async def read(connection: AsyncConnection) -> list[OperationView]:
        return await operation_views.list_for_project(connection, call.project, limit=limit + 1, marker=marker)

    return _page(call, await call.api.db.read(read), limit, "operations")


@ROUTES.add(
    "GET", "/instances/{id}/operations", rule="operation:index", reply=documents.Operations, paged=True,
    extension=True,
)
async def list_operations_of_instance(call: Call) -> Response:
    """Newest first."""
    row = await instance_rows.load(call)
    limit, marker = call.limit(), call.marker()

    async def read(connection: AsyncConnection) -> list[OperationView]:
        return await operation_views.list_for_instance(connection, None, row["id"], limit=limit + 1, marker=marker)

    return _page(call, await call.api.db.read(read), limit, f"instances/{row['id']}/operations")


@ROUTES.add("GET", "/operations/{id}", rule="operation:show", reply=documents.OperationReply, extension=True)
async def show_operation(call: Call) -> Response:
    """With the last events that its guest reported. Operations outlive their instances."""
    operation = await _load(call)

    async def read(connection: AsyncConnection) -> list[operation_views.EventView]:
        return await operation_views.events(connection, operation.id, limit=_EVENTS)

    found = views.operation(views.Links(call), operation)
    found["events"] = [
        {"n": e.n, "kind": e.kind, "percent": e.percent, "text": e.text, "at": views.time(e.at)}
        for e in await call.api.db.read(read)
    ]
    return reply({"operation": found})


@ROUTES.add("POST", "/operations/{id}/cancel", rule="operation:cancel", status=202, errors=(409,), extension=True)
async def cancel_operation(call: Call) -> Response:
    """Asks for its end. An operation whose plan cannot be cancelled goes on."""
    return await _cancel(call)


@ROUTES.add("DELETE", "/operations/{id}", rule="operation:cancel", status=202, errors=(409,), extension=True)
async def delete_operation(call: Call) -> Response:
    """As cancel: the record of what was done stays."""
    return await _cancel(call)


async def _cancel(call: Call) -> Response:
    operation = await _load(call)
    asked = False
    if operation.state in OPEN_STATES:
        async with call.api.db.begin() as session:
            asked = await operations.request_cancel(session, operation.id)
    if not asked:
        raise Problem(409, f"Operation {operation.id} has ended.")
    await call.api.wakes.wake(operation.instance_id, operation.id)
    return accepted(operation.id)


async def _load(call: Call) -> OperationView:
    wanted = call.part(1)
    if UUID.fullmatch(wanted):
        project = None if call.identity.admin else call.project

        async def read(connection: AsyncConnection) -> OperationView | None:
            return await operation_views.get(connection, project, wanted.lower())

        found = await call.api.db.read(read)
        if found is not None:
            return found
    raise not_found(f"Operation {wanted[:255]} cannot be found.")


def _page(call: Call, found: list[OperationView], limit: int, path: str) -> Response:
    links = views.Links(call)
    more: dict[str, Any] = {}
    if len(found) > limit:
        found = found[:limit]
        more = call.next_links("operations", path, limit, found[-1].id)
    return reply({"operations": [views.operation(links, operation) for operation in found], **more})
