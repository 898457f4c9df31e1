"""Every way in which a turn can come out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest
import structlog.testing

from coffer_db.operations import Claimed, Saved, Turned
from coffer_db.tables import OperationState
from coffer_provisioner.plan import Done, Job, Outcome, Plan, Wait
from coffer_provisioner.reach import Reach
from coffer_provisioner.turn import LONGEST_PAUSE, job_of, try_later, turn, unknown_kind
from coffer_shared.errors import CofferError, GiveUp, GuestSilent, Refused, TryAgain

REACH = cast("Reach", None)
ANSWERS: dict[str, Callable[[Job], Outcome]] = {}


async def first(job: Job, to: Reach) -> Outcome:
    return ANSWERS["first"](job)


async def second(job: Job, to: Reach) -> Outcome:
    return ANSWERS["second"](job)


async def back(job: Job, to: Reach) -> Outcome:
    return ANSWERS["back"](job)


PLAN = Plan("toy", steps=(first, second), undo=(back, first), cancellable=True)


@pytest.fixture(autouse=True)
def answers() -> None:
    ANSWERS.update(first=lambda _: Done(), second=lambda _: Done(), back=lambda _: Done())


def fails(why: BaseException) -> Callable[[Job], Outcome]:
    def answer(job: Job) -> Outcome:
        raise why

    return answer


def claimed(**more: Any) -> Claimed:
    new: dict[str, Any] = {
        "id": "o", "token": "t", "instance_id": "i", "project_id": "p", "user_id": "u", "request_id": "r", "trace": "",
        "kind": "toy", "args": {}, "secret_args": None, "state": OperationState.RUNNING, "step": "", "progress": 0,
        "attempts": 0, "context": {}, "failure_code": None, "failure_text": None, "failure_step": None,
        "cancel_requested": False, "seconds_left": 600.0,
    }
    return Claimed(**new | more)


UNDOING: dict[str, Any] = {
    "state": OperationState.UNDOING, "step": "back", "failure_code": "no", "failure_text": "why",
    "failure_step": "second",
}


async def once(plan: Plan = PLAN, **more: Any) -> Turned:
    now = claimed(**more)
    return await turn(now, job_of(now, {}), plan, REACH)


async def test_it_begins_with_the_first_step_and_goes_on() -> None:
    came = await once()
    assert (came.state, came.step, came.goes_on, came.progress) == (OperationState.RUNNING, "second", True, 50)


async def test_the_last_step_ends_it() -> None:
    came = await once(step="second")
    assert (came.state, came.progress, came.finished, came.goes_on) == (OperationState.SUCCEEDED, 100, True, False)


async def test_waiting_stays_at_the_step_and_forgets_failures() -> None:
    ANSWERS["second"] = lambda _: Wait(7, "for the machine")
    came = await once(step="second", attempts=4)
    assert (came.state, came.step, came.wait, came.attempts, came.progress_text) == (
        OperationState.WAITING, "second", 7, 0, "for the machine")


async def test_waiting_ends_at_the_deadline() -> None:
    ANSWERS["first"] = lambda _: Wait(100)
    assert (await once(seconds_left=3.0)).wait == 3.0
    assert (await once(replace(PLAN, keep_trying=True), seconds_left=3.0)).wait == 100


async def test_what_steps_remember_is_saved_and_the_claim_is_untouched() -> None:
    def remember(job: Job) -> Outcome:
        job.context["ids"].append(2)
        raise TryAgain("later")

    ANSWERS["first"] = remember
    now = claimed(context={"ids": [1]})
    came = await turn(now, job_of(now, {}), PLAN, REACH)
    assert (came.context, now.context) == ({"ids": [1, 2]}, {"ids": [1]})


@pytest.mark.parametrize("why", [GiveUp("no", "why"), Refused("no", "why")], ids=repr)
async def test_giving_up_turns_back_with_the_failure_recorded(why: CofferError) -> None:
    ANSWERS["second"] = fails(why)
    came = await once(step="second", attempts=3)
    assert (came.state, came.step, came.goes_on, came.attempts) == (OperationState.UNDOING, "back", True, 0)
    assert (came.failure_code, came.failure_text, came.failure_step) == ("no", "why", "second")
    assert came.new_deadline == PLAN.within


async def test_giving_up_without_an_undo_is_the_end() -> None:
    ANSWERS["first"] = fails(GiveUp("no", "why"))
    came = await once(replace(PLAN, undo=()))
    assert (came.state, came.failure_code, came.failure_step) == (OperationState.FAILED, "no", "first")


@pytest.mark.parametrize(("why", "said"), [
    (TryAgain("the cloud is busy"), "the cloud is busy"), (GuestSilent("silent"), "silent"),
    (TimeoutError(), "took too long"), (KeyError("s3cret"), "an internal error; it will be tried again"),
], ids=repr)
async def test_what_may_pass_is_tried_again(why: Exception, said: str) -> None:
    ANSWERS["second"] = fails(why)
    came = await once(step="second", attempts=1)
    assert (came.state, came.step, came.attempts, came.progress_text) == (OperationState.WAITING, "second", 2, said)
    assert 0.5 <= came.wait <= 1.0
    assert came.failure_code is None


async def test_an_unexpected_failure_is_logged_with_its_traceback() -> None:
    ANSWERS["first"] = fails(ZeroDivisionError("x"))
    with structlog.testing.capture_logs() as lines:
        await once()
    assert [(e["log_level"], e.get("exc_info")) for e in lines] == [("error", True)]


async def test_pauses_grow_to_their_limit_and_differ() -> None:
    now = claimed(step="first")
    job = job_of(now, {})
    for attempts, limit in ((0, 0.5), (3, 4.0), (6, LONGEST_PAUSE), (10**6, LONGEST_PAUSE)):
        waits = [try_later(replace(now, attempts=attempts), job, PLAN, TryAgain("")).wait for _ in range(50)]
        assert limit / 2 <= min(waits) < max(waits) <= limit


async def test_a_step_that_takes_too_long_is_ended_and_tried_again() -> None:
    ended = []

    async def slow(job: Job, to: Reach) -> Outcome:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ended.append(True)
            raise
        return Done()

    came = await once(Plan("toy", steps=(slow,), step_limit=timedelta(milliseconds=1)))
    assert (came.state, came.attempts, ended) == (OperationState.WAITING, 1, [True])


async def test_being_cancelled_from_outside_passes_through() -> None:
    ANSWERS["first"] = fails(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await once()


async def test_the_deadline_turns_back_naming_the_step() -> None:
    ANSWERS["second"] = fails(AssertionError("must not run"))
    came = await once(step="second", seconds_left=-0.1)
    assert (came.state, came.failure_code, came.failure_step) == (OperationState.UNDOING, "deadline", "second")
    assert "second" in (came.failure_text or "")


async def test_what_keeps_trying_goes_on_past_its_deadline_and_says_so() -> None:
    with structlog.testing.capture_logs() as lines:
        came = await once(replace(PLAN, keep_trying=True), seconds_left=-5)
    assert (came.state, came.step) == (OperationState.RUNNING, "second")
    assert lines[0]["log_level"] == "error"


async def test_a_cancellation_turns_back_and_ends_cancelled() -> None:
    came = await once(step="second", cancel_requested=True)
    assert (came.state, came.step, came.failure_code, came.failure_step) == (
        OperationState.UNDOING, "back", "cancelled", "second")
    now = claimed(step="second", cancel_requested=True).after(came, Saved(cancel_requested=True, seconds_left=9))
    came = await turn(now, job_of(now, {}), PLAN, REACH)
    now = now.after(came, Saved(cancel_requested=True, seconds_left=9))
    assert (await turn(now, job_of(now, {}), PLAN, REACH)).state == OperationState.CANCELLED
    assert (await once(replace(PLAN, undo=()), cancel_requested=True)).state == OperationState.CANCELLED


async def test_a_plan_that_cannot_be_cancelled_goes_on() -> None:
    assert (await once(replace(PLAN, cancellable=False), cancel_requested=True)).state == OperationState.RUNNING


async def test_a_cancellation_after_the_failure_does_not_hide_it() -> None:
    came = await once(**UNDOING | {"step": "first", "cancel_requested": True})
    assert came.state == OperationState.FAILED


async def test_a_guest_that_reports_cancelled_unasked_is_a_failure() -> None:
    assert (await once(**UNDOING | {"step": "first", "failure_code": "cancelled"})).state == OperationState.FAILED


async def test_the_undo_runs_its_own_row_and_ends_failed() -> None:
    came = await once(**UNDOING)
    assert (came.state, came.step, came.goes_on, came.failure_code) == (OperationState.UNDOING, "first", True, None)
    came = await once(**UNDOING | {"step": "first"})
    assert (came.state, came.finished, came.failure_code) == (OperationState.FAILED, True, None)


async def test_undo_steps_see_the_failure_and_may_wait() -> None:
    seen = []

    def look(job: Job) -> Outcome:
        seen.append((job.undoing, job.failure_code, job.failure_text))
        return Wait(50)

    ANSWERS["back"] = look
    came = await once(**UNDOING | {"seconds_left": 3.0})
    assert (came.state, came.wait, seen) == (OperationState.UNDOING, 50, [(True, "no", "why")])


@pytest.mark.parametrize("why", [GiveUp("x", "y"), TryAgain("z"), KeyError("k")], ids=repr)
async def test_the_undo_never_gives_up_never_runs_hot_and_never_is_silent(why: Exception) -> None:
    ANSWERS["back"] = fails(why)
    with structlog.testing.capture_logs() as lines:
        came = await once(**UNDOING | {"attempts": 20, "seconds_left": -100})
    assert (came.state, came.step, came.attempts) == (OperationState.UNDOING, "back", 21)
    assert came.wait >= LONGEST_PAUSE / 2
    assert came.failure_code is None
    assert lines
    assert lines[0]["log_level"] == "error"


async def test_a_step_that_this_release_does_not_have_is_tried_again_until_the_deadline() -> None:
    came = await once(step="renamed")
    assert (came.state, came.step, came.attempts) == (OperationState.WAITING, "renamed", 1)
    assert (await once(step="renamed", seconds_left=0)).failure_code == "deadline"
    assert (await once(step="back")).state == OperationState.WAITING


@pytest.mark.parametrize("bad", [{"x": object()}, {"x": float("nan")}, {"x": "\0"}, {"x": {1, 2}}], ids=repr)
async def test_a_context_that_no_row_can_hold_is_a_failure_of_the_step(bad: dict[str, Any]) -> None:
    def remember(job: Job) -> Outcome:
        job.context.update(bad)
        return Done()

    ANSWERS["first"] = remember
    came = await once(context={"kept": 1})
    assert (came.state, came.attempts, came.context) == (OperationState.WAITING, 1, {"kept": 1})


async def test_texts_fit_into_the_row() -> None:
    ANSWERS["first"] = fails(GiveUp("no", "a\0\ud800" * 9000))
    text = (await once()).failure_text or ""
    assert (len(text), "\0" in text) == (2000, False)
    assert text.encode()


def test_an_unknown_kind_waits_for_another_release_until_its_deadline() -> None:
    assert unknown_kind(claimed()).state == OperationState.WAITING
    assert unknown_kind(claimed(**UNDOING)).state == OperationState.UNDOING
    late = unknown_kind(claimed(seconds_left=-1))
    assert (late.state, late.failure_code) == (OperationState.FAILED, "unknown_kind")
