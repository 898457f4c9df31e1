"""What every cloud driver promises of snapshots: as in test_cloud_contract, twice, and at once. Docker's makes none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest

from coffer_provisioner.cloud.interface import Cloud, CloudBusy, CloudRefused
from contract.cloud.conftest import DOCKER, SITES, DockerSite, Site, Wanted, asked_for
from support.openstack_stage import reached

New = Callable[..., Wanted]


@pytest.fixture(params=[one for one in SITES if one is not DOCKER])
def site(request: pytest.FixtureRequest) -> Site:
    return asked_for(request)


async def drop(cloud: Cloud, backup: str) -> None:
    await reached(lambda: cloud.drop_snapshot(backup))


async def test_a_backup_has_one_snapshot(site: Site, wanted: New) -> None:
    doors, one, backup, other = [site.door() for _ in range(3)], wanted(), str(uuid4()), str(uuid4())
    cloud = doors[0]
    await one.make(cloud)
    assert await cloud.find_snapshot(backup) is None
    made = await asyncio.gather(*(one.snapshot(door, backup) for door in doors))
    assert len(set(made)) == 1
    assert made[0].ready
    assert made[0].gib == 1
    assert await one.snapshot(site.door(), backup) == made[0]
    assert await cloud.find_snapshot(backup) == made[0]
    second = await one.snapshot(cloud, other)
    assert second.id != made[0].id
    found = [r for r in await cloud.resources() if r.kind == "snapshot"]
    assert {r.id for r in found} == {made[0].id, second.id}
    assert {(r.instance, r.operation) for r in found} == {(one.instance, one.operation)}
    await asyncio.gather(*(drop(door, backup) for door in doors))
    await cloud.drop_snapshot(backup)
    assert await cloud.find_snapshot(backup) is None
    assert await cloud.find_snapshot(other) == second
    await drop(cloud, other)
    await one.drop(cloud)
    assert site.left_over() == []


async def test_a_snapshot_outlives_the_machine_and_keeps_the_volume(site: Site, wanted: New) -> None:
    cloud, one, backup = site.door(), wanted(), str(uuid4())
    await one.make(cloud)
    made = await one.snapshot(cloud, backup)
    await reached(lambda: cloud.grow_volume(one.instance, 2), lambda volume: volume.ready and volume.gib == 2)
    await reached(lambda: cloud.drop_machine(one.instance))
    with pytest.raises(CloudBusy) as busy:
        await cloud.drop_volume(one.instance)
    assert "snapshots" in str(busy.value)
    volume = next(r for r in await cloud.resources() if r.kind == "volume")
    with pytest.raises(CloudBusy):
        await cloud.drop_resource(volume)
    assert await cloud.find_snapshot(backup) == made, "as the volume was"
    await drop(cloud, backup)
    await one.drop(cloud)
    assert site.left_over() == []


async def test_a_volume_is_made_of_a_snapshot(site: Site, wanted: New) -> None:
    doors, one, two, backup = [site.door(), site.door()], wanted(), wanted(), str(uuid4())
    cloud = doors[0]
    spec = await one.make(cloud)
    await cloud.mark_volume(one.tags)
    snapshot = await one.snapshot(cloud, backup)
    made = await asyncio.gather(*(two.volume(door, gib=2, snapshot=snapshot.id) for door in doors))
    assert made[0] == made[1]
    assert made[0].gib == 2
    assert made[0].id != spec.volume.id
    assert not await cloud.volume_is_marked(two.instance), "it is another volume"
    assert await cloud.volume_is_marked(one.instance)
    tagged = {r.instance: r.operation for r in await cloud.resources() if r.kind == "volume"}
    assert tagged == {one.instance: one.operation, two.instance: two.operation}
    await two.machine(cloud, two.spec(await two.port(cloud), made[0]))
    assert await two.volume(cloud, snapshot=str(uuid4())) == made[0], "it is there already"
    await two.drop(cloud)
    assert await cloud.find_snapshot(backup) == snapshot
    await drop(cloud, backup)
    await one.drop(cloud)
    assert site.left_over() == []


async def test_what_cannot_be_copied(site: Site, wanted: New) -> None:
    cloud, elsewhere, one, far, backup = site.door(), site.door(stack=1), wanted(), wanted(), str(uuid4())
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_snapshot(one.tags, backup=backup)
    assert refused.value.code == "no_volume"
    await one.volume(cloud, gib=2)
    snapshot = await one.snapshot(cloud, backup)
    await far.volume(elsewhere)
    foreign = await far.snapshot(elsewhere, backup)
    for source in (str(uuid4()), "../volumes", " ", foreign.id):
        with pytest.raises(CloudRefused) as refused:
            await cloud.ensure_volume(wanted().tags, gib=2, volume_type=None, snapshot=source)
        assert refused.value.code == "no_snapshot"
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_volume(wanted().tags, gib=1, volume_type=None, snapshot=snapshot.id)
    assert refused.value.code == "too_small"
    assert {r.instance for r in await cloud.resources()} == {one.instance}, "a refusal makes nothing"
    await drop(cloud, backup)
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_volume(wanted().tags, gib=2, volume_type=None, snapshot=snapshot.id)
    assert refused.value.code == "no_snapshot"
    assert await elsewhere.find_snapshot(backup) == foreign, "another stack's is another one"
    for resource in await elsewhere.resources():
        await cloud.drop_resource(resource)
    assert await elsewhere.find_snapshot(backup) == foreign
    await drop(elsewhere, backup)
    await reached(lambda: elsewhere.drop_volume(far.instance))
    await reached(lambda: cloud.drop_volume(one.instance))
    assert await elsewhere.resources() == []
    assert site.left_over() == []


async def test_a_snapshot_can_be_dropped_by_itself(site: Site, wanted: New) -> None:
    cloud, one, backup = site.door(), wanted(), str(uuid4())
    await one.volume(cloud)
    await one.snapshot(cloud, backup)
    resource = next(r for r in await cloud.resources() if r.kind == "snapshot")
    await reached(lambda: cloud.drop_resource(resource))
    await cloud.drop_resource(resource)
    assert await cloud.find_snapshot(backup) is None
    await reached(lambda: cloud.drop_volume(one.instance))
    assert site.left_over() == []


@pytest.mark.parametrize("steps", [(0.0, 0.05, 0.15), (0.3, 0.6, 0.9)])
async def test_a_provisioner_that_dies_while_copying(site: Site, wanted: New, steps: tuple[float, ...]) -> None:
    cloud = site.door()

    async def copy(door: Cloud, one: Wanted, two: Wanted, backup: str) -> str:
        snapshot = await one.snapshot(door, backup)
        return (await two.volume(door, snapshot=snapshot.id)).id

    async def live(seconds: float) -> None:
        one, two, backup, door = wanted(), wanted(), str(uuid4()), site.door()
        await one.volume(cloud)
        doing = asyncio.create_task(copy(door, one, two, backup))
        await asyncio.wait([doing], timeout=seconds)
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
        made = await copy(cloud, one, two, backup)
        assert await copy(cloud, one, two, backup) == made
        await reached(lambda: cloud.drop_volume(two.instance))
        await drop(cloud, backup)
        await reached(lambda: cloud.drop_volume(one.instance))

    await asyncio.gather(*(live(seconds) for seconds in steps))
    assert await cloud.resources() == []
    assert site.left_over() == []


@pytest.mark.docker
async def test_a_docker_host_makes_none(docker_site: DockerSite) -> None:
    cloud, one, backup = docker_site.door(), Wanted(), str(uuid4())
    await one.volume(cloud)
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_snapshot(one.tags, backup=backup)
    assert refused.value.code == "no_snapshots"
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_volume(Wanted().tags, gib=1, volume_type=None, snapshot=str(uuid4()))
    assert refused.value.code == "no_snapshots"
    assert await cloud.find_snapshot(backup) is None
    await cloud.drop_snapshot(backup)
    assert {r.instance for r in await cloud.resources()} == {one.instance}
    await cloud.drop_volume(one.instance)
    assert docker_site.left_over() == []
