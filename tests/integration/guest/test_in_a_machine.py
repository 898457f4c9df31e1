"""Firewall and volume in a real machine container: probes run there, with this tree's agent, with its usual rights."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coffer_provisioner.cloud.docker_recipe import CAPABILITIES

pytestmark = pytest.mark.docker

ROOT = Path(__file__).resolve().parents[3]
IMAGE = "coffer/machine"
PROBES = "/src/tests/integration/guest"


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def probe(
    name: str, *arguments: str, options: tuple[str, ...] = (), network: str = "none"
) -> dict[str, Any]:
    rights = [word for capability in CAPABILITIES for word in ("--cap-add", capability)]
    sources = [word for room in ("guest", "shared", "tests") for word in ("-v", f"{ROOT / room}:/src/{room}:ro")]
    out = docker(
        *("run", "--rm", "--name", f"coffer-test-{secrets.token_hex(4)}", "--network", network),
        *("--cap-drop", "ALL", *rights, "--cgroupns", "private"),
        *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
        *("--tmpfs", "/run:exec", "--tmpfs", "/tmp:exec", *sources, *options),
        *("-e", "PYTHONPATH=/src/guest:/src/shared", "-e", "PYTHONDONTWRITEBYTECODE=1"),
        *("--entrypoint", "/opt/coffer/bin/python", IMAGE, f"{PROBES}/{name}", *arguments),
    )
    found: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return found


def loop(action: str, minor: str) -> None:
    docker(
        *("run", "--rm", "--network", "none", "--cap-drop", "ALL", "--cap-add", "MKNOD"),
        *("--device-cgroup-rule", "c 10:237 rwm", "--entrypoint", "coffer-loop", IMAGE, action, minor),
    )


@pytest.fixture
def minor() -> Iterator[str]:
    """Of a loop device that nobody uses: far above those that the provisioner hands out."""
    number = str(10_000 + secrets.randbelow(10_000))
    loop("add", number)
    yield number
    loop("remove", number)


def test_who_reaches_whom() -> None:
    assert probe("firewall_probe.py") == {
        "before prepare, from the tenant": False,
        "allowed address": True,
        "gateway": True,
        "another address": False,
        "another port": False,
        "engine's port from management": False,
        "ssh from management": False,
        "engine to management": False,
        "engine to the machine's management address": False,
        "engine to metadata": False,
        "engine to docker's dns": False,
        "engine to tenant": True,
        "engine to itself": True,
        "agent to management": True,
        "agent to engine": True,
        "everybody when nothing is named": True,
        "a gateway that was named": True,
        "not the other one then": False,
        "a router that is the gateway": False,
        "allowed where a router is the gateway": True,
        "metadata, who is not root": False,
        "metadata, root": True,
        "ssh from management, opened": True,
        "ssh from the tenant": False,
        "ssh to the management address from the tenant": False,
        "a connection of one who is still allowed": "lasts",
        "a connection of one who is not any more": "cut off",
        "other tables are kept": True,
        "one table of ours": True,
    }


@pytest.fixture
def store() -> Iterator[tuple[str, str]]:
    """A network like the management network, and a host on it, known to Docker's DNS: network and address."""
    name = f"coffer-test-{secrets.token_hex(4)}"
    docker("network", "create", "--internal", name)
    try:
        docker(
            *("run", "-d", "--rm", "--name", name, "--network", name, "--network-alias", "swift.test"),
            *("-v", f"{ROOT / 'tests'}:/src/tests:ro", "--entrypoint", "python3", IMAGE),
            *(f"{PROBES}/echo_server.py", "8080", "9999"),
        )
        form = f'{{{{(index .NetworkSettings.Networks "{name}").IPAddress}}}}'
        yield name, docker("inspect", "-f", form, name).strip()
    finally:
        subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False)
        docker("network", "rm", name)


def test_what_a_backup_reaches_and_when(store: tuple[str, str]) -> None:
    network, address = store
    assert probe("storage_probe.py", "swift.test", address, network=network) == {
        "closed": [],
        "open": ["the name", "the store", "the store by its address"],
        "engine while open": ["a tenant", "itself"],
        "agent": True,
        "a connection of before, when closed again": "no",
        "closed again": [],
    }


def test_what_is_formatted_mounted_grown_and_refused(minor: str) -> None:
    seen = probe("volume_probe.py", minor, options=("--device-cgroup-rule", f"b 7:{minor} rwm", "-v", "/volume"))
    for question in (
        "blank, formatted before",
        "mounted, another uuid",
        "another uuid",
        "grow before the device",
        "another kind",
        "no file",
        "no device",
    ):
        assert seen.pop(question).startswith("volume: "), question
    mount = seen.pop("mount")
    assert mount.startswith("xfs ")
    assert {"noatime", "nodev", "nosuid"} <= set(mount.split()[1].split(","))
    assert seen == {
        "uuid": True,
        "mounted again": "kept",
        "remounted": "kept",
        "grown": True,
        "kept": "kept",
        "thawed, never frozen": False,
        "written while frozen": False,
        "frozen until thawed": True,
        "written afterwards": True,
        "left alone": "swap",
    }
