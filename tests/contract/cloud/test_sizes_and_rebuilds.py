"""What every cloud driver promises of access, sizes and rebuilds: as in test_cloud_contract, twice, and at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

import pytest

from coffer_provisioner.cloud.interface import Cloud, CloudBusy, CloudRefused, Machine, MachineState, Size, Tags
from contract.cloud.conftest import Site, Wanted
from support.openstack_stage import active, reached

New = Callable[..., Wanted]


def another_operation(one: Wanted) -> Tags:
    return Tags(one.instance, str(uuid4()), one.project)


def resized(machine: Machine) -> bool:
    """It runs, whether the way back is open or not."""
    assert machine.state is not MachineState.ERROR, machine.fault
    return machine.state is MachineState.ACTIVE


async def resize(cloud: Cloud, tags: Tags, size: Size) -> Machine:
    return await reached(lambda: cloud.resize_machine(tags, size), resized)


async def confirm(cloud: Cloud, instance: str) -> Machine:
    return await reached(lambda: cloud.confirm_resize(instance), active)


async def test_access(site: Site, wanted: New) -> None:
    doors, one = [site.door(), site.door()], wanted()
    cloud = doors[0]

    async def let_in(door: Cloud, *allowed: str, port: int = 15432) -> None:
        await reached(lambda: door.ensure_access(one.tags, tcp_port=port, allowed_cidrs=allowed))

    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_access(one.tags, tcp_port=15432, allowed_cidrs=())
    assert refused.value.code == "no_port"
    port = await one.port(cloud)
    before = {(r.kind, r.id) for r in await cloud.resources()}
    await asyncio.gather(*(let_in(door, "192.0.2.0/24", "2001:db8::/32") for door in doors))
    for allowed in ((), ("10.0.0.0/8",), ("10.1.2.3/8", "192.0.2.7", "::/0")):
        await let_in(cloud, *allowed)
    await let_in(cloud, "10.0.0.0/8", port=15433)
    for bad in ("all of it", "", "10.0.0.0/33", "192.0.2.0/24/7", "2001:db8::/129"):
        with pytest.raises(CloudRefused) as refused:
            await cloud.ensure_access(one.tags, tcp_port=15432, allowed_cidrs=("10.0.0.0/8", bad))
        assert refused.value.code == "bad_cidr"
    assert {(r.kind, r.id) for r in await cloud.resources()} == before, "who may connect is no resource of its own"
    assert await one.port(cloud) == port
    await cloud.drop_port(one.instance)
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_access(one.tags, tcp_port=15432, allowed_cidrs=())
    assert refused.value.code == "no_port"
    assert site.left_over() == []


async def test_another_size(site: Site, wanted: New) -> None:
    doors, one = [site.door(), site.door()], wanted()
    cloud, (small, medium, large) = doors[0], site.sizes
    spec = await one.make(cloud)
    before = await cloud.find_machine(one.instance)
    assert before is not None
    growing = another_operation(one)
    assert await cloud.resize_machine(growing, small) == before, "it has it already"
    made = await asyncio.gather(*(resize(door, growing, medium) for door in doors))
    assert {m.id for m in made} == {before.id}
    assert len({m.unconfirmed for m in made}) == 1
    found = await cloud.find_machine(one.instance)
    assert found == made[0] == (await cloud.machines())[one.instance]
    assert await resize(cloud, growing, medium) == found, "asked for again, nothing is done"
    await asyncio.gather(*(confirm(door, one.instance) for door in doors))
    confirmed = await confirm(cloud, one.instance)
    assert confirmed == replace(made[0], unconfirmed=False)
    assert await cloud.confirm_resize(one.instance) == confirmed, "there is nothing to confirm"
    assert await resize(cloud, another_operation(one), medium) == confirmed
    await resize(cloud, another_operation(one), large)
    await confirm(cloud, one.instance)
    assert await cloud.ensure_machine(spec) == confirmed, "the size is the cloud's to know, and is not set back"
    assert (await one.volume(cloud)).id == spec.volume.id
    assert await one.port(cloud) == spec.port
    await one.drop(cloud)
    assert site.left_over() == []


async def test_the_way_back(site: Site, wanted: New) -> None:
    doors, one = [site.door(), site.door()], wanted()
    cloud, (small, medium, _) = doors[0], site.sizes
    await one.make(cloud)
    before = await cloud.find_machine(one.instance)
    growing = another_operation(one)

    async def back(door: Cloud) -> Machine:
        return await reached(lambda: door.revert_resize(growing, small), resized)

    assert await back(cloud) == before, "it has never left"
    await resize(cloud, growing, medium)
    await asyncio.gather(*(back(door) for door in doors))
    await confirm(cloud, one.instance)
    assert await cloud.find_machine(one.instance) == before
    later = another_operation(one)
    await resize(cloud, later, medium)
    await confirm(cloud, one.instance)
    await reached(lambda: cloud.revert_resize(later, small), resized)
    await confirm(cloud, one.instance)
    assert await cloud.resize_machine(another_operation(one), small) == before, "also when the way was closed"
    await one.drop(cloud)
    assert site.left_over() == []


async def test_what_cannot_be_resized(site: Site, wanted: New) -> None:
    cloud, one, (_, medium, _) = site.door(), wanted(), site.sizes
    for asking in (
        lambda: cloud.resize_machine(one.tags, medium), lambda: cloud.revert_resize(one.tags, medium),
        lambda: cloud.confirm_resize(one.instance),
    ):
        with pytest.raises(CloudRefused) as refused:
            await asking()
        assert refused.value.code == "no_machine"


async def test_a_stopped_machine_gets_another_size(site: Site, wanted: New) -> None:
    cloud, one, (_, medium, _) = site.door(), wanted(), site.sizes
    spec = await one.make(cloud)
    await site.stop_machine(one.instance)
    tags = another_operation(one)

    async def settled() -> Machine:
        machine = await cloud.resize_machine(tags, medium)
        return await cloud.confirm_resize(one.instance) if machine.unconfirmed else machine

    await reached(settled, lambda m: m.state is not MachineState.BUILDING and not m.unconfirmed)
    assert (await one.machine(cloud, spec)).state is MachineState.ACTIVE, "then it can be started"


async def test_a_rebuild(site: Site, wanted: New) -> None:
    doors, one = [site.door(), site.door()], wanted()
    cloud = doors[0]
    spec = await one.make(cloud)
    await cloud.mark_volume(one.tags)
    newer = replace(spec, tags=another_operation(one), user_data=b'{"secret": "another"}')

    async def rebuild(door: Cloud) -> Machine:
        return await reached(lambda: door.rebuild_machine(newer), active)

    made = await asyncio.gather(*(rebuild(door) for door in doors))
    assert made[0] == made[1]
    assert await cloud.rebuild_machine(newer) == made[0], "once for each operation"
    assert await cloud.machines() == {one.instance: made[0]}
    assert (await one.volume(cloud)).id == spec.volume.id
    assert await cloud.volume_is_marked(one.instance)
    assert await one.port(cloud) == spec.port
    await site.stop_machine(one.instance)
    last = replace(newer, tags=another_operation(one))
    await reached(lambda: cloud.rebuild_machine(last), lambda m: m.state is not MachineState.BUILDING)
    await one.machine(cloud, last)
    await cloud.drop_machine(one.instance)
    assert (await reached(lambda: cloud.rebuild_machine(last), active)).id, "without a machine it makes one"
    await one.drop(cloud)
    assert site.left_over() == []


async def test_a_rebuild_needs_port_and_volume(site: Site, wanted: New) -> None:
    cloud, one = site.door(), wanted()
    port, volume = await one.port(cloud), await one.volume(cloud)
    spec = one.spec(port, volume)
    await cloud.drop_volume(one.instance)
    with pytest.raises(CloudRefused) as refused:
        await cloud.rebuild_machine(spec)
    assert refused.value.code == "no_volume"
    await one.drop(cloud)
    assert site.left_over() == []


async def test_a_provisioner_that_dies_while_resizing_or_rebuilding(site: Site, wanted: New) -> None:
    one, (_, medium, _) = wanted(), site.sizes
    cloud = site.door()
    spec = await one.make(cloud)
    for seconds in (0.0, 0.1, 0.4):
        tags = another_operation(one)
        newer = replace(spec, tags=tags)

        async def work(door: Cloud, tags: Tags = tags, newer: object = newer) -> None:
            await resize(door, tags, medium)
            await confirm(door, one.instance)
            await reached(lambda: door.rebuild_machine(newer), active)  # type: ignore[arg-type]

        doing = asyncio.create_task(work(site.door()))
        await asyncio.wait([doing], timeout=seconds)
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)
        await work(cloud)
        found = await cloud.find_machine(one.instance)
        assert found is not None
        assert active(found)
    with pytest.raises(CloudBusy):
        await cloud.drop_volume(one.instance)
    await one.drop(cloud)
    assert site.left_over() == []
