"""A command on the guest as a step: what each state and each answer leads to."""

import time
from datetime import timedelta

import pytest

from coffer_provisioner.plan import Done, Job, Wait
from coffer_provisioner.plans.guest_commands import (
    ACCEPT_SECONDS,
    RESEND_SECONDS,
    command_step,
    guest_command,
    on_guest,
)
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp, GuestSilent, TryAgain
from coffer_shared.messages import Accepted, Answer, Failure, Refused


class Stage:
    """One operation's row and one guest."""

    def __init__(self, state="", answer=None, code="", text=""):
        self.row = {"guest_state": state, "guest_code": code, "guest_text": text}
        self.answer = answer
        self.sent, self.noted = [], []

    async def operation(self, operation):
        return dict(self.row)

    async def set_guest_state(self, operation, state):
        self.noted.append((operation, state))

    async def send(self, instance, command, *, within):
        self.sent.append((instance, command, within))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @property
    def reach(self):
        return Reach(
            cloud=None, guests=self, records=self, identities=None, backups=None, storages={}, registry="r",
        )


def job(**more):
    given = {"args": {"a": 1}, "secret_args": {"password": "p"}, "seconds_left": 100.0}
    return Job(id="op", instance="i", project="p", kind="k", context={}, undoing=False, **(given | more))


@pytest.mark.parametrize(("state", "noted"), [("", [("op", "accepted")]), ("accepted", [])])
async def test_an_accepted_command_is_waited_for_and_sent_again(state, noted):
    stage = Stage(state, Accepted())
    outcome = await on_guest(job(), stage.reach, "restart", {"x": 1})
    assert outcome == Wait(RESEND_SECONDS, outcome.why)
    ((instance, command, within),) = stage.sent
    assert (instance, within) == ("i", ACCEPT_SECONDS)
    assert (command.op, command.kind, command.args) == ("op", "restart", {"x": 1})
    assert command.deadline == pytest.approx(time.time() + 100, abs=5)
    assert stage.noted == noted


async def test_a_command_that_is_done_is_not_sent_again():
    stage = Stage("done")
    assert await on_guest(job(), stage.reach, "restart", {}) == Done()
    assert stage.sent == []


@pytest.mark.parametrize(("state", "code", "text", "expected"), [
    ("failed", "volume", "not what was recorded", ("volume", "not what was recorded")),
    ("failed", "", "", ("internal", "")),
    ("cancelled", "", "", ("cancelled", "the guest ended the command")),
])
async def test_what_the_guest_gave_up_is_given_up(state, code, text, expected):
    stage = Stage(state, Accepted(), code, text)
    with pytest.raises(GiveUp) as caught:
        await on_guest(job(), stage.reach, "restart", {})
    assert (caught.value.code, caught.value.text) == expected
    assert stage.sent == []


@pytest.mark.parametrize("code", list(Failure))
async def test_a_refusal_is_final_unless_it_passes(code):
    stage = Stage("", Refused(code=code, text="why"))
    passing = code in {Failure.BUSY, Failure.NOT_READY}
    with pytest.raises(TryAgain if passing else GiveUp, match="why") as caught:
        await on_guest(job(), stage.reach, "restart", {})
    assert passing or caught.value.code == code
    assert stage.noted == []


@pytest.mark.parametrize("answer", [Answer(result=1), GuestSilent("nobody")])
async def test_silence_and_nonsense_are_tried_again(answer):
    stage = Stage("", answer)
    with pytest.raises(TryAgain):
        await on_guest(job(), stage.reach, "restart", {})
    assert stage.noted == []


async def test_a_plan_of_one_command_gives_the_guest_all_its_arguments():
    plan, stage = guest_command("create_users", within=timedelta(seconds=60)), Stage("", Accepted())
    assert (plan.kind, [s.__name__ for s in plan.steps], plan.undo) == ("create_users", ["run_on_guest"], ())
    await plan.steps[0](job(), stage.reach)
    command = stage.sent[0][1]
    assert (command.kind, command.args) == ("create_users", {"a": 1, "password": "p"})


async def test_a_named_step_gives_the_guest_none():
    step, stage = command_step("restart_database", "restart"), Stage("", Accepted())
    assert step.__name__ == "restart_database"
    await step(job(), stage.reach)
    assert (stage.sent[0][1].kind, stage.sent[0][1].args) == ("restart", {})


def test_a_job_does_not_show_its_secrets():
    assert "hunter2" not in repr(job(secret_args={"password": "hunter2"}))
