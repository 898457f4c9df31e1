"""Restart the database of one instance; the machine stays up."""

from __future__ import annotations

from datetime import timedelta

from coffer_provisioner.cloud.interface import MachineState
from coffer_provisioner.plan import Done, Job, Outcome, Plan
from coffer_provisioner.plans.guest_commands import command_step
from coffer_provisioner.reach import Reach


async def ensure_machine_runs(job: Job, to: Reach) -> Outcome:
    """The undo: a machine that was left stopped is started, and its agent starts the database."""
    machine = await to.cloud.find_machine(job.instance)
    if machine is not None and machine.state is MachineState.STOPPED:
        await to.cloud.restart_machine(job.instance)
    return Done()


RESTART_INSTANCE = Plan(
    "restart_instance",
    steps=(command_step("restart_database", "restart"),),
    undo=(ensure_machine_runs,),
    within=timedelta(minutes=5),
    step_limit=timedelta(seconds=180),
)
