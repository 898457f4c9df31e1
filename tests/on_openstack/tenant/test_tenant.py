"""The API and the storage driver with a tenant's token and a service's user who has the role `reader` and no other."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from coffer_manage import nova_flavors
from coffer_provisioner.backup_records import PostgresBackups
from coffer_provisioner.storage.configured import storages
from coffer_provisioner.storage.interface import Closed, Container, Storage
from coffer_shared.backups import Grant
from integration.api.service import MASTER, Answer, Caller, World, serving
from support.tenant_ground import TenantGround

pytestmark = pytest.mark.timeout(300)
KEYS = ("x-container-meta-temp-url-key", "x-container-meta-temp-url-key-2")
PREFIX = "instance/backup/"


@dataclass
class Scene:
    """An installation, and the tenant of the ground."""

    ground: TenantGround
    world: World
    settings: Callable[..., Any]
    storage_file: str
    entry: str
    directory: Path

    @contextlib.asynccontextmanager
    async def api(self, **more: Any) -> AsyncIterator[Callable[..., Any]]:
        async with serving(self.settings(**more)) as api:
            api.user = ""
            yield self.caller(api)

    def caller(self, api: Caller) -> Callable[..., Any]:
        async def ask(method: str, path: str, body: Any = None) -> Answer:
            url = f"/v1.0/{self.ground.project}{path}"
            return await api.bare(method, url, body, headers={"X-Auth-Token": self.ground.token})

        return ask

    async def back_up(self, ask: Callable[..., Any], container: str) -> Answer:
        instance = await self.world.instance(self.ground.project)
        return await ask(
            "POST", "/backups", {"backup": {"name": "b", "instance": instance, "swift_container": container}},
        )

    def store(self) -> Storage:
        (self.directory / "storage.json").write_text(json.dumps({"swift": {"keystone": {
            "clouds_file": self.storage_file, "cloud": "storage", "region": self.ground.region,
        }}}))
        return storages(self.directory / "storage.json")["swift"]

    async def known(self, container: str) -> Container:
        """As the provisioner knows it."""
        row = {"project_id": self.ground.project, "storage": "swift", "container": container}
        return await PostgresBackups(self.world.db, MASTER).container(row)


@pytest.fixture
async def scene(ground: TenantGround, world: World, choose: Callable[..., Any], tmp_path: Path) -> Scene:
    storage_file, entry = ground.storage_user(tmp_path)

    def settings(**more: Any) -> Any:
        return choose(**{
            "auth_strategy": "keystone", "keystone_clouds": ground.file, "keystone_cloud": ground.cloud,
            "keystone_timeout": 30.0, "cloud_timeout": 30.0, "cloud": "openstack", "object_store": "tenant",
            "region": ground.region, "storage_user": entry, "default_datastore": "postgresql", "quota_backups": -1,
            **more,
        })

    return Scene(ground, world, settings, storage_file, entry, tmp_path)


async def as_a_guest(grant: Grant, name: str, data: bytes | None = None) -> tuple[int, bytes]:
    url = f"{grant.url}{name}?{grant.query}"
    async with aiohttp.ClientSession() as session, session.request(grant.method, url, data=data) as answer:
        return answer.status, await answer.read()


def granted(store: Storage, container: Container, method: str) -> Grant:
    return store.grant(container, PREFIX, method, until=time.time() + 60)


async def test_a_backups_objects_go_into_the_tenants_account_and_come_out_again(scene: Scene) -> None:
    name = scene.ground.container()
    async with scene.api() as ask:
        (await scene.back_up(ask, name)).must(202)
    seen = scene.ground.headers(name)
    assert (seen["x-container-read"], seen["x-container-write"]) == (scene.entry, scene.entry)
    container = await scene.known(name)
    assert container.keys == tuple(seen[key] for key in KEYS)
    (row,) = await scene.world.sql("SELECT digest, opened_at FROM backup_containers")
    assert row["digest"] == hashlib.sha256("\n".join(container.keys).encode()).hexdigest()
    assert row["opened_at"] is not None

    store = scene.store()
    await store.ensure_container(container)
    data = bytes(range(256)) * 4096
    for part in ("segments/00000000", "manifest.json"):
        assert (await as_a_guest(granted(store, container, "PUT"), part, data))[0] == 201
    listed = await store.listing(container, PREFIX)
    assert [(each.name, each.bytes) for each in listed] == [
        ("manifest.json", len(data)), ("segments/00000000", len(data)),
    ]
    assert {each.md5 for each in listed} == {hashlib.md5(data).hexdigest()}
    assert await store.read(container, PREFIX + "manifest.json", limit=len(data)) == data
    assert await as_a_guest(granted(store, container, "GET"), "segments/00000000") == (200, data)
    owned = scene.ground.store("GET", f"{name}/{PREFIX}manifest.json")
    assert (owned.status_code, owned.content) == (200, data), "they are the tenant's"
    assert (await as_a_guest(granted(store, container, "GET"), "manifest.json", data))[0] == 200
    assert await store.remove(container, PREFIX) == 2
    assert await store.listing(container, PREFIX) == []
    await store.close()


async def test_replicas_that_open_containers_at_once_agree_on_the_keys(scene: Scene) -> None:
    names = [scene.ground.container() for _ in range(4)]
    async with scene.api() as one, scene.api() as other, scene.api() as third:
        answers = await asyncio.gather(*(
            scene.back_up(ask, name) for name in names for ask in (one, other, third)
        ))
    assert {answer.status for answer in answers} == {202}
    store = scene.store()
    for name in names:
        container, seen = await scene.known(name), scene.ground.headers(name)
        assert container.keys == tuple(seen[key] for key in KEYS)
        await store.ensure_container(container)
    await store.close()


async def test_a_death_between_setting_and_storing_is_healed_by_the_next_request(scene: Scene) -> None:
    name, keys = scene.ground.container(), ("a1" * 32, "b2" * 32)
    set_by_who_died = dict(zip(KEYS, keys, strict=True)) | {"X-Container-Read": scene.entry}
    assert scene.ground.store("PUT", name, set_by_who_died).status_code == 201
    async with scene.api() as ask:
        (await scene.back_up(ask, name)).must(202)
    assert (await scene.known(name)).keys == keys
    store = scene.store()
    await store.ensure_container(await scene.known(name))
    await store.close()


@pytest.mark.parametrize("taken", ["X-Container-Read", "X-Container-Write", *KEYS[:1]])
async def test_what_the_tenant_took_away_is_found_told_and_given_again(scene: Scene, taken: str) -> None:
    name, store = scene.ground.container(), scene.store()
    async with scene.api() as ask:
        (await scene.back_up(ask, name)).must(202)
        container = await scene.known(name)
        await store.ensure_container(container)
        mine = {taken: "", "X-Container-Meta-Mine": "m"}
        assert scene.ground.store("POST", name, mine).status_code == 204
        with pytest.raises(Closed, match="a token of the project"):
            await store.ensure_container(container)
        row = {"project_id": scene.ground.project, "storage": "swift", "container": name}
        await PostgresBackups(scene.world.db, MASTER).note_closed(row)
        (await scene.back_up(ask, name)).must(202)
    again = await scene.known(name)
    await store.ensure_container(again)
    assert (again.keys == container.keys) == (taken not in KEYS)
    assert scene.ground.headers(name)["x-container-meta-mine"] == "m"
    await store.close()


async def test_the_services_user_may_do_nothing_but_what_the_container_says(scene: Scene) -> None:
    name, closed = scene.ground.container(), scene.ground.container()
    assert scene.ground.store("PUT", closed).status_code == 201
    async with scene.api() as ask:
        (await scene.back_up(ask, name)).must(202)
    store = scene.store()
    for other in (closed, f"coffer-test-{uuid.uuid4().hex}"):
        for call in (store.listing, store.remove):
            with pytest.raises(Closed):
                await call(Container(scene.ground.project, other, ("k" * 64, "k" * 64)), PREFIX)
    await store.close()


async def test_a_container_that_the_tenant_removed_counts_as_gone_at_the_deletion(scene: Scene) -> None:
    name = scene.ground.container()
    backup = await scene.world.backup(
        await scene.world.instance(scene.ground.project), project=scene.ground.project, container=name,
    )
    async with scene.api() as ask:
        assert (await ask("DELETE", f"/backups/{backup}")).status == 202
    (row,) = await scene.world.sql("SELECT args FROM operations WHERE kind = 'delete_backup'")
    assert row["args"] == {"backup": backup, "gone": True}
    assert scene.ground.store("HEAD", name).status_code == 404


async def test_networks_and_flavors_are_those_that_the_tenant_may_use(scene: Scene) -> None:
    ground = scene.ground
    private = ground.private_flavor()
    await _sync_flavors(scene)
    public = [row["id"] for row in await scene.world.sql("SELECT id FROM flavors WHERE id <> :p", p=private)]
    network, subnet = ground.network(ground.tenant, "10.77.1.0/24")
    other, other_subnet = ground.network(ground.admin, "10.77.2.0/24")
    shared, shared_subnet = ground.network(ground.admin, "10.77.3.0/24", shared=True)

    def wanted(net: str | None = None, flavor: str = public[0], **nic: str) -> Any:
        nics = [{**({"net-id": net} if net else {}), **nic}]
        return {"instance": {"name": "x", "flavorRef": flavor, "volume": {"size": 1}, "nics": nics if nics[0] else []}}

    async with scene.api() as ask:
        for body, why in (
            (wanted(), "Instance network or subnet needs to be specified."),
            (wanted(other), f"Network {other} cannot be found."),
            (wanted(ground.external_network()), "Network "),
            (wanted(str(uuid.uuid4())), "Network "),
            (wanted(subnet_id=other_subnet), f"Subnet {other_subnet} cannot be found."),
            (wanted(network, subnet_id=shared_subnet), f"Subnet {shared_subnet} cannot be found in the network"),
            (wanted(network, subnet_id=subnet, ip_address="10.77.2.9"), "Address 10.77.2.9 is not in"),
            (wanted(network, subnet_id=subnet, ip_address="10.77.1.1"), "Address 10.77.1.1 is not one"),
            (wanted(shared, subnet_id=shared_subnet, ip_address="10.77.3.9"), "An address cannot be chosen"),
            (wanted(network, private), f"Resource {private} cannot be found."),
        ):
            refused = await ask("POST", "/instances", body)
            assert refused.status == 400, body
            assert refused.problem.startswith(why)
        for body in (wanted(network), wanted(subnet_id=subnet, ip_address="10.77.1.9"), wanted(shared)):
            (await ask("POST", "/instances", body)).must(200)
        listed = (await ask("GET", "/flavors")).must(200)["flavors"]
        assert {flavor["str_id"] for flavor in listed} == set(public)
        assert (await ask("GET", f"/flavors/{private}")).status == 404
        assert (await ask("GET", f"/flavors/{public[0]}")).status == 200
    rows = await scene.world.sql("SELECT nics FROM instances ORDER BY created_at")
    assert [row["nics"][0]["network"] for row in rows] == [network, network, shared]


async def _sync_flavors(scene: Scene) -> None:
    from argparse import Namespace

    given = Namespace(
        clouds=scene.ground.file, cloud=scene.ground.cloud, region=scene.ground.region, interface="public",
    )
    await asyncio.to_thread(nova_flavors._fetch, given)
    async with scene.world.db.begin() as session:
        await nova_flavors._sync(session, given)
