"""The openstack command, many times in one process: starting it takes longer than what it does.

As a program it is the process: a line of JSON for every command and for every answer.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Said:
    status: int
    out: str
    error: str

    @property
    def text(self) -> str:
        return self.out + self.error


class OpenStack:
    """Not safe for threads."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(Path(__file__))], env={**plain, **environ}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )

    def __call__(self, *words: str) -> Said:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the client's process ended during {' '.join(words)}"
        return Said(**json.loads(line))

    def json(self, *words: str) -> Any:
        """What a command that works says, decoded."""
        said = self(*words, "-f", "json")
        assert said.status == 0, f"{' '.join(words)}: {said.text}"
        return json.loads(said.out)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=20)


def _serve() -> None:
    from openstackclient.shell import OpenStackShell

    answers = sys.stdout
    for line in sys.stdin:
        logging.getLogger().handlers.clear()  # every shell adds its own
        out, error = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            try:
                status = int(OpenStackShell().run(json.loads(line)))
            except SystemExit as ended:  # of the parser of arguments
                status = ended.code if isinstance(ended.code, int) else 2
        answers.write(json.dumps({"status": status, "out": out.getvalue(), "error": error.getvalue()}) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve()
