"""A toy cloud, a plan that uses it, and a way to die at every point."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from sqlalchemy import event

from coffer_db.database import Database
from coffer_db.operations import NOW
from coffer_db.tables import OperationState
from coffer_provisioner.plan import Done, Job, Outcome, Plan, Wait
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp, TryAgain

REACH = cast("Reach", None)


class Killed(BaseException):
    """What kill -9 is to a test: nothing of the process runs after it."""


class Death:
    """Strikes at the n-th point, and from then on at every one."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.points = 0

    def point(self, *_: Any) -> None:
        self.points += 1
        if self.at is not None and self.points >= self.at:
            raise Killed

    def haunt(self, db: Database) -> None:
        """Points before and after each statement."""
        event.listen(db._engine.sync_engine, "before_cursor_execute", self.point)
        event.listen(db._engine.sync_engine, "after_cursor_execute", self.point)


class World:
    """Holds volumes and machines by owner; a second one of the same owner is the bug that is looked for."""

    def __init__(self, death: Death, fault: str = "", *, wait: float = 0.0) -> None:
        self.death = death
        self.fault = fault
        self.there: list[tuple[str, str]] = []
        self.wait = wait
        self.faulted = False

    def make(self, what: str, owner: str) -> None:
        self.death.point()
        self.there.append((what, owner))
        self.death.point()

    def drop(self, what: str, owner: str) -> None:
        self.death.point()
        self.there.remove((what, owner))
        self.death.point()

    def plan(self) -> Plan:
        async def ensure_volume(job: Job, to: Reach) -> Outcome:
            if ("volume", job.instance) not in self.there:
                self.make("volume", job.instance)
                job.context["made"] = job.context.get("made", 0) + 1
            return Done()

        async def ensure_machine(job: Job, to: Reach) -> Outcome:
            if self.fault == "machine":
                raise GiveUp("no_capacity", "there is no room")
            if self.fault == "passing" and not self.faulted:
                self.faulted = True
                raise TryAgain("busy")
            if ("machine", job.instance) not in self.there:
                self.make("machine", job.instance)
                return Wait(self.wait, "it boots")
            return Done()

        async def prepare(job: Job, to: Reach) -> Outcome:
            self.death.point()
            if self.fault == "prepare":
                raise GiveUp("engine", "it does not start")
            assert job.secret_args == {"password": "s3cret"}
            return Done()

        async def drop_machine(job: Job, to: Reach) -> Outcome:
            if ("machine", job.instance) in self.there:
                self.drop("machine", job.instance)
                return Wait(self.wait)
            return Done()

        async def drop_volume(job: Job, to: Reach) -> Outcome:
            if ("volume", job.instance) in self.there:
                self.drop("volume", job.instance)
            return Done()

        return Plan(
            "toy", steps=(ensure_volume, ensure_machine, prepare), undo=(drop_machine, drop_volume),
            within=timedelta(minutes=5), cancellable=True,
        )


def ending(job: Job, state: OperationState) -> dict[str, Any]:
    if state == OperationState.SUCCEEDED:
        return {"failed": False, "server_id": "m"}
    return {"failed": True, "fault_message": job.failure_code, "fault_at": NOW}
