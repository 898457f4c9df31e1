"""Instances: list, show, create, change, delete. Their actions are in `instance_actions`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
from sqlalchemy import text
from starlette.responses import Response

from coffer_api import creating, documents, filing, instance_configuration, instance_rows, upgrading, views
from coffer_api.bodies import CreateInstance, EditInstance, InstanceChange, InstanceEdit, UpdateInstance
from coffer_api.call import Call, Routes, empty, reply
from coffer_api.filing import accepted
from coffer_api.problems import bad_request, not_in_this_release, unprocessable
from coffer_db import operations
from coffer_db.operations import Busy

ROUTES = Routes("instances")
DELETE_WITHIN = timedelta(minutes=10)
ACCESS_WITHIN = timedelta(minutes=5)
_RENAME = text("UPDATE instances SET name = :name, updated_at = now() WHERE id = :id AND deleted_at IS NULL")


@ROUTES.add("GET", "/instances", rule="instance:index", reply=documents.Instances, paged=True)
async def list_instances(call: Call) -> Response:
    return await _page(call, views.instance, "instances")


@ROUTES.add("GET", "/instances/detail", rule="instance:detail", reply=documents.Instances, paged=True)
async def list_instances_in_detail(call: Call) -> Response:
    return await _page(call, views.instance_detail, "instances/detail")


@ROUTES.add(
    "POST", "/instances", rule="instance:create", body=CreateInstance, reply=documents.InstanceReply,
    errors=(409, 422, 501),
)
async def create_instance(call: Call) -> Response:
    """Answered at once with status BUILD; the operation in `X-Coffer-Operation` tells how it goes on.

    The same request again under the same `Idempotency-Key` answers with the instance it made the first time.
    """
    return await creating.create(call)


@ROUTES.add("GET", "/instances/{id}", rule="instance:show", reply=documents.InstanceReply)
async def show_instance(call: Call) -> Response:
    row = await instance_rows.load(call)
    return reply({"instance": views.with_volume_use(views.instance_detail(call, views.Links(call), row), row)})


@ROUTES.add(
    "PUT", "/instances/{id}", rule="instance:update", body=UpdateInstance, status=202, errors=(422, 501),
)
async def update_instance(call: Call) -> Response:
    """The name, `access`, `configuration` and `datastore_version`. Of `access`, what is left out stays as it is; 422
    for it while another task of the instance runs. Null for `configuration`, or nothing at all, detaches the group.
    Another version is run over the same data, if the instance is healthy; it goes back to the one it had if the
    database does not become healthy with it. The operation in `X-Coffer-Operation` tells how the change goes on."""
    return await _update(call, (await call.body(UpdateInstance)).instance)


@ROUTES.add("PATCH", "/instances/{id}", rule="instance:update", body=EditInstance, status=202, errors=(501,))
async def edit_instance(call: Call) -> Response:
    """As PUT, without `access`."""
    return await _update(call, (await call.body(EditInstance)).instance)


@ROUTES.add("DELETE", "/instances/{id}", rule="instance:delete", status=202, errors=(422,))
async def delete_instance(call: Call) -> Response:
    """Asked again while it runs, it is accepted again and changes nothing. A task that is in its way is cancelled
    first, which is waited for; 422 if that takes too long: asked again, it waits again. A creation is in its way unless
    its end was asked for, as resetting the status does."""
    busy, waited = Busy("another task"), False
    for _ in range(3):
        row = await instance_rows.load(call)
        if row["task"] == "delete_instance":
            return accepted(row["task_id"])
        if row["task"] == "create_instance" and not row["cancelling"]:
            raise unprocessable(f"Instance {row['id']} is not ready. (Status is BUILD).")
        wanted = filing.new(call, row, "delete_instance", within=DELETE_WITHIN, lifecycle=True, args={})
        try:
            async with call.api.db.begin() as session:
                operation = await operations.file(session, wanted, None)
        except Busy as found:
            busy = found
            if waited and busy.kind != "delete_instance":
                break
            if row["task_id"] is not None and not waited:
                await _end(call, row)
                waited = True
        else:
            await call.api.wakes.wake(row["id"], operation)
            return accepted(operation)
    raise filing.in_the_way(row, busy, "is being cancelled; ask again" if waited else "is running")


async def _page(call: Call, view: Any, path: str) -> Response:
    limit, marker = call.limit(), call.marker()
    rows = await instance_rows.page(call, limit, marker)
    found: dict[str, Any] = {}
    if len(rows) > limit:
        rows = rows[:limit]
        found = call.next_links("instances", path, limit, rows[-1]["id"])
    rows.sort(key=_created, reverse=True)
    links = views.Links(call)
    return reply({"instances": [view(call, links, row) for row in rows], **found})


def _created(row: asyncpg.Record) -> Any:
    return row["created_at"]


async def _update(call: Call, wanted: InstanceEdit) -> Response:
    given = wanted.model_fields_set
    later = given - {"name", "access", "configuration", "datastore_version"}
    if len(given - {"name"}) > 1:
        raise bad_request("Only one attribute (except 'name') is allowed to update.")
    row = await instance_rows.load(call)
    group = await instance_configuration.choose(call, row["version_id"], wanted.configuration)
    # clients of Trove detach by a PUT that says nothing at all
    attach = "configuration" in given or (not given and isinstance(wanted, InstanceChange))
    version = None
    if wanted.datastore_version is not None:
        version = await upgrading.choose(call, row, wanted.datastore_version)
    if later:
        raise not_in_this_release(f"Changing {', '.join(sorted(later))}")
    if "name" in given and wanted.name is None:
        raise bad_request("Validation error: instance['name'] must be a string.")
    access = wanted.access if isinstance(wanted, InstanceChange) and "access" in given else None
    changed = access.model_dump(exclude_unset=True) if access is not None else {}
    operation = None
    try:
        async with call.api.db.begin() as session:
            if changed:
                filed = filing.new(call, row, "update_access", within=ACCESS_WITHIN, lifecycle=True, args=changed)
                operation = await operations.file(session, filed, None)
            if version is not None:
                operation = await upgrading.file(call, session, row, version)
            if attach:
                operation = await instance_configuration.attach(call, session, row, group)
            if wanted.name is not None:
                await session.execute(_RENAME, {"name": wanted.name, "id": row["id"]})
    except Busy as busy:
        raise filing.in_the_way(row, busy) from None
    if operation is None:
        return empty()
    await call.api.wakes.wake(row["id"], operation)
    return accepted(operation)


async def _end(call: Call, row: asyncpg.Record) -> None:
    """Ask for the end of what is in the way of a deletion, and give it the time that it takes."""
    async with call.api.db.begin() as session:
        await operations.request_cancel(session, row["task_id"])
    await call.api.wakes.wake(row["id"], row["task_id"])
    await call.api.waiter.until_finished(row["task_id"], call.api.settings.cancel_wait)
