"""What is done to instances that are there: who may connect, stop, restart, reboot, and a deletion by force."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from support.stack import Api, Stack, address, eventually, psql, run
from support.tenants import Shop, connection


@pytest.fixture(scope="module")
def shop(api: Api) -> Iterator[Shop]:
    """One of these tests' own: the address changes."""
    password = secrets.token_urlsafe(18)
    made = api.create(
        "acted-upon", access={"is_public": True}, databases=[{"name": "shop"}],
        users=[{"name": "app", "password": password, "databases": [{"name": "shop"}]}],
    )
    shown = api.until_ready(made)
    yield Shop(made, password, address(shown, "public"), address(shown, "private"), shown)
    api.delete(made)


@dataclass(slots=True)
class Held:
    """A connection of a tenant that says something every tenth of a second."""

    name: str

    def lines(self) -> int:
        return run("docker", "logs", self.name, check=False).count("tick")

    def lives(self) -> bool:
        before = self.lines()
        try:
            eventually(lambda: self.lines() > before + 5, within=5, what="the connection goes on")
        except AssertionError:
            return False
        return True


@pytest.fixture
def held(shop: Shop) -> Iterator[Held]:
    with connection(shop, "\\echo tick\nSELECT pg_sleep(0.1);\n" * 1500, ends=False) as name:
        one = Held(name)
        eventually(lambda: one.lines() > 3, within=30, what="the connection is open")
        yield one


def connects(host: str, shop: Shop) -> bool:
    return psql(host, "app", shop.password, "shop", "SELECT 1", check=False) == "1"


def change(api: Api, shop: Shop, **access: object) -> None:
    answer = api("PUT", f"/instances/{shop.id}", {"instance": {"access": access}})
    answer.must(202)
    operation = answer.headers["x-coffer-operation"]
    eventually(
        lambda: api("GET", f"/operations/{operation}").must(200)["operation"]["state"] == "succeeded", within=30,
        what="access is changed",
    )


def manage(stack: Stack, instance: str, action: str) -> None:
    """As an administrator, through their own project's address."""
    stack.api("admin")("POST", f"/mgmt/instances/{instance}/action", {action: {}}).must(202)


def test_weakness_19_access_is_changed_while_the_database_serves(api, shop, held: Held):
    try:
        change(api, shop, allowed_cidrs=["127.0.0.0/8", "192.0.2.0/24"])
        assert connects(shop.public, shop)
        assert held.lives(), "one who is still allowed notices nothing"
        assert api.instance(shop.id)["access"] == {
            "is_public": True, "allowed_cidrs": ["127.0.0.0/8", "192.0.2.0/24"],
        }
        change(api, shop, allowed_cidrs=["192.0.2.0/24"])
        assert not connects(shop.public, shop)
        assert not held.lives(), "one who is not any more is cut off"
        change(api, shop, is_public=False)
        assert [a["type"] for a in api.instance(shop.id)["addresses"]] == ["private"]
        assert api.instance(shop.id)["access"]["allowed_cidrs"] == ["192.0.2.0/24"]
    finally:
        change(api, shop, is_public=True, allowed_cidrs=[])
    assert connects(address(api.instance(shop.id), "public"), shop)


def test_the_guests_own_firewall_is_changed_too(api, stack: Stack, shop):
    change(api, shop, allowed_cidrs=["198.51.100.0/24"])
    try:
        assert "198.51.100.0/24" in stack.inside(shop.id, "nft", "list", "table", "inet", "coffer")
    finally:
        change(api, shop, allowed_cidrs=[])
    assert "198.51.100.0/24" not in stack.inside(shop.id, "nft", "list", "table", "inet", "coffer")


def test_a_stopped_database_stays_stopped_until_a_restart(api, stack: Stack, shop):
    manage(stack, shop.id, "stop")
    eventually(lambda: api.states(shop.id) == ("ACTIVE", "SHUTDOWN"), within=60, what="it is shown as stopped")
    assert not connects(shop.private, shop)
    manage(stack, shop.id, "reboot")
    assert api.states(shop.id)[0] == "REBOOT"
    eventually(lambda: api.states(shop.id) == ("ACTIVE", "SHUTDOWN"), within=120, what="it is still stopped after that")
    assert "Exited" in stack.inside(shop.id, "docker", "ps", "-a", "--format", "{{.Status}}")
    api("POST", f"/instances/{shop.id}/action", {"restart": {}}).must(202)
    api.until_ready(shop.id)
    assert connects(shop.private, shop)


def test_a_reboot_is_of_the_machine(api, stack: Stack, shop):
    before = run("docker", "inspect", "-f", "{{.State.StartedAt}}", stack.machine(shop.id))
    manage(stack, shop.id, "reboot")
    assert stack.api("admin")("POST", f"/mgmt/instances/{shop.id}/action", {"stop": {}}).status == 422
    api.until_ready(shop.id)
    assert run("docker", "inspect", "-f", "{{.State.StartedAt}}", stack.machine(shop.id)) != before
    assert connects(shop.private, shop)


def test_a_status_is_reset_until_the_agent_is_heard_again(api, stack: Stack, shop):
    admin = stack.api("admin")
    assert api("POST", f"/instances/{shop.id}/action", {"reset_status": {}}).status == 403
    admin("POST", f"/instances/{shop.id}/action", {"reset_status": {}}).must(202)
    assert api.states(shop.id) == ("ACTIVE", "ERROR")
    api.until_ready(shop.id)


def test_weakness_16_one_in_build_is_force_deleted(api, stack: Stack, shop):
    admin = stack.api("admin")
    made = api.create("unwanted", databases=[{"name": "x"}])
    assert admin("DELETE", f"/instances/{made}").status == 422
    admin("GET", f"/instances/{made}").must(200)
    admin("POST", f"/instances/{made}/action", {"reset_status": {}}).must(202)
    admin("DELETE", f"/instances/{made}", headers={}).must(202)
    eventually(lambda: admin("GET", f"/instances/{made}").status == 404, within=120, what="it is gone")
    eventually(lambda: stack.leftovers(made, shared=False) == [], within=60, what="nothing of it is left")


def test_nothing_is_unknown_and_the_doctor_is_content(stack: Stack, shop):
    """But for the export of the master key, which nobody confirms in a stack that was just made."""
    keys = stack.compose("run", "--rm", "-T", "init", "coffer-manage", "doctor", "--state", "/state", "--keys-only")
    assert keys.endswith("All is well.\n")
    said = run(
        "sh", "-c", 'docker compose --progress quiet --env-file "$1" run --rm -T migrate coffer-manage doctor '
        "--state /run/coffer || true", "doctor", ".env" if stack.name == "coffer" else f".state/{stack.name}/env",
    )
    bad = [line for line in said.splitlines() if line.startswith("problem")]
    assert all(line.split()[1:4] == ["master", "key", "export"] for line in bad), said
    assert said.endswith(("All is well.\n", "1 problem.\n"))
    listed = stack.compose("run", "--rm", "-T", "migrate", "coffer-manage", "orphans", "list", "--state", "/run/coffer")
    assert listed == "There are none.\n"
