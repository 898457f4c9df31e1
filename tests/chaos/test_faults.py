"""Parts fail for a while. The state is told truthfully meanwhile, and comes right by itself with nothing lost."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time

import pytest

from support.stack import Stack, eventually, psql, run

pytestmark = pytest.mark.timeout(420)


class Writer:
    """Inserts numbers, one commit each, and remembers which were acknowledged."""

    def __init__(self, shop, table: str) -> None:
        self._shop, self._table = shop, table
        self.acknowledged: list[int] = []
        self._stop = threading.Event()
        psql(shop.private, "app", shop.password, "shop", f"CREATE TABLE {table} (n int PRIMARY KEY)")
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        n = 0
        while not self._stop.is_set():
            n += 1
            statement = f"INSERT INTO {self._table} VALUES ({n}) RETURNING n"
            if psql(self._shop.private, "app", self._shop.password, "shop", statement, check=False) == str(n):
                self.acknowledged.append(n)

    def missing(self) -> list[int]:
        self._stop.set()
        self._thread.join(60)
        statement = f"SELECT string_agg(n::text, ' ') FROM {self._table}"
        found = {int(n) for n in psql(self._shop.private, "app", self._shop.password, "shop", statement).split()}
        return [n for n in self.acknowledged if n not in found]


def ready(api, shop) -> bool:
    return api.states(shop.id) == ("ACTIVE", "HEALTHY")


def outage(full: bool) -> float:
    return 60 if full else 12


def heartbeat_age(stack: Stack, shop) -> float:
    return float(stack.sql(
        f"SELECT extract(epoch FROM now() - received_at) FROM heartbeats WHERE instance_id = '{shop.id}'",
    ))


def test_nats_is_away(stack: Stack, api, shop, full):
    eventually(lambda: ready(api, shop), within=60, what="ready before")
    writer = Writer(shop, "during_nats")
    stack.compose("stop", "--timeout", "5", "nats")
    try:
        time.sleep(outage(full))
        assert heartbeat_age(stack, shop) > outage(full) - 2, "no fact is fresher than the last report"
        assert api("GET", f"/instances/{shop.id}/users").status == 503, "the API itself is cut off and says so"
        filed = api("POST", f"/instances/{shop.id}/databases", {"databases": [{"name": "filed_meanwhile"}]})
        assert filed.status == 202
    finally:
        stack.compose("start", "nats")
    eventually(lambda: heartbeat_age(stack, shop) < 11, within=90, what="the guest reports again")
    operation = filed.headers["x-coffer-operation"]
    eventually(
        lambda: api("GET", f"/operations/{operation}").must(200)["operation"]["state"] == "succeeded",
        within=60, what="the operation that was accepted during the outage is done",
    )
    databases = f"/instances/{shop.id}/databases"
    eventually(lambda: api("GET", databases).status == 200, within=60, what="the API is connected again, too")
    assert "filed_meanwhile" in {d["name"] for d in api("GET", databases).must()["databases"]}
    assert writer.acknowledged
    assert writer.missing() == []


def test_postgresql_is_restarted(stack: Stack, api, shop):
    eventually(lambda: ready(api, shop), within=60, what="ready before")
    answer = api("POST", f"/instances/{shop.id}/action", {"restart": {}})
    operation = answer.headers["x-coffer-operation"]
    stack.compose("restart", "--timeout", "10", "postgres")
    eventually(lambda: api("GET", "/instances").status == 200, within=30, what="the API answers")
    eventually(
        lambda: api("GET", f"/operations/{operation}").must(200)["operation"]["state"] == "succeeded",
        within=60, what="the restart goes on and ends",
    )
    eventually(lambda: ready(api, shop), within=60, what="ready after")


def test_a_machine_crashes(stack: Stack, api, shop):
    """Its first process dies; Docker starts it again, and the agent brings the database back."""
    eventually(lambda: ready(api, shop), within=60, what="ready before")
    psql(shop.private, "app", shop.password, "shop", "CREATE TABLE crash AS SELECT generate_series(1, 500) AS n")
    boot = stack.sql(f"SELECT facts->>'boot' FROM heartbeats WHERE instance_id = '{shop.id}'")
    os.kill(int(run("docker", "inspect", "-f", "{{.State.Pid}}", stack.machine(shop.id))), signal.SIGKILL)
    eventually(
        lambda: stack.sql(f"SELECT facts->>'boot' FROM heartbeats WHERE instance_id = '{shop.id}'") != boot,
        within=60, what="a new agent reports",
    )
    eventually(lambda: ready(api, shop), within=60, what="ready after")
    assert psql(shop.private, "app", shop.password, "shop", "SELECT count(*) FROM crash") == "500"


def test_a_machine_is_stopped_by_somebody(stack: Stack, api, shop):
    """Docker takes `docker kill` as a wish and leaves it down; the keeper files its start."""
    recovered = (
        f"SELECT count(*) FROM operations WHERE instance_id = '{shop.id}' AND kind = 'recover_instance' "
        "AND state = 'succeeded'"
    )
    eventually(lambda: ready(api, shop), within=60, what="ready before")
    before = stack.sql(recovered)  # the keeper may have been quicker than Docker when a machine crashed
    run("docker", "kill", stack.machine(shop.id))
    eventually(lambda: stack.sql(recovered) != before, within=90, what="the keeper recovers it")
    eventually(lambda: ready(api, shop), within=60, what="ready after")
    assert psql(shop.private, "app", shop.password, "shop", "SELECT 1") == "1"


def test_an_agent_is_frozen(stack: Stack, api, shop):
    """The database serves on; what is shown is no longer believed once the last report is too old."""
    eventually(lambda: ready(api, shop), within=60, what="ready before")
    expiry = float(os.environ.get("COFFER_HEARTBEAT_EXPIRY", "90"))
    stack.inside(shop.id, "pkill", "-STOP", "-f", "coffer-guest")
    try:
        eventually(
            lambda: api.states(shop.id) == ("ACTIVE", "ERROR"), within=expiry + 20, what="the silence is shown",
        )
        assert psql(shop.private, "app", shop.password, "shop", "SELECT 1") == "1"
        assert api("GET", f"/instances/{shop.id}/databases").status == 422
    finally:
        stack.inside(shop.id, "pkill", "-CONT", "-f", "coffer-guest")
    eventually(lambda: ready(api, shop), within=60, what="ready after")


def test_an_agent_is_killed_in_the_middle_of_a_command(stack: Stack, api, shop):
    eventually(lambda: ready(api, shop), within=60, what="ready before")
    answer = api("POST", f"/instances/{shop.id}/action", {"restart": {}})
    stack.inside(shop.id, "pkill", "-KILL", "-f", "coffer-guest")
    operation = answer.headers["x-coffer-operation"]
    eventually(
        lambda: api("GET", f"/operations/{operation}").must(200)["operation"]["state"] == "succeeded",
        within=90, what="the restart goes on and ends",
    )
    eventually(lambda: ready(api, shop), within=60, what="ready after")


def test_an_engine_is_frozen(stack: Stack, api, shop):
    """Health is a query: a server that hangs is not healthy, though its processes are all there."""
    eventually(lambda: ready(api, shop), within=60, what="ready before")
    stack.inside(shop.id, "pkill", "-STOP", "-u", "999")
    try:
        eventually(lambda: api.states(shop.id)[1] != "HEALTHY", within=30, what="the hanging engine is not healthy")
    finally:
        stack.inside(shop.id, "pkill", "-CONT", "-u", "999")
    eventually(lambda: ready(api, shop), within=60, what="ready after")


def test_the_stack_sleeps_longer_than_a_credential_lives(stack: Stack, api, full):
    """Credentials of 30 s; everything stops, machines too, until all of them have expired; then everything starts."""
    os.environ["COFFER_GUEST_LIFE"] = "30"
    try:
        stack.compose("up", "-d", "--wait", "provisioner", "door")
        password = secrets.token_urlsafe(12)
        made = api.create(
            "sleeper", databases=[{"name": "d"}],
            users=[{"name": "u", "password": password, "databases": [{"name": "d"}]}],
        )
        shown = api.until_ready(made)
        host = next(a["address"] for a in shown["addresses"] if a["type"] == "private")
        psql(host, "u", password, "d", "CREATE TABLE kept AS SELECT generate_series(1, 100) AS n")
        machine = stack.machine(made)
        stack.compose("stop", "--timeout", "10")
        run("docker", "stop", "--time", "30", machine)
        time.sleep(40)
        stack.compose("up", "-d", "--wait")
        run("docker", "start", machine)
        eventually(
            lambda: api("GET", f"/instances/{made}").status == 200 and heartbeat(stack, made) < 11,
            within=120, what="the guest reports with a new credential",
        )
        api.until_ready(made, within=60)
        assert psql(host, "u", password, "d", "SELECT count(*) FROM kept") == "100"
        assert "credential renewed" in stack.compose("logs", "--no-log-prefix", "door")
        api.delete(made)
    finally:
        del os.environ["COFFER_GUEST_LIFE"]
        stack.compose("up", "-d", "--wait", "provisioner", "door")


def heartbeat(stack: Stack, instance: str) -> float:
    age = stack.sql(f"SELECT extract(epoch FROM now() - received_at) FROM heartbeats WHERE instance_id = '{instance}'")
    return float(age or 1e9)
