#!/usr/bin/env python3
"""The main job, through the API as a tenant: create a PostgreSQL instance, use it, restart it, back it up while it is
written to, restore into a second one, compare, delete everything.

Needs the running stack (`make up`) and nothing but Python's standard library; psql and pgbench run from the engine's
own image. Exit status 0 only when everything compared equal.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CLIENT_IMAGE = "coffer/postgres:17"
SCALE = int(os.environ.get("COFFER_DEMO_SCALE", "10"))
BENCH_SECONDS = int(os.environ.get("COFFER_DEMO_SECONDS", "10"))
TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")
BALANCES = (("pgbench_accounts", "aid", "abalance"), ("pgbench_tellers", "tid", "tbalance"),
            ("pgbench_branches", "bid", "bbalance"))
# Every transfer leaves a row in pgbench_history. One client writes while the backup runs, so the times of its rows are
# in the order of its commits; what a balance was after commit N is what it is now without the transfers after N.
COMMITS = "SELECT count(*) FROM pgbench_history"
IN_ORDER = "SELECT * FROM pgbench_history ORDER BY mtime, tid, aid, delta"
HISTORY = "SELECT md5(string_agg(h::text, '|' ORDER BY mtime, tid, aid, delta)) FROM ({in_order} LIMIT {commit}) h"
AFTER_COMMIT = """
SELECT count(*) || ' rows, md5 '
    || md5(string_agg(t.{key} || ':' || t.{balance} - coalesce(later.delta, 0), '|' ORDER BY t.{key}))
FROM {table} t
LEFT JOIN (SELECT {key}, sum(delta) AS delta FROM ({in_order} OFFSET {commit}) h GROUP BY {key}) later USING ({key})
"""


class DemoError(Exception):
    """The demo cannot go on; the text says what, why and what to do."""


class Api:
    """The Trove API under one project, with HTTP basic authentication."""

    def __init__(self, endpoint: str, user: str, password: str) -> None:
        self._endpoint = endpoint.rstrip("/")
        self._auth = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any, dict[str, str]]:
        request = urllib.request.Request(
            self._endpoint + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": self._auth, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None, dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"null"), dict(error.headers)
        except OSError as error:
            raise DemoError(f"The API at {self._endpoint} does not answer ({error}). Run `make up` first.") from None

    def must(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        status, answer, _ = self.call(method, path, body)
        if status >= 400:
            raise DemoError(f"{method} {path} answered {status}: {answer}")
        return answer


class Clock:
    """The steps and what each took."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        sys.stdout.write(f"\n==> {title}\n")
        began = time.monotonic()
        yield
        self.rows.append((title, time.monotonic() - began))
        sys.stdout.write(f"    {self.rows[-1][1]:.1f} s\n")

    def table(self) -> str:
        width = max(len(title) for title, _ in self.rows)
        return "\n".join(f"    {title:<{width}}  {seconds:6.1f} s" for title, seconds in self.rows)


class Line:
    """One line that changes in place on a terminal; on anything else a new line whenever the text changes."""

    def __init__(self) -> None:
        self._last = ""

    def show(self, text: str) -> None:
        if text == self._last:
            return
        if sys.stdout.isatty():
            sys.stdout.write(f"\r\033[K    {text}")
        else:
            sys.stdout.write(f"    {text}\n")
        sys.stdout.flush()
        self._last = text

    def end(self) -> None:
        if sys.stdout.isatty() and self._last:
            sys.stdout.write("\n")


def follow(api: Api, instance: str, *, want: tuple[str, str] | None, limit: float) -> dict[str, Any] | None:
    """Show the instance's newest operation until (status, operating_status) is as wanted; None: until it is gone."""
    line, began = Line(), time.monotonic()
    while time.monotonic() - began < limit:
        status, answer, _ = api.call("GET", f"/instances/{instance}")
        if status == 404 and want is None:
            line.end()
            return None
        shown = answer["instance"] if status == 200 else {}
        if shown.get("status") == "ERROR":
            line.end()
            raise DemoError(f"The instance failed: {shown.get('fault', {}).get('message', 'no reason given')}")
        if want and (shown.get("status"), shown.get("operating_status")) == want:
            line.end()
            found: dict[str, Any] = shown
            return found
        _, listed, _ = api.call("GET", f"/instances/{instance}/operations")
        line.show(_progress(shown, (listed or {}).get("operations", [])))
        time.sleep(0.2)
    line.end()
    raise DemoError(f"The instance did not become {want or 'deleted'} in {limit:.0f} s; see `docker compose logs`.")


