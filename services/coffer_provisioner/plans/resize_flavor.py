"""Give one instance another flavor: its machine another size, and its database the memory of that.

The engine never has more than the machine: to shrink, it is made smaller first, to grow, it is made larger last. A
cloud that restarts the machine for it stops the database in the agent's own shutdown, and the agent starts it again.
The row says the old flavor until the cloud has given up the way back.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta

from coffer_provisioner.cloud.interface import CloudRefused, MachineState, Size
from coffer_provisioner.plan import Done, Job, Outcome, Plan, Wait
from coffer_provisioner.plans.create_instance import MIB, size_of, tags
from coffer_provisioner.plans.guest_commands import ACCEPT_SECONDS, on_guest
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp, TryAgain
from coffer_shared.messages import Cancel, Engine

_UP = frozenset({Engine.HEALTHY, Engine.STOPPED})
"""Stopped by a command, which it then stays."""


async def note_sizes(job: Job, to: Reach) -> Outcome:
    """A step of its own: later nothing tells any more what it was, and an old report from a new one."""
    machine = await to.cloud.find_machine(job.instance)
    if machine is None or machine.state is not MachineState.ACTIVE:
        raise GiveUp("machine_down", "the machine does not run")
    row, beat = await to.records.instance(job.instance), await to.records.heartbeat(job.instance)
    wanted = size_of(job.args["flavor"], await to.records.flavor(job.args["flavor"]))
    job.context |= {
        "before": asdict(size_of(row["flavor_id"], row)), "wanted": asdict(wanted),
        "boot": beat["facts"].get("boot", "") if beat else "",
    }
    return Done()


async def shrink_engine(job: Job, to: Reach) -> Outcome:
    return await _fit(job, to, _wanted(job)) if _shrinks(job) else Done()


async def resize_machine(job: Job, to: Reach) -> Outcome:
    machine = await to.cloud.resize_machine(tags(job), _wanted(job))
    if machine.state is MachineState.ERROR:
        raise GiveUp("machine_failed", machine.fault)
    if machine.state is not MachineState.ACTIVE:
        return Wait(2, "the machine is being resized")
    beat = await to.records.heartbeat(job.instance)
    job.context |= {"restarted": machine.unconfirmed, "heard": str(beat["received_at"]) if beat else ""}
    return Done()


async def wait_back(job: Job, to: Reach) -> Outcome:
    """For a report from within the new size: of a new start of the agent, if the machine was restarted."""
    beat = await to.records.heartbeat(job.instance)
    if beat is None or beat["engine"] not in _UP:
        return Wait(1, "waiting for the database")
    if job.context["restarted"]:
        fresh = beat["facts"].get("boot", "") != job.context["boot"]
    else:
        fresh = str(beat["received_at"]) != job.context["heard"]
    return Done() if fresh else Wait(1, "waiting for the agent")


async def grow_engine(job: Job, to: Reach) -> Outcome:
    return Done() if _shrinks(job) else await _fit(job, to, _wanted(job))


async def confirm_resize(job: Job, to: Reach) -> Outcome:
    machine = await to.cloud.confirm_resize(job.instance)
    return Wait(1, "the cloud gives up the way back") if machine.unconfirmed else Done()


async def record_flavor(job: Job, to: Reach) -> Outcome:
    await to.records.set_instance(job.instance, flavor_id=job.args["flavor"])
    return Done()


async def stop_guest(job: Job, to: Reach) -> Outcome:
    """One that works on it goes back by itself. One that does not hear this is told what the row says, later."""
    with suppress(TryAgain):
        await to.guests.send(job.instance, Cancel(op=job.id), within=ACCEPT_SECONDS)
    return Done()


async def revert_machine(job: Job, to: Reach) -> Outcome:
    """What the cloud does not take back is for people, who find the instance in ERROR."""
    if "before" not in job.context:
        return Done()
    try:
        machine = await to.cloud.revert_resize(tags(job), Size(**job.context["before"]))
    except CloudRefused as why:
        job.context["broken"] = why.text
        return Done()
    if machine.state is MachineState.ERROR:
        job.context["broken"] = machine.fault
        return Done()
    if machine.state is MachineState.STOPPED:
        await to.cloud.restart_machine(job.instance)
    elif machine.unconfirmed:
        await to.cloud.confirm_resize(job.instance)
    elif machine.state is MachineState.ACTIVE:
        return Done()
    return Wait(2, "the machine is given its former size")


async def restore_flavor(job: Job, to: Reach) -> Outcome:
    if "before" in job.context:
        await to.records.set_instance(job.instance, flavor_id=job.context["before"]["flavor"])
    return Done()


async def settle_engine(job: Job, to: Reach) -> Outcome:
    """In an operation of its own, because a guest runs one command for each. It has nothing to do where the engine has
    that size already."""
    if "before" in job.context:
        await to.records.file_after(job.id, FIT_ENGINE.kind, within=FIT_ENGINE.within)
    return Done()


async def fit_engine(job: Job, to: Reach) -> Outcome:
    row = await to.records.instance(job.instance)
    return await _fit(job, to, size_of(row["flavor_id"], row))


async def _fit(job: Job, to: Reach, size: Size) -> Outcome:
    return await on_guest(job, to, "resize", {"memory_bytes": size.memory_mb * MIB, "vcpus": size.vcpus})


def _wanted(job: Job) -> Size:
    return Size(**job.context["wanted"])


def _shrinks(job: Job) -> bool:
    smaller: bool = job.context["wanted"]["memory_mb"] < job.context["before"]["memory_mb"]
    return smaller


RESIZE_FLAVOR = Plan(
    "resize_flavor",
    steps=(note_sizes, shrink_engine, resize_machine, wait_back, grow_engine, confirm_resize, record_flavor),
    undo=(stop_guest, revert_machine, restore_flavor, settle_engine),
    within=timedelta(minutes=20),
    step_limit=timedelta(seconds=180),
    cancellable=True,
)

FIT_ENGINE = Plan("fit_engine", steps=(fit_engine,), within=timedelta(minutes=10))
"""The database gets the memory of the flavor that the row says. Filed by the undo of a resize."""
