"""What an administrator does to any project's instance: stop, reboot, rebuild, and the end of a task that is stuck."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pydantic import BaseModel
from starlette.responses import Response

from coffer_api import instance_rows
from coffer_api.bodies import Action, Migrate, Nothing, Rebuild
from coffer_api.call import Call, Routes, empty
from coffer_api.filing import accepted
from coffer_api.identity import MANAGEMENT
from coffer_api.instance_actions import arguments, file_task, the_action
from coffer_api.problems import bad_request, not_in_this_release
from coffer_db import operations

ROUTES = Routes("management")
_ARGUMENTS: Mapping[str, type[BaseModel]] = {
    "stop": Nothing, "reboot": Nothing, "reset-task-status": Nothing, "migrate": Migrate, "rebuild": Rebuild,
}
_TASKS: Mapping[str, tuple[str, timedelta]] = {
    "stop": ("stop_instance", timedelta(minutes=5)),
    "reboot": ("reboot_instance", timedelta(minutes=10)),
    "rebuild": ("rebuild_instance", timedelta(minutes=20)),
}


@ROUTES.add(
    "POST", "/mgmt/instances/{id}/action", rule=MANAGEMENT, body=Action, status=202, errors=(422, 501),
    name="manage_instance",
)
async def act_as_administrator(call: Call) -> Response:
    """`{"stop": {}}`: the database, until a restart. `{"reboot": {}}`: the machine. `{"rebuild": {"image_id": ...}}`: a
    new machine around the data, always from the image that the installation uses now; the id is noted only. All in any
    state, but not while another task runs (422). `{"reset-task-status": {}}`: asks for the end of the task that
    runs."""
    action, given = await the_action(call)
    if action not in _ARGUMENTS:
        raise bad_request(f"Invalid instance action: {action[:255]}")
    args = arguments(_ARGUMENTS[action], action, given).model_dump()
    row = await instance_rows.load(call, call.part(2))
    if action in _TASKS:
        return await file_task(call, row, *_TASKS[action], args)
    if action != "reset-task-status":
        raise not_in_this_release(f"The action {action}")
    async with call.api.db.begin() as session:
        ending = await operations.request_cancel_of_task(session, row["id"])
    if ending is None:
        return empty()
    await call.api.wakes.wake(row["id"], ending)
    return accepted(ending)
