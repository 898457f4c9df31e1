"""A site as an operator has it: a stack that is up beside a real cloud, and a tenant with a network of his own.

`tests/on_openstack/run.sh` starts the stack and names the clouds; nothing here knows more than clouds.yaml says.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from support.openstack_cli import OpenStack
from support.stack import eventually


def setting(name: str) -> str:
    value = os.environ.get(name, "")
    assert value, f"{name} is not set; `make test-openstack` says what is needed"
    return value


@dataclass
class Times:
    """What took how long, printed at the end: figures of this cloud, on this day."""

    rows: list[tuple[str, float]] = field(default_factory=list)

    def until(self, what: str, check: Any, *, minutes: float) -> Any:
        began = time.monotonic()
        try:
            return eventually(check, within=minutes * 60, what=what)
        finally:
            self.rows.append((what, time.monotonic() - began))


@pytest.fixture(scope="session")
def times() -> Iterator[Times]:
    kept = Times()
    yield kept
    load = " ".join(f"{n:.1f}" for n in os.getloadavg())
    print(f"\nTimes (load {load}):")
    for what, seconds in kept.rows:
        print(f"  {seconds:6.0f} s  {what}")


def _client(cloud: str) -> OpenStack:
    return OpenStack({"OS_CLIENT_CONFIG_FILE": setting("COFFER_TEST_CLOUDS_FILE"), "OS_CLOUD": setting(cloud)})


@pytest.fixture(scope="session")
def admin() -> Iterator[OpenStack]:
    with _client("COFFER_TEST_ADMIN_CLOUD") as client:
        yield client


@pytest.fixture(scope="session")
def tenant() -> Iterator[OpenStack]:
    with _client("COFFER_TEST_TENANT_CLOUD") as client:
        yield client


@dataclass(frozen=True)
class Network:
    id: str
    subnet: str
    project: str


@pytest.fixture(scope="session")
def network(tenant: OpenStack) -> Iterator[Network]:
    """The tenant's own, with a router to the world outside."""
    name = f"shop-{secrets.token_hex(3)}"
    made = tenant.json("network", "create", name)
    subnet = tenant.json("subnet", "create", "--network", name, "--subnet-range", "192.168.77.0/24", name)
    outside = setting("COFFER_OPENSTACK_PUBLIC_NETWORK")
    tenant.json("router", "create", "--external-gateway", outside, name)
    added = tenant("router", "add", "subnet", name, name)
    assert added.status == 0, added.text
    yield Network(made["id"], subnet["id"], made["project_id"])
    for words in (("router", "remove", "subnet", name, name), ("router", "delete", name), ("network", "delete", name)):
        said = tenant(*words)
        assert said.status == 0, f"{' '.join(words)}: {said.text}"


@dataclass
class Databases:
    """The tenant at the command line: what he types, and what he waits for."""

    cli: OpenStack
    network: Network
    times: Times
    made: list[str] = field(default_factory=list)

    def create(self, name: str, *more: str) -> str:
        shown = self.cli.json(
            "database", "instance", "create", name, "--flavor", setting("COFFER_TEST_FLAVOR"), "--size", "1",
            "--datastore", "postgresql", "--nic", f"net-id={self.network.id}", "--is-public", *more,
        )
        self.made.append(shown["id"])
        return str(shown["id"])

    def show(self, instance: str) -> dict[str, Any]:
        found: dict[str, Any] = self.cli.json("database", "instance", "show", instance)
        return found

    def until_healthy(self, instance: str, what: str, *, minutes: float = 20) -> dict[str, Any]:
        def healthy() -> dict[str, Any] | None:
            shown = self.show(instance)
            assert shown["status"] not in {"ERROR", "FAILED"}, shown
            return shown if (shown["status"], shown["operating_status"]) == ("ACTIVE", "HEALTHY") else None

        found: dict[str, Any] = self.times.until(what, healthy, minutes=minutes)
        return found

    def delete(self, instance: str) -> None:
        said = self.cli("database", "instance", "delete", instance)
        assert said.status == 0, said.text
        self.times.until(
            "delete, until it is gone",
            lambda: "could not be found" in (shown := self.cli("database", "instance", "show", instance)).text.lower()
            or "no instance" in shown.text.lower(),
            minutes=8,
        )
        self.made.remove(instance)


@pytest.fixture(scope="session")
def databases(tenant: OpenStack, network: Network, times: Times) -> Iterator[Databases]:
    kept = Databases(tenant, network, times)
    yield kept
    for instance in list(kept.made):
        kept.delete(instance)
