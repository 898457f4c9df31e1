"""The running stack as a test sees it: its API as a tenant, its containers, its machines, its database."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parent.parent.parent
T = TypeVar("T")
PROJECT_KINDS = {"subnet", "subnet-claim", "tenant-network"}


def eventually(check: Callable[[], T | bool | None], *, within: float, what: str) -> T:
    """Ask until it is true; the only way in which these tests wait."""
    end = time.monotonic() + within * float(os.environ.get("COFFER_TEST_PATIENCE", "1"))
    last: object = None
    while time.monotonic() < end:
        last = check()
        if last:
            return last  # type: ignore[return-value]
        time.sleep(0.2)
    raise AssertionError(f"not within {within:.0f} s: {what} (last seen: {last!r})")


def run(*command: str, check: bool = True, give: str | None = None, timeout: float = 120) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, input=give, timeout=timeout)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return done.stdout


@dataclass(slots=True)
class Answer:
    status: int
    body: Any
    headers: dict[str, str]

    def must(self, *statuses: int) -> Any:
        assert self.status in (statuses or (200, 201, 202, 204)), f"{self.status}: {self.body}"
        return self.body


@dataclass(slots=True)
class Api:
    endpoint: str
    user: str
    password: str = field(repr=False)

    def __call__(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        request = urllib.request.Request(
            self.endpoint + path, method=method,
            data=raw if raw is not None else None if body is None else json.dumps(body).encode(),
            headers={**self.headers(), **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return _answer(answer.status, answer.read(), answer.headers)
        except urllib.error.HTTPError as error:
            return _answer(error.code, error.read(), error.headers)

    def headers(self) -> dict[str, str]:
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {token}", "Content-Type": "application/json"}

    def instance(self, instance: str) -> dict[str, Any]:
        found: dict[str, Any] = self("GET", f"/instances/{instance}").must(200)["instance"]
        return found

    def states(self, instance: str) -> tuple[str, str]:
        shown = self.instance(instance)
        return shown["status"], shown["operating_status"]

    def create(self, name: str, **more: Any) -> str:
        wanted = {
            "name": name, "flavorRef": "1", "volume": {"size": 1},
            "datastore": {"type": "postgresql", "version": "17"}, **more,
        }
        return str(self("POST", "/instances", {"instance": wanted}).must(200)["instance"]["id"])

    def until_ready(self, instance: str, *, within: float = 180) -> dict[str, Any]:
        def ready() -> bool:
            shown = self.instance(instance)
            assert shown["status"] != "ERROR", shown.get("fault")
            return (shown["status"], shown["operating_status"]) == ("ACTIVE", "HEALTHY")

        eventually(ready, within=within, what=f"{instance} is ACTIVE and HEALTHY")
        return self.instance(instance)

    def delete(self, instance: str, *, within: float = 120) -> None:
        self("DELETE", f"/instances/{instance}").must(202)
        eventually(
            lambda: self("GET", f"/instances/{instance}").status == 404, within=within, what=f"{instance} is gone",
        )


@dataclass(slots=True)
class Stack:
    """A development stack that `deploy/up.sh` brought up."""

    name: str
    clients: dict[str, Any]

    @classmethod
    def find(cls) -> Stack:
        name = os.environ.get("COFFER_STACK", "coffer")
        path = ROOT / ".state" / name / "clients.json"
        assert path.exists(), f"stack {name} is not up: run deploy/up.sh"
        return cls(name, json.loads(path.read_text()))

    def api(self, user: str = "demo") -> Api:
        known = self.clients["users"][user]
        return Api(known["endpoint"], user, known["password"])

    def compose(self, *arguments: str, give: str | None = None, timeout: float = 180) -> str:
        settings = ".env" if self.name == "coffer" else f".state/{self.name}/env"
        return run(
            "docker", "compose", "--progress", "quiet", "--env-file", str(ROOT / settings),
            "--project-directory", str(ROOT), *arguments, give=give, timeout=timeout,
        )

    def machine(self, instance: str) -> str:
        """The machine's container."""
        names = run(
            "docker", "ps", "-aq", "--filter", f"label=coffer.stack={self.name}",
            "--filter", f"label=coffer.instance={instance}", "--filter", "label=coffer.kind=machine",
        ).split()
        assert len(names) == 1, f"machines of {instance}: {names}"
        return names[0]

    def inside(self, instance: str, *command: str, check: bool = True) -> str:
        """Run something in the machine, as its root."""
        return run("docker", "exec", self.machine(instance), *command, check=check)

    def sql(self, statement: str) -> str:
        """Ask the control plane's own database."""
        return self.compose(
            "exec", "-T", "postgres", "psql", "-XAtq", "-U", "postgres", "-d", "coffer", "-c", statement,
        ).strip()

    def leftovers(self, instance: str, *, shared: bool) -> list[str]:
        """What in Docker carries the instance's label. `shared`: also the network that it made for its project, which
        stays as long as another instance of the project uses it."""
        label = f"label=coffer.instance={instance}"
        kind = '{{.Label "coffer.kind"}}'
        found = [
            *run("docker", "ps", "-a", "--filter", label, "--format", f"{kind} {{{{.Names}}}}").splitlines(),
            *run("docker", "volume", "ls", "--filter", label, "--format", f"{kind} {{{{.Name}}}}").splitlines(),
            *run("docker", "network", "ls", "--filter", label, "--format", f"{kind} {{{{.Name}}}}").splitlines(),
        ]
        return [each for each in found if shared or each.split()[0] not in PROJECT_KINDS]


def address(instance: dict[str, Any], kind: str) -> str:
    return str(next(a["address"] for a in instance["addresses"] if a["type"] == kind))


def psql(host: str, user: str, password: str, database: str, statement: str, *, check: bool = True) -> str:
    """Connect as a tenant does, over TCP, with the client of the engine's image."""
    passfile = f"{host}:5432:*:{user}:{password}"
    return run(
        "docker", "run", "--rm", "-i", "--network", "host", "--user", "0:0", "--entrypoint", "sh", "coffer/postgres:17",
        "-c", "umask 077; head -n 1 > /tmp/pass; PGPASSFILE=/tmp/pass PGCONNECT_TIMEOUT=5 exec psql -XAtq "
        '-v ON_ERROR_STOP=1 "$@"', "psql", "-h", host, "-U", user, "-d", database, "-c", statement,
        give=passfile + "\n", check=check,
    ).strip()


def _answer(status: int, text: bytes, headers: Any) -> Answer:
    return Answer(status, json.loads(text) if text else None, {k.lower(): v for k, v in headers.items()})
