"""Start a machine that went down by itself. Filed by the keeper, never by a tenant."""

from __future__ import annotations

from datetime import timedelta

from coffer_provisioner.cloud.interface import MachineState
from coffer_provisioner.plan import Done, Job, Outcome, Plan, Wait
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Engine


async def note_last_report(job: Job, to: Reach) -> Outcome:
    """A step of its own: once the machine was started, an old report cannot be told from a new one any more."""
    machine = await to.cloud.find_machine(job.instance)
    if machine is not None and machine.state is MachineState.STOPPED:
        beat = await to.records.heartbeat(job.instance)
        job.context["boot"] = beat["facts"].get("boot", "") if beat else ""
    return Done()


async def ensure_machine_runs(job: Job, to: Reach) -> Outcome:
    machine = await to.cloud.find_machine(job.instance)
    if machine is None:
        raise GiveUp("machine_gone", "the machine is gone; its volume is kept")
    if machine.state is MachineState.ERROR:
        raise GiveUp("machine_failed", machine.fault)
    if machine.state is MachineState.STOPPED:
        await to.cloud.restart_machine(job.instance)
    return Done()


async def wait_reported(job: Job, to: Reach) -> Outcome:
    """A heartbeat of a new agent start that says healthy, or that a command has stopped the database before."""
    beat = await to.records.heartbeat(job.instance)
    if beat is None or beat["engine"] not in {Engine.HEALTHY, Engine.STOPPED}:
        return Wait(1, "waiting for the database")
    fresh = beat["facts"].get("boot", "") != job.context.get("boot") or "boot" not in job.context
    return Done() if fresh else Wait(1, "waiting for the agent")


RECOVER_INSTANCE = Plan(
    "recover_instance",
    steps=(note_last_report, ensure_machine_runs, wait_reported),
    within=timedelta(minutes=10),
    step_limit=timedelta(seconds=180),
)
