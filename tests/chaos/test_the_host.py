"""The Docker daemon of the host ends, with everything it runs, and comes back: so does every instance, by itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from support.stack import ROOT, Stack, eventually, psql, run

pytestmark = [
    pytest.mark.timeout(420),
    pytest.mark.skipif(os.environ.get("DEPTH", "short") != "full", reason="ends every container of this host"),
]


def test_docker_is_restarted(stack: Stack, api, shop):
    psql(shop.private, "app", shop.password, "shop", "CREATE TABLE outlives AS SELECT generate_series(1, 300) AS n")
    restart_docker()
    eventually(lambda: run("docker", "ps", "-q", check=False).strip() != "", within=60, what="Docker runs containers")
    eventually(lambda: answers(api), within=120, what="the API answers")
    eventually(
        lambda: heartbeat_age(stack, shop.id) < 11 and api.states(shop.id) == ("ACTIVE", "HEALTHY"),
        within=120, what="the instance is back",
    )
    for host in (shop.private, shop.public):
        assert psql(host, "app", shop.password, "shop", "SELECT count(*) FROM outlives") == "300"


def restart_docker() -> None:
    """Ends the daemon and all containers, as a reboot does, and starts it as this host is set up to."""
    if Path("/run/systemd/system").is_dir():
        run("systemctl", "restart", "docker")
        return
    pid = int(Path("/var/run/docker.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), within=120, what="the daemon has ended")
    run(str(ROOT / "deploy/host/docker.sh"))


def answers(api) -> bool:
    try:
        return bool(api("GET", "/instances").status == 200)
    except OSError:
        time.sleep(0.5)
        return False


def heartbeat_age(stack: Stack, instance: str) -> float:
    try:
        return float(stack.sql(
            f"SELECT extract(epoch FROM now() - received_at) FROM heartbeats WHERE instance_id = '{instance}'",
        ))
    except (AssertionError, ValueError):
        return 1e9
