"""Run one command on the guest, to its terminal event. Used as a step by every plan that needs the guest."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from coffer_db.guest_events import TERMINAL
from coffer_provisioner.cloud.interface import MachineState
from coffer_provisioner.plan import Done, Job, Outcome, Plan, Step, Wait
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp, TryAgain
from coffer_shared.messages import Accepted, Cancel, Failure, Refused, Start

ACCEPT_SECONDS = 5.0
"""How long a guest may take to journal a command and say so."""
RESEND_SECONDS = 10.0
"""A command is sent again this often until its terminal event; the same id never runs twice."""
PASSING = frozenset({Failure.BUSY, Failure.NOT_READY})
UNHEARD_SECONDS = 600.0
"""For so long a guest that is needed may be silent, busy or not ready."""
STOP_AGAIN_SECONDS = 5.0
SILENT_SECONDS = 60.0
"""For so long a guest is asked to stop without any answer."""
STOPPING_SECONDS = 300.0
"""For so long it is asked to stop though it answers."""


def guest_command(kind: str, *, within: timedelta) -> Plan:
    """The plan of an operation that is nothing but one guest command of the same name."""

    async def run_on_guest(job: Job, to: Reach) -> Outcome:
        return await on_guest(job, to, kind, {**job.args, **job.secret_args})

    return Plan(kind, steps=(run_on_guest,), within=within)


def command_step(name: str, kind: str) -> Step:
    """A step called `name` that runs the command `kind` without arguments."""

    async def step(job: Job, to: Reach) -> Outcome:
        return await on_guest(job, to, kind, {})

    step.__name__ = name
    return step


async def on_guest(job: Job, to: Reach, kind: str, args: dict[str, Any]) -> Outcome:
    """Look at what the guest last said of this operation; send the command again while it has not ended."""
    said = await last_word(job, to)
    return Done() if said == "done" else await send(job, to, kind, args, said)


async def last_word(job: Job, to: Reach) -> str:
    """What the guest last said of this operation: "" (nothing), accepted or done. GiveUp if that was its failure."""
    operation = await to.records.operation(job.id)
    state: str = operation["guest_state"]
    if state == "failed":
        raise GiveUp(operation["guest_code"] or Failure.INTERNAL, operation["guest_text"])
    if state == "cancelled":
        raise GiveUp(Failure.CANCELLED, "the guest ended the command")
    return state


async def send(job: Job, to: Reach, kind: str, args: dict[str, Any], said: str) -> Outcome:
    """For whose arguments are costly, or must not be made in vain: `on_guest` in two parts. `said`: the last word."""
    command = Start(op=job.id, kind=kind, args=args, deadline=time.time() + job.seconds_left)
    answer = await to.guests.send(job.instance, command, within=ACCEPT_SECONDS)
    if isinstance(answer, Accepted):
        if said != "accepted":
            await to.records.set_guest_state(job.id, "accepted")
        return Wait(RESEND_SECONDS, "the guest works on it")
    if isinstance(answer, Refused) and answer.code not in PASSING:
        raise GiveUp(answer.code, answer.text)
    raise TryAgain(answer.text if isinstance(answer, Refused) else "the guest gave an unexpected answer")


async def send_while_it_can(
    job: Job, to: Reach, kind: str, args: Callable[[], Awaitable[dict[str, Any]]], said: str,
) -> Outcome:
    """As `send`, for what keeps everything else from the instance: see `give_up_if_it_cannot_go_on`, which what `args`
    waits for counts for, too."""
    try:
        outcome = await send(job, to, kind, await args(), said)
    except TryAgain as why:
        await give_up_if_it_cannot_go_on(job, to, str(why))
        raise
    job.context.pop("unheard_since", None)
    return outcome


async def give_up_if_it_cannot_go_on(job: Job, to: Reach, why: str) -> None:
    """For what keeps everything else from the instance, and so must not wait for what may never be."""
    if not await machine_runs(job, to):
        raise GiveUp("machine_down", "the machine went down")
    if passed(job, "unheard_since", UNHEARD_SECONDS):
        raise GiveUp("guest_silent", f"the guest has not gone on for long: {why}")


async def stop(job: Job, to: Reach) -> Outcome:
    """Part of an undo: Done when the guest has ended the command, or as good as: it cannot be heard, or goes on too
    long."""
    if (await to.records.operation(job.id))["guest_state"] in TERMINAL:
        return Done()
    if passed(job, "stopping_since", STOPPING_SECONDS):
        return Done()
    try:
        answer = await to.guests.send(job.instance, Cancel(op=job.id), within=ACCEPT_SECONDS)
    except TryAgain:
        silent_for_long = passed(job, "silent_since", SILENT_SECONDS)
        if silent_for_long or not await machine_runs(job, to):
            return Done()
        return Wait(STOP_AGAIN_SECONDS, "the guest does not answer")
    job.context.pop("silent_since", None)
    if isinstance(answer, Refused) and answer.code == Failure.NOT_FOUND:
        return Done()
    return Wait(STOP_AGAIN_SECONDS, "the guest is stopping")


async def machine_runs(job: Job, to: Reach) -> bool:
    machine = await to.cloud.find_machine(job.instance)
    return machine is not None and machine.state is MachineState.ACTIVE


def passed(job: Job, since: str, seconds: float) -> bool:
    """Whether so much time has passed since this was first asked."""
    first: float = job.context.setdefault(since, time.time())
    return time.time() - first >= seconds
