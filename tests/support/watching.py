"""Doing something at the moment when an operation enters a step, as the provisioners' logs tell it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable

from support.stack import Stack, run


class Watch:
    """`action` gets the names of the provisioners' containers, once. `close` at the end."""

    def __init__(self, stack: Stack, step: str, action: Callable[[list[str]], None]) -> None:
        only = f"name={stack.name}-provisioner"
        self._names = run("docker", "ps", "--format", "{{.Names}}", "--filter", only).split()
        self._step, self._action = step, action
        self._once = threading.Lock()
        self.done = threading.Event()
        self._following = [
            subprocess.Popen(["docker", "logs", "-f", "--since", "0s", name], stdout=subprocess.PIPE, text=True)
            for name in self._names
        ]
        for process in self._following:
            threading.Thread(target=self._watch, args=(process,), daemon=True).start()

    def _watch(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            if f"-> {self._step}" in line and self._once.acquire(blocking=False):
                self._action(self._names)
                self.done.set()

    def close(self) -> None:
        for process in self._following:
            process.terminate()
            process.wait()
