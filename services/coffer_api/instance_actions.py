"""Actions on an instance: restart, resize, reset its status, and the checks of those that are of later releases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar

import asyncpg
from pydantic import BaseModel, ValidationError
from sqlalchemy import text
from starlette.responses import Response

from coffer_api import filing, instance_rows, quotas
from coffer_api.bodies import Action, Nothing, ResetStatus, Resize
from coffer_api.call import Call, Routes, empty, explain
from coffer_api.filing import accepted
from coffer_api.identity import allowed
from coffer_api.problems import bad_request, not_in_this_release, over_limit
from coffer_api.tenant_networks import need_flavor
from coffer_db import operations
from coffer_db.operations import Busy

ROUTES = Routes("instances")
RESTART_WITHIN = timedelta(minutes=5)
VOLUME_WITHIN = timedelta(minutes=15)
FLAVOR_WITHIN = timedelta(minutes=20)
_MODEL = TypeVar("_MODEL", bound=BaseModel)
_Act: TypeAlias = Callable[[Call, str, Any], Awaitable[Response]]
_RESET = text(
    "UPDATE instances SET reset_at = now(), failed = false, updated_at = now() WHERE id = :id AND deleted_at IS NULL",
)
_FLAVOR = """
    SELECT f.id, f.ram_mb > coalesce(own.ram_mb, 0) AS larger,
           NOT EXISTS (SELECT FROM version_flavors a WHERE a.version_id = $3)
           OR EXISTS (SELECT FROM version_flavors a WHERE a.version_id = $3 AND a.flavor_id = f.id) AS goes_with_version
    FROM flavors f LEFT JOIN flavors own ON own.id = $2 WHERE f.id = $1
"""


@ROUTES.add("POST", "/instances/{id}/action", rule=None, body=Action, status=202, errors=(413, 422, 501))
async def act_on_instance(call: Call) -> Response:
    """`{"restart": {}}`; `{"resize": {"volume": {"size": 5}}}`, while the database goes on, or
    `{"resize": {"flavorRef": "2"}}`, which restarts it; for administrators `{"reset_status": {}}`, which asks for the
    end of the task that runs, and forgets an earlier failure and what the agent has said so far. The others are of
    later releases."""
    action, given = await the_action(call)
    act = _ACTIONS.get(action)
    if act is None:
        raise bad_request(f"Action {action[:255]!r} is not known.")
    return await act(call, action, given)


async def the_action(call: Call) -> tuple[str, Any]:
    """The one key of the body, and its value."""
    body = (await call.body(Action)).model_extra or {}
    if len(body) != 1:
        raise bad_request("Exactly one action is expected.")
    ((action, given),) = body.items()
    return action, given


def arguments(model: type[_MODEL], action: str, given: Any) -> _MODEL:
    """Of an action; null is as good as none. 400 if they are not what the model says."""
    try:
        return model.model_validate({} if given is None else given)
    except ValidationError as error:
        raise bad_request(f"Validation error: {explain(error, action)}") from None


async def file_task(
    call: Call, row: asyncpg.Record, kind: str, within: timedelta, args: dict[str, Any] | None = None,
    adds: tuple[str, ...] = (),
) -> Response:
    """422 while another task runs. `adds`: to the use of which resources; 413 if that is too much."""
    wanted = filing.new(call, row, kind, within=within, lifecycle=True, args=args or {})
    try:
        async with call.api.db.begin() as session:
            if adds:
                await quotas.lock(session, row["project_id"])
            operation = await operations.file(session, wanted, None)
            if adds:
                await quotas.check(session, row["project_id"], call.api.settings, adds)
    except Busy as busy:
        raise filing.in_the_way(row, busy) from None
    await call.api.wakes.wake(row["id"], operation)
    return accepted(operation)


async def _restart(call: Call, action: str, given: Any) -> Response:
    arguments(Nothing, action, given)
    allowed(call.request, "instance:restart")
    row = await instance_rows.load(call)
    filing.need_action(call, row)
    return await file_task(call, row, "restart_instance", RESTART_WITHIN)


async def _reset_status(call: Call, action: str, given: Any) -> Response:
    """Whether what is open can be ended, its plan says: it goes back, or on, and ends either way."""
    wanted = arguments(ResetStatus, action, given)
    allowed(call.request, "instance:reset_status")
    if "force_delete" in wanted.model_fields_set:
        allowed(call.request, "instance:force_delete")
    row = await instance_rows.load(call)
    async with call.api.db.begin() as session:
        await session.execute(_RESET, {"id": row["id"]})
        ending = await operations.request_cancel_of_task(session, row["id"])
    if ending is None:
        return empty()
    await call.api.wakes.wake(row["id"], ending)
    return accepted(ending)


async def _resize(call: Call, action: str, given: Any) -> Response:
    wanted = arguments(Resize, action, given)
    if wanted.volume is not None:
        allowed(call.request, "instance:resize_volume")
        row, most = await instance_rows.load(call), call.api.settings.max_volume_gib
        if wanted.volume.size <= row["volume_gib"]:
            raise bad_request(f"The new volume 'size' must be larger than the current size of {row['volume_gib']} GB.")
        if wanted.volume.size > most:
            raise over_limit(f"Volume 'size' cannot exceed maximum of {most} GB.")
        filing.need_action(call, row)
        return await file_task(
            call, row, "resize_volume", VOLUME_WITHIN, {"volume_gib": wanted.volume.size}, ("volumes",),
        )
    allowed(call.request, "instance:resize_flavor")
    row = await instance_rows.load(call)
    flavor = await call.api.reads.one(_FLAVOR, wanted.flavor_ref, row["flavor_id"], row["version_id"])
    if flavor is None:
        raise bad_request(f"Resource {wanted.flavor_ref} cannot be found.")
    if flavor["id"] == row["flavor_id"]:
        raise bad_request("The new flavor must be another than the current one.")
    if not flavor["goes_with_version"]:
        called = f"datastore {row['datastore']} version {row['version']}"
        raise bad_request(f"Flavor {flavor['id']} is not supported for {called}.")
    await need_flavor(call, flavor["id"])
    filing.need_action(call, row)
    adds = ("ram",) if flavor["larger"] else ()
    return await file_task(call, row, "resize_flavor", FLAVOR_WITHIN, {"flavor": flavor["id"]}, adds)


async def _promote(call: Call, action: str, given: Any) -> Response:
    arguments(Nothing, action, given)
    allowed(call.request, "instance:promote_to_replica_source")
    await instance_rows.load(call)
    raise not_in_this_release("Promoting a replica")


async def _eject(call: Call, action: str, given: Any) -> Response:
    arguments(Nothing, action, given)
    allowed(call.request, "instance:eject_replica_source")
    await instance_rows.load(call)
    raise not_in_this_release("Ejecting a replica source")


_ACTIONS: dict[str, _Act] = {
    "restart": _restart,
    "reset_status": _reset_status,
    "resize": _resize,
    "promote_to_replica_source": _promote,
    "eject_replica_source": _eject,
}
