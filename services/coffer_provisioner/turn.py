"""One turn: run an operation's current step once, and say what it came to.

Nothing here touches the database; what the result means for the row is in `coffer_db.operations.save`. A turn ends in
one of five ways: the next step, the same step later, the way back, the end, or (for whoever was killed) not at all.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from coffer_db.operations import Claimed, Turned
from coffer_db.tables import OperationState
from coffer_provisioner.plan import CANCELLED, Job, Outcome, Plan, Step, Wait
from coffer_provisioner.reach import Reach
from coffer_shared import log
from coffer_shared.errors import CofferError, GiveUp, Refused, TryAgain

_log = log.get(__name__)

LONGEST_PAUSE = 30.0
MOST_TEXT = 2_000
DEADLINE = "deadline"
UNKNOWN_KIND = "unknown_kind"


def job_of(claimed: Claimed, secret_args: dict[str, Any]) -> Job:
    """What the steps of one turn are given. The context is a copy: it counts only once it is saved."""
    return Job(
        id=claimed.id,
        instance=claimed.instance_id,
        project=claimed.project_id,
        kind=claimed.kind,
        args=claimed.args,
        secret_args=secret_args,
        context=_copied(claimed.context),
        undoing=claimed.undoing,
        seconds_left=claimed.seconds_left,
        failure_code=claimed.failure_code or "",
        failure_text=claimed.failure_text or "",
    )


async def turn(claimed: Claimed, job: Job, plan: Plan, to: Reach) -> Turned:
    """Run the current step (the first, if none is named). Never raises but when cancelled."""
    name = claimed.step or _row(plan, undoing=claimed.undoing)[0].__name__
    if not claimed.undoing:
        if claimed.cancel_requested and plan.cancellable:
            return _give_up(claimed, job, plan, name, CANCELLED, "cancelled on request")
        if claimed.seconds_left <= 0 and not plan.keep_trying:
            return _give_up(claimed, job, plan, name, DEADLINE, f"the deadline passed at step {name}")
    if claimed.seconds_left <= 0:
        _log.error("past its deadline and still trying", step=name, undoing=claimed.undoing)
    try:
        async with asyncio.timeout(plan.step_limit.total_seconds()):
            outcome = await _step(plan, name, undoing=claimed.undoing)(job, to)
        context = _copied(job.context)
    except (GiveUp, Refused) as why:
        if not claimed.undoing:
            return _give_up(claimed, job, plan, name, why.code, why.text)
        _log.error("a step of the undo gives up; it is tried again", step=name, code=why.code, why=why.text)
        return try_later(claimed, job, plan, why)
    except (TryAgain, TimeoutError) as why:
        return try_later(claimed, job, plan, why)
    except Exception as why:  # noqa: BLE001 - a bug in a step ends neither the loop nor, before its deadline, the operation
        _log.exception("a step failed unexpectedly", step=name, attempts=claimed.attempts + 1)
        return try_later(claimed, job, plan, why)
    return _came_out(claimed, plan, name, outcome, context)


def try_later(claimed: Claimed, job: Job, plan: Plan, why: BaseException) -> Turned:
    """The same step again after a pause that grows with its consecutive failures."""
    attempts = claimed.attempts + 1
    pause = min(LONGEST_PAUSE, 0.5 * 2 ** min(attempts - 1, 16)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
    if isinstance(why, CofferError):
        text = str(why)
    else:
        text = "took too long" if isinstance(why, TimeoutError) else "an internal error; it will be tried again"
    return Turned(
        state=OperationState.UNDOING if claimed.undoing else OperationState.WAITING,
        step=claimed.step or _row(plan, undoing=claimed.undoing)[0].__name__,
        context=_copied_or(job.context, claimed.context),
        progress_text=_text(text),
        attempts=attempts,
        wait=_no_later_than_deadline(pause, claimed, plan),
    )


def unknown_kind(claimed: Claimed) -> Turned:
    """No plan for it here: another worker, of another release, may have one. The deadline ends that."""
    if claimed.seconds_left > 0:
        state = OperationState.UNDOING if claimed.undoing else OperationState.WAITING
        return Turned(
            state=state, step=claimed.step, context=claimed.context, attempts=claimed.attempts + 1, wait=5.0,
            progress_text="no worker knows this kind of operation yet",
        )
    return Turned(
        state=OperationState.FAILED, step=claimed.step, context=claimed.context,
        failure_code=claimed.failure_code or UNKNOWN_KIND, failure_step=claimed.failure_step or claimed.step,
        failure_text=claimed.failure_text or "no worker knows this kind of operation",
    )


def _came_out(claimed: Claimed, plan: Plan, name: str, outcome: Outcome, context: dict[str, Any]) -> Turned:
    working = OperationState.UNDOING if claimed.undoing else OperationState.RUNNING
    if isinstance(outcome, Wait):
        waiting = OperationState.UNDOING if claimed.undoing else OperationState.WAITING
        return Turned(
            state=waiting, step=name, context=context, progress_text=_text(outcome.why),
            wait=_no_later_than_deadline(outcome.seconds, claimed, plan),
        )
    row = [step.__name__ for step in _row(plan, undoing=claimed.undoing)]
    place = row.index(name) + 1
    if place < len(row):
        progress = 0 if claimed.undoing else min(99, 100 * place // len(row))
        return Turned(state=working, step=row[place], context=context, progress=progress, goes_on=True)
    if not claimed.undoing:
        return Turned(state=OperationState.SUCCEEDED, step=name, context=context, progress=100)
    return Turned(state=_end_of_undo(claimed, claimed.failure_code), step=name, context=context)


def _give_up(claimed: Claimed, job: Job, plan: Plan, name: str, code: str, text: str) -> Turned:
    """Record the failure and turn back; without an undo that is the end."""
    context = _copied_or(job.context, claimed.context)
    if not plan.undo:
        return Turned(
            state=_end_of_undo(claimed, code), step=name, context=context,
            failure_code=code, failure_text=_text(text), failure_step=name,
        )
    return Turned(
        state=OperationState.UNDOING, step=plan.undo[0].__name__, context=context, goes_on=True,
        failure_code=code, failure_text=_text(text), failure_step=name, new_deadline=plan.within,
    )


def _end_of_undo(claimed: Claimed, code: str | None) -> OperationState:
    asked_for = claimed.cancel_requested and code == CANCELLED
    return OperationState.CANCELLED if asked_for else OperationState.FAILED


def _row(plan: Plan, *, undoing: bool) -> tuple[Step, ...]:
    return plan.undo if undoing else plan.steps


def _step(plan: Plan, name: str, *, undoing: bool) -> Step:
    """Looked for among the steps of this direction only, since a step may stand in both."""
    for step in _row(plan, undoing=undoing):
        if step.__name__ == name:
            return step
    raise LookupError(f"plan {plan.kind} has no step {name}")


def _no_later_than_deadline(seconds: float, claimed: Claimed, plan: Plan) -> float:
    if claimed.undoing or plan.keep_trying or claimed.seconds_left <= 0:
        return seconds
    return min(seconds, claimed.seconds_left)


def _copied(context: dict[str, Any]) -> dict[str, Any]:
    """A copy, as plain as the row can hold; TypeError or ValueError where it is not plain."""
    text = json.dumps(context, allow_nan=False)
    if "\\u0000" in text:
        raise ValueError("a NUL character in the context")
    copy: dict[str, Any] = json.loads(text)
    return copy


def _copied_or(context: dict[str, Any], otherwise: dict[str, Any]) -> dict[str, Any]:
    try:
        return _copied(context)
    except (TypeError, ValueError):
        return otherwise


def _text(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:MOST_TEXT]
