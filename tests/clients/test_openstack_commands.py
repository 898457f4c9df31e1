"""Every command of the unmodified OpenStack client against the running stack; at full depth with each way of
authenticating."""

from __future__ import annotations

import os
import secrets
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings(action="ignore"):
    import openstack

import coffer_datastores
from clients.openstack_commands import ROWS, Outcome, Row, command_of, installed, judged, rows
from support.openstack_cli import OpenStack, Said
from support.stack import Stack, eventually
from support.ways import WAYS, arguments, environ

pytestmark = pytest.mark.filterwarnings("ignore")  # the SDK warns of itself


@dataclass
class Clients:
    way: str
    database: Any
    """The member's, by the SDK: it keeps its token, so that looking again is quick."""
    member: OpenStack
    admin: OpenStack
    known: dict[str, str] = field(default_factory=dict)
    """What stands for the words in braces."""

    def fill(self, text: str) -> str:
        for name, words in LOOKED_UP.items():
            if f"{{{name}}}" in text and name not in self.known:
                client = self.admin if name == "made_version" else self.member
                self.known[name] = looked_up(client, self.fill(words))
        return text.format_map(self.known)

    def run(self, row: Row) -> Said:
        return (self.admin if row.admin else self.member)(*shlex.split(self.fill(row.words)))

    def wait(self, until: str) -> None:
        what, kind, name = until.split()
        eventually(lambda: self._is(what, f"{kind}s", name), within=180, what=until)

    def tidy(self) -> None:
        """What a row that failed has left behind."""
        for item in self._list("instances"):
            if item["name"].endswith(self.known["t"]):
                self.database.delete(f"/instances/{item['id']}")

    def _is(self, what: str, kind: str, name: str) -> bool:
        found = [item for item in self._list(kind) if item["name"] == name]
        if what == "gone":
            return not found
        (item,) = found
        assert item["status"] not in {"ERROR", "FAILED"}
        return (item["status"], item.get("operating_status")) in {("ACTIVE", "HEALTHY"), ("COMPLETED", None)}

    def _list(self, kind: str) -> list[dict[str, Any]]:
        answer = self.database.get(f"/{kind}", params={"limit": 100})
        assert answer.status_code == 200, answer.text
        found: list[dict[str, Any]] = answer.json()[kind]
        return found


LOOKED_UP: Mapping[str, str] = {
    "version": "datastore version list postgresql 17", "desk": "database instance list desk-{t}",
    "group": "database configuration list group-{t}", "backup": "database backup list full-{t}",
    "made_version": "datastore version list ds-{t} 1-{t}",
}
"""The list in which an id is found, and the name that has it."""


def looked_up(client: OpenStack, words: str) -> str:
    *command, name = words.split()
    return str(next(item["ID"] for item in client.json(*command) if item["Name"] == name))


@pytest.fixture(params=WAYS if os.environ.get("DEPTH", "short") == "full" else ["keystone"])
def clients(request: pytest.FixtureRequest, stack: Stack, tmp_path: Path) -> Iterator[Clients]:
    way = request.param
    known = {
        "t": secrets.token_hex(3), "password": secrets.token_urlsafe(12), "scratch": str(tmp_path / "log"),
        "project": "5b1ee000-0000-4000-8000-" + secrets.token_hex(6),
    }
    with (
        openstack.connection.Connection(**arguments(stack, way)) as connection,
        OpenStack(environ(stack, way)) as member, OpenStack(environ(stack, way, admin=True)) as admin,
    ):
        found = Clients(way, connection.database, member, admin, known)
        yield found
        found.tidy()


def test_no_command_of_the_client_is_forgotten():
    known = installed()
    assert len(known) >= 84
    assert {command_of(row.words, known) for row in ROWS} == known


@pytest.mark.timeout(600)
def test_every_command(clients: Clients, capsys: pytest.CaptureFixture[str]):
    """Goes on after a row that fails, and says at the end how each command did."""
    known, scores, wrong = installed(), dict[str, list[str]](), list[str]()
    for row in rows(clients.way):
        try:
            said = clients.run(row)
            why = judged(row, said.status, said.text, clients.fill(row.says))
            detail = said.text.strip()[-300:]
            if not why and row.until:
                clients.wait(clients.fill(row.until))
        except (AssertionError, StopIteration, KeyError) as error:
            why, detail = "could not be run", repr(error)[-300:]
        scores.setdefault(command_of(row.words, known), []).append(why or row.outcome.value)
        if why:
            wrong.append(f"{row.words}: {why}: {detail}")
    with capsys.disabled():
        good = sum(map(_good, scores.values()))
        print(f"\n{clients.way}: {good} of {len(scores)} commands do as they should")
        for command in sorted(scores):
            print(f"    {command:42} {'; '.join(dict.fromkeys(scores[command]))}")
    assert not wrong, "\n".join(wrong)


def test_the_command_itself(stack: Stack):
    """Once as it is typed, in a process of its own."""
    program = Path(sys.executable).with_name("openstack")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
    done = subprocess.run(
        [program, "datastore", "list", "-f", "value", "-c", "Name"], env={**plain, **environ(stack, "http_basic")},
        capture_output=True, text=True, check=False, timeout=60,
    )
    assert (done.returncode, done.stdout.split()) == (0, sorted(coffer_datastores.specs())), done.stderr


def _good(found: list[str]) -> bool:
    return set(found) <= {outcome.value for outcome in Outcome}
