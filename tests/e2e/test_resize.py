"""An instance becomes larger and smaller, and gets a new machine, and its data go through all of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import nats.errors
import pytest

from support.loot import connect, loot_of
from support.stack import Api, Stack, address, eventually, psql, run
from support.tenants import Shop, connection

GIB = 1 << 30


@pytest.fixture(scope="module")
def shop(api: Api) -> Iterator[Shop]:
    """One of these tests' own, with something in it."""
    password = secrets.token_urlsafe(18)
    made = api.create(
        "changes-size", access={"is_public": True}, databases=[{"name": "shop"}],
        users=[{"name": "app", "password": password, "databases": [{"name": "shop"}]}],
    )
    shown = api.until_ready(made)
    found = Shop(made, password, address(shown, "public"), address(shown, "private"), shown)
    ask(found, "CREATE TABLE written (n int PRIMARY KEY); CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    yield found
    api.delete(made)


def ask(shop: Shop, statement: str) -> str:
    return psql(shop.public, "app", shop.password, "shop", statement)


@dataclass(slots=True)
class Writer:
    """A tenant's client on one connection, which writes a row every few hundredths of a second and stops at the first
    statement that fails."""

    name: str

    def rows(self) -> int:
        return run("docker", "logs", self.name, check=False).count("wrote")

    def end(self) -> int:
        """Its exit code, once all that it was given is done."""
        run("docker", "wait", self.name)
        return int(run("docker", "inspect", "-f", "{{.State.ExitCode}}", self.name))


@pytest.fixture
def writer(shop: Shop) -> Iterator[Writer]:
    script = "".join(f"INSERT INTO written VALUES ({n});\n\\echo wrote\nSELECT pg_sleep(0.05);\n" for n in range(600))
    with connection(shop, script, ends=True) as name:
        one = Writer(name)
        eventually(lambda: one.rows() > 3, within=30, what="the writer writes")
        yield one


def act(api: Api, path: str, body: dict[str, Any], *, ends: str = "succeeded", within: float = 180) -> dict[str, Any]:
    answer = api("POST", path, body)
    answer.must(202)
    operation = f"/operations/{answer.headers['x-coffer-operation']}"

    def ended() -> dict[str, Any] | None:
        found: dict[str, Any] = api("GET", operation).must(200)["operation"]
        return found if "finished" in found else None

    found: dict[str, Any] = eventually(ended, within=within, what=f"{body} has ended")
    assert found["state"] == ends, found
    return found


def size_of_file_system(stack: Stack, instance: str) -> int:
    found = stack.inside(instance, "findmnt", "-bno", "SIZE", "-t", "xfs").split()
    return int(found[0])


def memory_of(stack: Stack, instance: str) -> tuple[int, int]:
    """Of the machine and of the engine's container, in bytes."""
    machine = run("docker", "inspect", "-f", "{{.HostConfig.Memory}}", stack.machine(instance))
    engine = stack.inside(instance, "docker", "inspect", "-f", "{{.HostConfig.Memory}}", "database")
    return int(machine), int(engine)


def test_weakness_20_a_volume_grows_under_a_writer(api: Api, stack: Stack, shop: Shop, writer: Writer) -> None:
    before = size_of_file_system(stack, shop.id)
    assert before < GIB
    act(api, f"/instances/{shop.id}/action", {"resize": {"volume": {"size": 2}}})
    written = writer.rows()
    assert written < 600, "the writer wrote all the while"
    assert 1.9 * GIB < size_of_file_system(stack, shop.id) < 2 * GIB
    shown = api.until_ready(shop.id)
    assert shown["volume"]["size"] == 2
    eventually(
        lambda: api.instance(shop.id)["volume"]["used_percent"] < 10, within=60, what="the agent reports the new size",
    )
    assert writer.end() == 0, "no statement failed"
    assert ask(shop, "SELECT count(*) FROM written") == "600"
    assert api("POST", f"/instances/{shop.id}/action", {"resize": {"volume": {"size": 2}}}).status == 400


def test_a_stopped_database_does_not_keep_its_volume_from_growing(api: Api, stack: Stack, shop: Shop) -> None:
    stack.api("admin")("POST", f"/mgmt/instances/{shop.id}/action", {"stop": {}}).must(202)
    eventually(lambda: api.states(shop.id) == ("ACTIVE", "SHUTDOWN"), within=60, what="it is shown as stopped")
    act(api, f"/instances/{shop.id}/action", {"resize": {"volume": 3}})
    assert 2.9 * GIB < size_of_file_system(stack, shop.id) < 3 * GIB
    act(api, f"/instances/{shop.id}/action", {"restart": {}})
    api.until_ready(shop.id)
    assert ask(shop, "SELECT count(*) FROM kept") == "1000"


@pytest.mark.parametrize(("flavor", "mib", "buffers"), [("2", 1024, "256MB"), ("1", 512, "128MB")], ids=["up", "down"])
def test_another_flavor_is_another_size_of_machine_and_engine(
    api: Api, stack: Stack, shop: Shop, flavor: str, mib: int, buffers: str,
) -> None:
    started = run("docker", "inspect", "-f", "{{.State.StartedAt}}", stack.machine(shop.id))
    act(api, f"/instances/{shop.id}/action", {"resize": {"flavorRef": flavor}})
    shown = api.until_ready(shop.id)
    assert shown["flavor"]["id"] == flavor
    machine, engine = memory_of(stack, shop.id)
    assert machine == mib << 20
    assert 0.5 * machine < engine < machine
    assert ask(shop, "SHOW shared_buffers") == buffers
    assert ask(shop, "SELECT count(*) FROM kept") == "1000"
    assert run("docker", "inspect", "-f", "{{.State.StartedAt}}", stack.machine(shop.id)) == started, "it went on"


def test_a_flavor_that_the_host_cannot_give_changes_nothing(api: Api, stack: Stack, shop: Shop) -> None:
    if int(run("docker", "info", "-f", "{{.NCPU}}")) >= 4:
        pytest.skip("this host has as many processors as the largest flavor")
    before = memory_of(stack, shop.id)
    failed = act(api, f"/instances/{shop.id}/action", {"resize": {"flavorRef": "5"}}, ends="failed")
    assert failed["failure"]["code"] == "no_capacity"
    shown = api.until_ready(shop.id)
    assert (shown["flavor"]["id"], memory_of(stack, shop.id)) == ("1", before)
    assert ask(shop, "SELECT count(*) FROM kept") == "1000"


async def test_a_rebuilt_machine_has_the_data_and_an_identity_of_its_own(api: Api, stack: Stack, shop: Shop) -> None:
    async def note(_error: Exception) -> None:
        pass

    machine, loot = stack.machine(shop.id), loot_of(stack, shop.id)
    await (await connect(stack, shop.id, loot, note)).close()
    act(
        stack.api("admin"), f"/mgmt/instances/{shop.id}/action",
        {"rebuild": {"image_id": "00000000-0000-4000-8000-000000000000"}}, within=300,
    )
    shown = api.until_ready(shop.id)
    assert stack.machine(shop.id) != machine
    assert ask(shop, "SELECT count(*) FROM kept") == "1000", "with the same password, at the same address"
    assert [a["address"] for a in shown["addresses"]] == [a["address"] for a in shop.shown["addresses"]]
    assert size_of_file_system(stack, shop.id) > 2.9 * GIB
    fresh = loot_of(stack, shop.id)
    assert {fresh["identity"][part] for part in ("xkey", "seed")}.isdisjoint(loot["identity"].values())
    await (await connect(stack, shop.id, fresh, note)).close()

    async def refused() -> bool:
        try:
            await (await connect(stack, shop.id, loot, note)).close()
        except (nats.errors.Error, OSError) as error:
            return "authorization" in str(error).lower()
        return False

    for _ in range(100):
        if await refused():
            break
        await asyncio.sleep(0.1)
    assert await refused(), "the former credential opens nothing"
    api("POST", f"/instances/{shop.id}/users", {"users": [{"name": "new", "password": "x" * 12}]}).must(202)
    assert "new" in {user["name"] for user in api("GET", f"/instances/{shop.id}/users").must(200)["users"]}


def test_nothing_is_left_of_the_former_machine(stack: Stack, shop: Shop) -> None:
    kinds = [name.split()[0] for name in stack.leftovers(shop.id, shared=False)]
    for kind in ("machine", "machine-engine", "machine-state", "volume", "loop"):
        assert kinds.count(kind) == 1, kinds
