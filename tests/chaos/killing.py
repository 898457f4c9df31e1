"""kill -9 of the provisioners at a chosen moment."""

from __future__ import annotations

import os
import signal

from support.stack import Stack, run
from support.watching import Watch


class Killer(Watch):
    """Kills all provisioners, once, when an operation enters the given step.

    From outside the container, so that Docker sees a crash and starts them again."""

    def __init__(self, stack: Stack, step: str) -> None:
        super().__init__(stack, step, _kill)

    @property
    def killed(self) -> bool:
        return self.done.wait(1)


def _kill(names: list[str]) -> None:
    for pid in run("docker", "inspect", "-f", "{{.State.Pid}}", *names).split():
        if pid != "0":
            os.kill(int(pid), signal.SIGKILL)
