"""Stop the database of one instance; the machine stays up, and its agent keeps the database stopped until a restart.

There is no undo: an agent that cannot stop it, or not in time, goes on running it.
"""

from __future__ import annotations

from datetime import timedelta

from coffer_provisioner.plan import Done, Job, Outcome, Plan, Wait
from coffer_provisioner.plans.guest_commands import command_step
from coffer_provisioner.reach import Reach
from coffer_shared.messages import Engine


async def wait_stopped(job: Job, to: Reach) -> Outcome:
    beat = await to.records.heartbeat(job.instance)
    stopped = beat is not None and beat["engine"] == Engine.STOPPED
    return Done() if stopped else Wait(1, "waiting for the report that it is stopped")


STOP_INSTANCE = Plan(
    "stop_instance",
    steps=(command_step("stop_database", "stop"), wait_stopped),
    within=timedelta(minutes=5),
    step_limit=timedelta(seconds=180),
)
