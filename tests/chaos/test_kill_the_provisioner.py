"""kill -9 of every provisioner as it enters each step of create and delete: the operation still ends, and cleanly."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

import pytest

from coffer_provisioner.plans import PLANS
from support.stack import Stack, eventually, run

pytestmark = pytest.mark.timeout(420)
CREATE = [step.__name__ for step in PLANS["create_instance"].steps]
DELETE = [step.__name__ for step in PLANS["delete_instance"].steps]
SHORT = {"ensure_machine", "prepare_guest", "drop_machine", "drop_volume"}


class Killer:
    """Follows the provisioners' logs and kills them all, once, when an operation enters the given step.

    Killed from outside the container, so that Docker sees a crash and starts them again."""

    def __init__(self, stack: Stack, step: str) -> None:
        only = f"name={stack.name}-provisioner"
        self._names = run("docker", "ps", "--format", "{{.Names}}", "--filter", only).split()
        self._step = step
        self.killed = threading.Event()
        self._following = [
            subprocess.Popen(["docker", "logs", "-f", "--since", "0s", name], stdout=subprocess.PIPE, text=True)
            for name in self._names
        ]
        for process in self._following:
            threading.Thread(target=self._watch, args=(process,), daemon=True).start()

    def _watch(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            if f"-> {self._step}" in line and not self.killed.is_set():
                self.killed.set()
                for pid in run("docker", "inspect", "-f", "{{.State.Pid}}", *self._names).split():
                    if pid != "0":
                        os.kill(int(pid), signal.SIGKILL)

    def close(self) -> None:
        for process in self._following:
            process.terminate()
            process.wait()


def cases(steps: list[str]) -> list[str]:
    full = os.environ.get("DEPTH", "short") == "full"
    return [step for step in steps if full or step in SHORT]


@pytest.mark.parametrize("step", cases(CREATE[1:]))
def test_create_survives(stack: Stack, api, step):
    killer = Killer(stack, step)
    made = api.create("doomed", access={"is_public": True})
    api.until_ready(made, within=240)
    assert killer.killed.wait(1), f"create never entered {step}"
    killer.close()
    api.delete(made)
    ended_cleanly(stack, made)


@pytest.mark.parametrize("step", cases(DELETE[1:]))
def test_delete_survives(stack: Stack, api, step):
    made = api.create("doomed", access={"is_public": True})
    api.until_ready(made)
    killer = Killer(stack, step)
    api.delete(made, within=240)
    assert killer.killed.wait(1), f"delete never entered {step}"
    killer.close()
    ended_cleanly(stack, made)


def ended_cleanly(stack: Stack, instance: str) -> None:
    assert stack.leftovers(instance, shared=False) == []
    if stack.sql("SELECT count(*) FROM instances WHERE project_id = 'demo' AND deleted_at IS NULL") == "0":
        eventually(
            lambda: not stack.leftovers(instance, shared=True), within=180,
            what="the project's network has gone with its last instance, at the latest with the keeper's round",
        )
    states = stack.sql(f"SELECT string_agg(DISTINCT state, ',') FROM operations WHERE instance_id = '{instance}'")
    assert states == "succeeded"
