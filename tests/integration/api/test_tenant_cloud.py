"""What the API does in the cloud with the tenant's own token: opening containers, looking at networks and flavors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from coffer_db.secrets import container_context
from integration.api.service import MASTER, Answer, Caller, World, serving
from support.fake_openstack import FakeOpenStack, Person

pytestmark = pytest.mark.timeout(60)
CONTAINER = "database_backups"
KEYS = ("X-Container-Meta-Temp-URL-Key", "X-Container-Meta-Temp-URL-Key-2")


@pytest.fixture
async def cloud() -> AsyncIterator[FakeOpenStack]:
    made = FakeOpenStack()
    await made.start()
    made.flavors["1"] = {"name": "tiny"}
    yield made
    await made.stop()


@pytest.fixture
def choose_cloud(cloud: FakeOpenStack, choose: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def chosen(**more: Any) -> Any:
        return choose(**{
            "auth_strategy": "keystone", "keystone_clouds": cloud.clouds(tmp_path), "keystone_cloud": "coffer",
            "cloud": "openstack", "object_store": "tenant", "cloud_timeout": 2.0, "default_datastore": "postgresql",
            **more,
        })

    return chosen


@dataclass
class Tenant:
    """Somebody with a token, and the API."""

    api: Caller
    person: Person
    token: str

    async def __call__(self, method: str, path: str, body: Any = None) -> Answer:
        path = f"/v1.0/{self.person.project}{path}"
        return await self.api.bare(method, path, body, headers={"X-Auth-Token": self.token})

    async def back_up(self, instance: str, **more: Any) -> Answer:
        return await self("POST", "/backups", {"backup": {"name": "b", "instance": instance, **more}})


@contextlib.asynccontextmanager
async def api_of(chosen: Any) -> AsyncIterator[Caller]:
    async with serving(chosen) as api:
        api.user = ""
        yield api


@pytest.fixture
async def tenant(cloud: FakeOpenStack, choose_cloud: Callable[..., Any]) -> AsyncIterator[Tenant]:
    person = cloud.person()
    async with api_of(choose_cloud()) as api:
        yield Tenant(api, person, cloud.token(person))


async def keys_of(world: World, project: str, name: str = CONTAINER) -> tuple[str, ...]:
    (row,) = await world.sql(
        "SELECT keys FROM backup_containers WHERE project_id = :p AND name = :n", p=project, n=name,
    )
    return tuple(MASTER.unwrap(container_context(project, "swift", name), row["keys"])["keys"])


def carried(cloud: FakeOpenStack, project: str, name: str = CONTAINER) -> tuple[str, ...]:
    return tuple(cloud.kept(project, name).headers.get(key, "") for key in KEYS)


async def is_open(world: World, project: str, name: str = CONTAINER) -> bool:
    (row,) = await world.sql(
        "SELECT opened_at FROM backup_containers WHERE project_id = :p AND name = :n", p=project, n=name,
    )
    return row["opened_at"] is not None


def asked_store(cloud: FakeOpenStack) -> list[str]:
    return [method for service, method, _ in cloud.asked if service == "object-store"]


# --- containers ---


async def test_the_first_backup_makes_and_opens_the_container(cloud: FakeOpenStack, tenant: Tenant, world: World):
    project = tenant.person.project
    one, other = await world.instance(project), await world.instance(project)
    (await tenant.back_up(one)).must(202)
    headers = cloud.kept(project, CONTAINER).headers
    entry = f"{cloud.service.project}:{cloud.service.id}"
    assert (headers["X-Container-Read"], headers["X-Container-Write"]) == (entry, entry)
    assert await keys_of(world, project) == carried(cloud, project)
    assert len(set(carried(cloud, project))) == 2
    assert asked_store(cloud) == ["HEAD", "PUT", "HEAD"]
    (await tenant.back_up(other)).must(202)
    assert asked_store(cloud) == ["HEAD", "PUT", "HEAD"], "it is asked for once"


async def test_the_entry_is_for_the_user_that_the_setting_names(
    cloud: FakeOpenStack, choose_cloud: Callable[..., Any], world: World,
):
    person = cloud.person()
    async with api_of(choose_cloud(storage_user="their-project:their-user")) as api:
        (await Tenant(api, person, cloud.token(person)).back_up(await world.instance(person.project))).must(202)
    assert cloud.kept(person.project, CONTAINER).headers["X-Container-Write"] == "their-project:their-user"


async def test_what_is_the_tenants_own_stays(cloud: FakeOpenStack, tenant: Tenant, world: World):
    project = tenant.person.project
    headers = {"X-Auth-Token": tenant.token, "X-Container-Read": ".r:*, friend:one", "X-Container-Meta-Mine": "m"}
    async with aiohttp.ClientSession() as session:
        await session.put(f"{cloud.url}/v1/AUTH_{project}/mine", headers=headers)
    (await tenant.back_up(await world.instance(project), swift_container="mine")).must(202)
    entry = f"{cloud.service.project}:{cloud.service.id}"
    found = cloud.kept(project, "mine").headers
    assert (found["X-Container-Read"], found["X-Container-Write"]) == (f".r:*,friend:one,{entry}", entry)
    assert found["X-Container-Meta-Mine"] == "m"
    assert (project, CONTAINER) not in cloud.containers


async def test_a_container_that_was_found_closed_is_opened_again_under_the_same_keys(
    cloud: FakeOpenStack, tenant: Tenant, world: World,
):
    project = tenant.person.project
    (await tenant.back_up(await world.instance(project))).must(202)
    before = carried(cloud, project)
    cloud.kept(project, CONTAINER).headers.pop("X-Container-Read")
    await world.sql("UPDATE backup_containers SET opened_at = NULL")
    (await tenant.back_up(await world.instance(project))).must(202)
    assert "X-Container-Read" in cloud.kept(project, CONTAINER).headers
    assert carried(cloud, project) == await keys_of(world, project) == before
    assert await is_open(world, project)


async def test_keys_that_were_taken_away_are_drawn_anew(cloud: FakeOpenStack, tenant: Tenant, world: World):
    project = tenant.person.project
    (await tenant.back_up(await world.instance(project))).must(202)
    before = carried(cloud, project)
    cloud.kept(project, CONTAINER).headers[KEYS[0]] = "short"
    await world.sql("UPDATE backup_containers SET opened_at = NULL")
    (await tenant.back_up(await world.instance(project))).must(202)
    assert carried(cloud, project) == await keys_of(world, project) != before


async def test_a_death_between_setting_and_storing_loses_nothing(
    cloud: FakeOpenStack, choose_cloud: Callable[..., Any], world: World,
):
    """The keys are on the container and in no row; the next request reads them there."""
    person = cloud.person()
    instance, token = await world.instance(person.project), cloud.token(person)
    stopped = asyncio.Event()

    async def stop_after_put(request: web.Request) -> None:
        if request.method == "HEAD" and cloud.containers:
            stopped.set()
            await asyncio.Event().wait()

    async with api_of(choose_cloud(cloud_timeout=30.0)) as api:
        cloud.before = stop_after_put
        asking = asyncio.create_task(Tenant(api, person, token).back_up(instance))
        await asyncio.wait_for(stopped.wait(), 10)
        asking.cancel()  # and the service with it
    cloud.before = None
    assert await world.count("backup_containers") == 0
    left = carried(cloud, person.project)
    async with api_of(choose_cloud()) as api:
        (await Tenant(api, person, token).back_up(instance)).must(202)
    assert carried(cloud, person.project) == await keys_of(world, person.project) == left


async def test_replicas_that_open_the_same_container_at_once_agree(
    cloud: FakeOpenStack, choose_cloud: Callable[..., Any], world: World,
):
    """All of them see that there is none, and each sets keys of its own."""
    person = cloud.person()
    token = cloud.token(person)
    names = [f"container-{n}" for n in range(6)]
    looking: dict[str, int] = {}
    all_looked = asyncio.Event()

    async def together(request: web.Request) -> None:
        if request.method == "HEAD" and not all_looked.is_set():
            looking[request.path] = looking.get(request.path, 0) + 1
            if sum(looking.values()) == len(names) * 3:
                all_looked.set()
            await asyncio.wait_for(all_looked.wait(), 10)

    instances = [await world.instance(person.project) for _ in range(len(names) * 3)]
    chosen = choose_cloud(cloud_timeout=20.0, quota_backups=-1)
    async with contextlib.AsyncExitStack() as stack:
        replicas = [
            Tenant(await stack.enter_async_context(api_of(chosen)), person, token) for _ in range(3)
        ]
        cloud.before = together
        answers = await asyncio.gather(*(
            replica.back_up(instances[n * 3 + r], swift_container=name)
            for r, replica in enumerate(replicas) for n, name in enumerate(names)
        ))
    assert {answer.status for answer in answers} == {202}
    assert asked_store(cloud).count("PUT") == len(names) * 3, "each of them set keys"
    for name in names:
        assert await keys_of(world, person.project, name) == carried(cloud, person.project, name)


async def test_who_has_seen_keys_that_another_has_replaced_since_looks_again(
    cloud: FakeOpenStack, choose_cloud: Callable[..., Any], world: World,
):
    """One sets keys and reads them back; before it stores them, the other, which saw no container, sets and stores its
    own."""
    person = cloud.person()
    token, looks, steps = cloud.token(person), 0, [asyncio.Event() for _ in range(3)]

    async def in_turn(request: web.Request) -> None:
        nonlocal looks
        if request.method != "HEAD":
            return
        looks += 1
        # the second look lets the first go on, the look back lets the second go on, the other's end the look back
        if looks in {2, 3}:
            steps[looks - 2].set()
        if looks <= 3:
            await asyncio.wait_for(steps[looks - 1].wait(), 10)

    one, other = await world.instance(person.project), await world.instance(person.project)
    async with api_of(choose_cloud(cloud_timeout=20.0)) as first, api_of(choose_cloud(cloud_timeout=20.0)) as second:
        cloud.after = in_turn
        ahead = asyncio.create_task(Tenant(first, person, token).back_up(one))
        while looks == 0:
            await asyncio.sleep(0.01)
        (await Tenant(second, person, token).back_up(other)).must(202)
        assert not ahead.done()
        steps[2].set()
        (await ahead).must(202)
    assert asked_store(cloud).count("PUT") == 2
    assert looks == 5, "the one behind looked once more"
    assert await keys_of(world, person.project) == carried(cloud, person.project)


async def test_who_has_no_role_for_object_storage_is_told(
    cloud: FakeOpenStack, choose_cloud: Callable[..., Any], world: World, tmp_path: Path,
):
    (tmp_path / "policy.yaml").write_text('"backup:create": ""\n')
    person = cloud.person(roles=("reader",))
    instance = await world.instance(person.project)
    async with api_of(choose_cloud(policy_file=str(tmp_path / "policy.yaml"))) as api:
        refused = await Tenant(api, person, cloud.token(person)).back_up(instance)
    assert refused.status == 401
    assert refused.problem.startswith(f"Swift account not accessible for tenant {person.project}")
    assert "swiftoperator" in refused.problem
    assert await world.count("backups") == await world.count("operations") == 0


@pytest.mark.parametrize(("fault", "status"), [
    (500, 503), (503, 503), (429, 503), (498, 503), (0, 503), (413, 413), (400, 400), (302, 400),
])
async def test_what_the_store_may_answer(
    cloud: FakeOpenStack, tenant: Tenant, world: World, fault: int, status: int,
):
    instance = await world.instance(tenant.person.project)
    cloud.faults["object-store"] = fault
    refused = await tenant.back_up(instance)
    assert refused.status == status
    assert tenant.token not in json.dumps(refused.body)
    if status == 503:
        assert refused.headers["x-coffer-retry-after"] == "2"
    assert await world.count("backups") == 0
    cloud.faults.clear()
    (await tenant.back_up(instance)).must(202)


async def test_a_store_that_is_not_there(cloud: FakeOpenStack, choose_cloud: Callable[..., Any], world: World):
    person = cloud.person()
    async with api_of(choose_cloud(region="elsewhere")) as api:
        refused = await Tenant(api, person, cloud.token(person)).back_up(await world.instance(person.project))
    assert (refused.status, refused.problem) == (501, "Region elsewhere has no object store.")


async def test_an_administrator_cannot_open_what_is_anothers(cloud: FakeOpenStack, tenant: Tenant, world: World):
    admin = cloud.person(roles=("admin",))
    ruling = Tenant(tenant.api, admin, cloud.token(admin))
    project = tenant.person.project
    refused = await ruling.back_up(await world.instance(project))
    assert refused.status == 403
    assert project in refused.problem
    (await tenant.back_up(await world.instance(project))).must(202)
    (await ruling.back_up(await world.instance(project))).must(202)
    assert {account for account, _ in cloud.containers} == {f"AUTH_{project}"}


async def test_deleting_says_whether_the_container_is_gone(cloud: FakeOpenStack, tenant: Tenant, world: World):
    project = tenant.person.project
    (await tenant.back_up(instance := await world.instance(project))).must(202)
    kept, gone = await world.backup(instance, project=project), await world.backup(instance, project=project)
    headers = cloud.kept(project, CONTAINER).headers
    headers.pop("X-Container-Write")
    await world.sql("UPDATE backup_containers SET opened_at = NULL")
    assert (await tenant("DELETE", f"/backups/{kept}")).status == 202
    assert "X-Container-Write" in headers, "and it is open again"
    cloud.containers.clear()
    assert (await tenant("DELETE", f"/backups/{gone}")).status == 202
    rows = await world.sql("SELECT args FROM operations WHERE kind = 'delete_backup'")
    assert sorted((row["args"]["backup"], row["args"].get("gone", False)) for row in rows) == sorted(
        [(kept, False), (gone, True)],
    )
    assert not await is_open(world, project)
    assert cloud.containers == {}, "nothing is made for a deletion"


async def test_a_deletion_goes_on_while_the_store_is_away(cloud: FakeOpenStack, tenant: Tenant, world: World):
    backup = await world.backup(await world.instance(tenant.person.project), project=tenant.person.project)
    cloud.faults["object-store"] = 503
    assert (await tenant("DELETE", f"/backups/{backup}")).status == 202
    (row,) = await world.sql("SELECT args FROM operations")
    assert row["args"] == {"backup": backup}


async def test_a_restore_opens_what_is_there_and_makes_nothing(cloud: FakeOpenStack, tenant: Tenant, world: World):
    project = tenant.person.project
    network, _ = cloud.network(project)
    backup = await world.backup(await world.instance(project), project=project)
    wanted = {**instance_on(network), "restorePoint": {"backupRef": backup}}
    refused = await tenant("POST", "/instances", {"instance": wanted})
    assert (refused.status, refused.problem) == (404, f"The container {CONTAINER} cannot be found in the object store.")
    async with aiohttp.ClientSession() as session:
        await session.put(f"{cloud.url}/v1/AUTH_{project}/{CONTAINER}", headers={"X-Auth-Token": tenant.token})
    (await tenant("POST", "/instances", {"instance": wanted})).must(200)
    assert await keys_of(world, project) == carried(cloud, project)


async def test_no_token_is_kept_or_told(
    cloud: FakeOpenStack, choose_cloud: Callable[..., Any], world: World, capfd: pytest.CaptureFixture[str],
):
    person = cloud.person()
    token = cloud.token(person)
    async with api_of(choose_cloud(log_level="debug")) as api:
        tenant = Tenant(api, person, token)
        (await tenant.back_up(await world.instance(person.project))).must(202)
        cloud.faults["object-store"] = 500
        await world.sql("UPDATE backup_containers SET opened_at = NULL")
        assert (await tenant.back_up(await world.instance(person.project))).status == 503
    said = capfd.readouterr()
    for secret in (token, *carried(cloud, person.project)):
        assert secret not in said.out + said.err
    for table in ("operations", "backups", "backup_containers"):
        for row in await world.sql(f"SELECT {table}::text AS line FROM {table}"):
            assert token not in row["line"]


# --- networks ---


def instance_on(network: str | None = None, **nic: str) -> dict[str, Any]:
    nics = [{**({"net-id": network} if network else {}), **nic}]
    return {"name": "x", "flavorRef": "1", "volume": {"size": 1}, "nics": nics if nics[0] else []}


async def test_an_instance_on_the_tenants_own_network(cloud: FakeOpenStack, tenant: Tenant, world: World):
    network, subnet = cloud.network(tenant.person.project)
    for wanted, nic in (
        (instance_on(network), {"network": network}),
        (instance_on(subnet_id=subnet), {"network": network, "subnet": subnet}),
        (instance_on(network, subnet_id=subnet, ip_address="10.5.0.9"),
         {"network": network, "subnet": subnet, "address": "10.5.0.9"}),
    ):
        made = (await tenant("POST", "/instances", {"instance": wanted})).must(200)["instance"]["id"]
        (row,) = await world.sql("SELECT nics FROM instances WHERE id = :id", id=made)
        assert row["nics"] == [nic]


async def test_networks_on_which_nobody_gets_an_instance(cloud: FakeOpenStack, tenant: Tenant, world: World):
    mine, subnet = cloud.network(tenant.person.project)
    other, other_subnet = cloud.network("another project")
    outside, _ = cloud.network("another project", **{"router:external": True})
    shared, shared_subnet = cloud.network("another project", shared=True)
    bare, _ = cloud.network(tenant.person.project, subnets=[])
    nowhere = str(uuid.uuid4())
    for wanted, why in (
        (instance_on(), "Instance network or subnet needs to be specified."),
        (instance_on(nowhere), f"Network {nowhere} cannot be found."),
        (instance_on(other), f"Network {other} cannot be found."),
        (instance_on(outside), f"Network {outside} cannot be found."),
        (instance_on(bare), f"Network {bare} has no subnet."),
        (instance_on(subnet_id=nowhere), f"Subnet {nowhere} cannot be found."),
        (instance_on(subnet_id=other_subnet), f"Subnet {other_subnet} cannot be found."),
        (instance_on(shared, subnet_id=subnet), f"Subnet {subnet} cannot be found in the network {shared}."),
        (instance_on(shared, subnet_id=shared_subnet, ip_address="10.5.0.9"), "An address cannot be chosen on network"),
        (instance_on(mine, subnet_id=subnet, ip_address="10.6.0.9"), "Address 10.6.0.9 is not in the subnet's range"),
        (instance_on(mine, subnet_id=subnet, ip_address="10.5.0.1"), "Address 10.5.0.1 is not one that a machine"),
        (instance_on(mine, subnet_id=subnet, ip_address="10.5.0.255"), "Address 10.5.0.255 is not one that"),
    ):
        refused = await tenant("POST", "/instances", {"instance": wanted})
        assert refused.status == 400, wanted
        assert refused.problem.startswith(why)
    assert await world.count("instances") == 0
    (await tenant("POST", "/instances", {"instance": instance_on(shared, subnet_id=shared_subnet)})).must(200)


async def test_an_administrator_sees_others_networks_and_still_gets_none(
    cloud: FakeOpenStack, tenant: Tenant, world: World,
):
    admin = cloud.person(roles=("admin",))
    other, _ = cloud.network("another project")
    ruling = Tenant(tenant.api, admin, cloud.token(admin))
    refused = await ruling("POST", "/instances", {"instance": instance_on(other)})
    assert (refused.status, refused.problem) == (400, f"Network {other} cannot be found.")


@pytest.mark.parametrize("service", ["network", "compute"])
@pytest.mark.parametrize("fault", [500, 503, 0, 302])
async def test_a_cloud_that_is_away(cloud: FakeOpenStack, tenant: Tenant, world: World, service: str, fault: int):
    network, _ = cloud.network(tenant.person.project)
    cloud.faults[service] = fault
    assert (await tenant("POST", "/instances", {"instance": instance_on(network)})).status == 503
    assert await world.count("instances") == 0


# --- flavors ---


async def test_flavors_are_those_that_the_tenant_may_use(cloud: FakeOpenStack, tenant: Tenant):
    cloud.flavors |= {"gold": {"name": "large", "only": ()}, "odd": {"name": "odd"}, "more": {"name": "more"}}
    network, _ = cloud.network(tenant.person.project)
    wanted = {**instance_on(network), "flavorRef": "gold"}
    refused = await tenant("POST", "/instances", {"instance": wanted})
    assert (refused.status, refused.problem) == (400, "Resource gold cannot be found.")
    assert (await tenant("GET", "/flavors/gold")).status == 404
    assert [flavor["str_id"] for flavor in (await tenant("GET", "/flavors")).must(200)["flavors"]] == ["1"]
    cloud.flavors["gold"]["only"] = (tenant.person.project,)
    (await tenant("GET", "/flavors/gold")).must(200)
    assert [flavor["str_id"] for flavor in (await tenant("GET", "/flavors")).must(200)["flavors"]] == ["1", "gold"]
    (await tenant("POST", "/instances", {"instance": wanted})).must(200)


async def test_nobody_is_resized_to_a_flavor_that_is_not_theirs(cloud: FakeOpenStack, tenant: Tenant, world: World):
    cloud.flavors["gold"] = {"name": "large", "only": ()}
    instance = await world.instance(tenant.person.project)
    bigger = f"/instances/{instance}/action", {"resize": {"flavorRef": "gold"}}
    refused = await tenant("POST", *bigger)
    assert (refused.status, refused.problem) == (400, "Resource gold cannot be found.")
    assert await world.count("operations") == 0
    cloud.flavors["gold"]["only"] = (tenant.person.project,)
    (await tenant("POST", *bigger)).must(202)


async def test_on_docker_nothing_of_the_cloud_is_asked(
    cloud: FakeOpenStack, choose_cloud: Callable[..., Any], world: World,
):
    person = cloud.person()
    async with api_of(choose_cloud(cloud="docker", object_store="service")) as api:
        tenant = Tenant(api, person, cloud.token(person))
        (await tenant("POST", "/instances", {"instance": instance_on()})).must(200)
        (await tenant("GET", "/flavors")).must(200)
        (await tenant.back_up(await world.instance(person.project))).must(202)
    assert {service for service, _, _ in cloud.asked} == {"identity"}
