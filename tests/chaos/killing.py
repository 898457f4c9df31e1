"""kill -9 of the provisioners at a chosen moment."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

from support.stack import Stack, run


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
