"""Restart the machine of one instance, which needs no word of its agent: it is the remedy for one that hangs.

A database that was stopped by a command stays stopped.
"""

from __future__ import annotations

from datetime import timedelta

from coffer_provisioner.cloud.interface import MachineState
from coffer_provisioner.plan import Done, Job, Outcome, Plan
from coffer_provisioner.plans.recover_instance import wait_reported
from coffer_provisioner.plans.restart_instance import ensure_machine_runs
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp


async def note_boot(job: Job, to: Reach) -> Outcome:
    """A step of its own: once the machine was restarted, an old report cannot be told from a new one any more."""
    job.context["boot"] = await _boot(job, to)
    return Done()


async def restart_machine(job: Job, to: Reach) -> Outcome:
    machine = await to.cloud.find_machine(job.instance)
    if machine is None:
        raise GiveUp("machine_gone", "the machine is gone; its volume is kept")
    if machine.state is MachineState.ERROR:
        raise GiveUp("machine_failed", machine.fault)
    if machine.state is not MachineState.ACTIVE or await _boot(job, to) == job.context["boot"]:
        await to.cloud.restart_machine(job.instance)
    return Done()


async def _boot(job: Job, to: Reach) -> str:
    beat = await to.records.heartbeat(job.instance)
    return str(beat["facts"].get("boot", "")) if beat else ""


REBOOT_INSTANCE = Plan(
    "reboot_instance",
    steps=(note_boot, restart_machine, wait_reported),
    undo=(ensure_machine_runs,),
    within=timedelta(minutes=10),
    step_limit=timedelta(seconds=180),
)