def follow_backup(api: Api, backup: str, instance: str, *, limit: float) -> dict[str, Any]:
    """Show the backup's operation until it is COMPLETED."""
    line, began = Line(), time.monotonic()
    while time.monotonic() - began < limit:
        shown: dict[str, Any] = api.must("GET", f"/backups/{backup}")["backup"]
        if shown["status"] in {"COMPLETED", "FAILED"}:
            line.end()
            if shown["status"] == "FAILED":
                raise DemoError(f"The backup failed: {shown['fault']['message']}")
            return shown
        listed = api.must("GET", f"/instances/{instance}/operations")["operations"]
        line.show(_progress(shown, listed))
        time.sleep(0.2)
    line.end()
    raise DemoError(f"The backup did not end in {limit:.0f} s; see `docker compose logs provisioner`.")


def _progress(shown: dict[str, Any], operations: list[dict[str, Any]]) -> str:
    newest = operations[0] if operations else {}
    percent = int(newest.get("progress") or 0)
    bar = "#" * (percent // 5)
    return f"[{bar:<20}] {percent:3d} %  {shown.get('status', '?'):<8} {newest.get('step', '')}"


class Client:
    """psql and pgbench from the engine's image, with the password in a file that goes with this run."""

    def __init__(self, folder: Path, host: str, database: str, user: str, password: str) -> None:
        self._passfile = folder / f"pgpass-{host}"
        self._passfile.touch(mode=0o600)
        self._passfile.write_text(f"{host}:5432:*:{user}:{password}\n")
        self._at = ["-h", host, "-p", "5432", "-U", user]
        self._database = database

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", "run", "--rm", "--network", "host", "--user", "0:0", "--entrypoint", program,
             "-v", f"{self._passfile}:/run/pgpass:ro", "-e", "PGPASSFILE=/run/pgpass", CLIENT_IMAGE,
             *self._at, *arguments, self._database],
            capture_output=True, text=True, check=False,
        )
        if done.returncode:
            raise DemoError(f"{program} failed ({done.returncode}):\n{done.stderr.strip()}")
        return done.stdout.strip()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """One pgbench client that commits transfers meanwhile."""
        name = f"coffer-demo-{secrets.token_hex(4)}"
        writer = subprocess.Popen(
            ["docker", "run", "--rm", "--name", name, "--network", "host", "--user", "0:0", "--entrypoint", "pgbench",
             "-v", f"{self._passfile}:/run/pgpass:ro", "-e", "PGPASSFILE=/run/pgpass", CLIENT_IMAGE,
             *self._at, "-n", "-c", "1", "-T", "600", self._database],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False)
            writer.wait(30)

    def at_commit(self, commit: int) -> dict[str, str]:
        """Every row as it was after that many transfers, as checksums by table."""
        found = {"pgbench_history": self.value(HISTORY.format(in_order=IN_ORDER, commit=commit))}
        for table, key, balance in BALANCES:
            found[table] = self.value(
                AFTER_COMMIT.format(in_order=IN_ORDER, table=table, key=key, balance=balance, commit=commit),
            )
        return found

    def value(self, statement: str) -> str:
        return self.run("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement)

    def checksums(self) -> dict[str, str]:
        """Row count and a checksum over every row, by table."""
        query = "SELECT count(*) || ' rows, md5 ' || md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {} t"
        return {table: self.value(query.format(table)) for table in TABLES}


def main() -> int:
    access = json.loads((ROOT / ".state" / os.environ.get("COFFER_STACK", "coffer") / "clients.json").read_text())
    api = Api(access["endpoint"], access["user"], access["password"])
    clock, name, password = Clock(), f"demo-{secrets.token_hex(3)}", secrets.token_urlsafe(18)
    made: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            with clock.step("create a PostgreSQL 17 instance through the API"):
                host = create(api, made, name, databases=[{"name": "shop"}], users=[
                    {"name": "app", "password": password, "databases": [{"name": "shop"}]},
                ])
            client = Client(Path(folder), host, "shop", "app", password)
            equal = use(api, clock, client, made[0])
            equal &= restore(api, clock, client, made, lambda host: Client(Path(folder), host, "shop", "app", password))
        finally:
            with clock.step("delete everything"):
                for each in made:
                    api.must("DELETE", f"/instances/{each}")
                for each in made:
                    follow(api, each, want=None, limit=120)
    sys.stdout.write(f"\nWhat it took:\n{clock.table()}\n\n")
    sys.stdout.write("Everything compared equal.\n" if equal else "THE DATA DIFFERS.\n")
    return 0 if equal else 1


def create(api: Api, made: list[str], name: str, **more: Any) -> str:
    """A new instance, once it is healthy: its public address."""
    created = api.must("POST", "/instances", {"instance": {
        "name": name, "flavorRef": "2", "volume": {"size": 2}, "datastore": {"type": "postgresql", "version": "17"},
        "access": {"is_public": True}, **more,
    }})["instance"]
    made.append(created["id"])
    shown = follow(api, created["id"], want=("ACTIVE", "HEALTHY"), limit=300) or {}
    address = str(next(a["address"] for a in shown["addresses"] if a["type"] == "public"))
    private = next(a["address"] for a in shown["addresses"] if a["type"] == "private")
    sys.stdout.write(f"    {name} answers on {address}:5432 (public) and {private}:5432 (tenant network)\n")
    return address


def use(api: Api, clock: Clock, client: Client, instance: str) -> bool:
    with clock.step("connect with psql"):
        sys.stdout.write(f"    {client.value('SELECT version()')}\n")
    with clock.step(f"load data with pgbench, scale {SCALE}"):
        client.run("pgbench", "-i", "-q", "-s", str(SCALE))
    with clock.step(f"run pgbench for {BENCH_SECONDS} s"):
        report = client.run("pgbench", "-n", "-c", "4", "-T", str(BENCH_SECONDS))
        sys.stdout.writelines(f"    {row}\n" for row in report.splitlines() if row.startswith(("tps", "latency av")))
    with clock.step("query it"):
        before = client.checksums()
        sys.stdout.writelines(f"    {table}: {found}\n" for table, found in before.items())
    with clock.step("restart the database through the API"):
        api.must("POST", f"/instances/{instance}/action", {"restart": {}})
        follow(api, instance, want=("ACTIVE", "HEALTHY"), limit=120)
    with clock.step("compare every row with before the restart"):
        return equal(before, client.checksums())


def restore(
    api: Api, clock: Clock, client: Client, made: list[str], reach: Callable[[str], Client],
) -> bool:
    with clock.step("back it up while pgbench writes"), client.writing():
        before = int(client.value(COMMITS))
        asked = api.must("POST", "/backups", {"backup": {"name": "demo", "instance": made[0]}})["backup"]["id"]
        shown = follow_backup(api, asked, made[0], limit=300)
        after = int(client.value(COMMITS))
        sys.stdout.write(f"    {shown['size']:.2f} GB in {shown['locationRef']}\n")
        sys.stdout.write(f"    {after - before} transfers were committed meanwhile\n")
    try:
        with clock.step("restore it into a second instance"):
            host = create(api, made, f"restored-{secrets.token_hex(3)}", restorePoint={"backupRef": asked})
        with clock.step("compare every row at the copy's last commit"):
            copy = reach(host)
            commit = int(copy.value(COMMITS))
            sys.stdout.write(f"    the copy ends with commit {commit}: the backup ran from {before} to {after}\n")
            return equal(client.at_commit(commit), copy.at_commit(commit)) and before <= commit <= after
    finally:
        with clock.step("delete the backup"):
            api.must("DELETE", f"/backups/{asked}")


def equal(one: dict[str, str], other: dict[str, str]) -> bool:
    for table, found in one.items():
        sys.stdout.write(f"    {table}: {'equal' if found == other[table] else 'DIFFERS'}\n")
    return one == other


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except DemoError as error:
        sys.stderr.write(f"\ndemo: {error}\n")
        raise SystemExit(1) from None
    except FileNotFoundError:
        sys.stderr.write("demo: the stack's clients.json is missing. Run `make up` first.\n")
        raise SystemExit(1) from None
