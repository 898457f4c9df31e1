"""One-shot containers in memory, and what the programs in them do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from coffer_guest.container import Seen
from coffer_shared import backups
from coffer_shared.backups import Grant, Job, Outcome
from coffer_shared.datastore import ContainerSpec
from unit.guest.orders import BACKED_UP


@dataclass
class Shot:
    """A one-shot container and the program in it, which does one thing each time that it is looked at."""

    role: str
    operation: str
    spec: ContainerSpec
    job: Path
    seen: Seen = field(default_factory=lambda: Seen(exists=True, status="created"))
    steps: list[Callable[[Shot], None]] = field(default_factory=list)

    def write(self, name: str, value: msgspec.Struct) -> None:
        (self.job / name).write_bytes(msgspec.json.encode(value))

    def read_job(self) -> Job:
        return msgspec.json.decode((self.job / backups.JOB).read_bytes(), type=Job)

    def read_grant(self) -> Grant:
        return msgspec.json.decode((self.job / backups.GRANT).read_bytes(), type=Grant)

    def end(self, code: int = 0, *, out_of_memory: bool = False) -> None:
        self.seen = replace(
            self.seen, running=False, status="exited", exit_code=code, out_of_memory=out_of_memory
        )

    def go_on(self) -> None:
        if self.seen.running and self.steps:
            self.steps.pop(0)(self)


def half_done(shot: Shot) -> None:
    shot.write(backups.PROGRESS, backups.Progress(1_000_000, 3_000_000, 500_000, "reading"))
    if shot.role == "restore":
        target = Path(shot.read_job().target)
        (target / "part").write_text("1")


def all_done(shot: Shot) -> None:
    if shot.role == "restore":
        (Path(shot.read_job().target) / "whole").write_text("2")
        shot.write(backups.OUTCOME, Outcome(restored_bytes=3_000_000))
    else:
        shot.write(backups.OUTCOME, Outcome(backed_up=BACKED_UP))
    shot.end()


def nothing_done(shot: Shot) -> None:
    pass
