"""A server of an engine's image, to be asked what its parameters are, and the file in which the answer is kept."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2] / "shared" / "coffer_datastores"
_LARGEST = 2**63
_TRIES, _TRY_SECONDS = 120, 0.5


@dataclass(frozen=True, slots=True)
class Server:
    container: str
    environment: tuple[str, ...]
    client: tuple[str, ...]

    def ask(self, statement: str) -> str:
        return self._run(statement, check=True).stdout

    def takes(self, statement: str) -> bool:
        return self._run(statement, check=False).returncode == 0

    def _run(self, statement: str, *, check: bool) -> subprocess.CompletedProcess[str]:
        command = ["docker", "exec", *self.environment, self.container, *self.client, statement]
        return subprocess.run(command, check=check, capture_output=True, text=True)


@contextmanager
def server(
    image: str, *, data: str, environment: Sequence[str], client_environment: Sequence[str], client: Sequence[str],
) -> Iterator[Server]:
    """A new one, until the end of the block. `data`: its directory, kept in memory. `client`: a program in the image
    that asks the server over TCP, where the one that the image's entrypoint starts for itself does not listen."""
    run = ["docker", "run", "--detach", "--rm", "--network", "none", "--tmpfs", data, *_given(environment), image]
    started = subprocess.run(run, check=True, capture_output=True, text=True)
    found = Server(started.stdout.strip(), _given(client_environment), tuple(client))
    try:
        for _ in range(_TRIES):
            if found.takes("SELECT 1"):
                break
            time.sleep(_TRY_SECONDS)
        yield found
    finally:
        subprocess.run(["docker", "rm", "--force", found.container], check=True, capture_output=True)


def write(datastore: str, version: str, offered: Sequence[dict[str, Any]]) -> None:
    folder = SHARED / datastore / "parameters"
    folder.mkdir(exist_ok=True)
    lines = ",\n".join(json.dumps(item) for item in offered)
    (folder / f"{version}.json").write_text(f'{{"configuration-parameters": [\n{lines}\n]}}\n')


def value(kind: str, text: str | None) -> Any:
    """Of a server of the MySQL family, by its text. None also where a number is beyond what such files hold, which is
    where the server has no bound."""
    if text is None or kind == "string":
        return text
    if kind == "boolean":
        return text == "ON"
    number = int(text) if kind == "integer" else float(text)
    return number if number < _LARGEST else None


def _given(environment: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for each in environment for word in ("--env", each))
