"""What every cloud driver promises. Each call twice, and twice at once, since two provisioners may run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import pytest

from coffer_provisioner.cloud.interface import (
    Cloud,
    CloudBusy,
    CloudRefused,
    MachineState,
    PublicAddress,
    Resource,
    Volume,
)
from contract.cloud.conftest import Site, Wanted, ready
from support.openstack_stage import reached

New = Callable[..., Wanted]


async def test_a_port_is_kept_for_its_instance(site: Site, wanted: New) -> None:
    cloud, other_door, one, other = site.door(), site.door(), wanted(), wanted()
    port = await one.port(cloud)
    assert await one.port(other_door) == port
    assert await one.port(other_door, address="10.1.1.1") == port, "it has one already"
    second = await other.port(cloud)
    assert second.network == port.network, "one network per project"
    assert second.address != port.address
    await cloud.drop_port(one.instance)
    await cloud.drop_port(one.instance)
    assert await other.port(other_door) == second
    await cloud.drop_port(other.instance)
    assert site.left_over() == []


async def test_ports_asked_for_at_once_are_one_port(site: Site, wanted: New) -> None:
    doors, one = [site.door() for _ in range(4)], wanted()
    ports = await asyncio.gather(*(one.port(door) for door in doors))
    assert len(set(ports)) == 1
    assert len([r for r in await doors[0].resources() if r.kind == "address"]) == 1, "the losers gave theirs back"
    await asyncio.gather(*(door.drop_port(one.instance) for door in doors))
    assert site.left_over() == []


async def test_many_instances_at_once_have_addresses_of_their_own(site: Site, wanted: New) -> None:
    doors, many = [site.door(), site.door()], [wanted() for _ in range(8)]
    ports = await asyncio.gather(*(
        one.port(doors[number % 2]) for number, one in enumerate(many)
    ))
    assert len({port.address for port in ports}) == len(many)
    assert len({port.network for port in ports}) == 1
    await asyncio.gather(*(doors[0].drop_port(one.instance) for one in many))
    await _sweep(doors[0])
    assert site.left_over() == []


async def test_projects_have_networks_of_their_own(site: Site, wanted: New) -> None:
    doors, some = [site.door(), site.door()], [wanted("p-1"), wanted("p-2"), wanted("a project/with ../ odd id")]
    ports = await asyncio.gather(*(
        one.port(doors[number % 2]) for number, one in enumerate(some)
    ))
    assert len({port.network for port in ports}) == 3
    assert len({port.address.rpartition(".")[0] for port in ports}) == 3
    for one in some:
        await doors[0].drop_port(one.instance)
    assert site.left_over() == []


async def test_an_address_that_was_asked_for(site: Site, wanted: New) -> None:
    cloud, first, second, third = site.door(), wanted(), wanted(), wanted()
    port = await first.port(cloud)
    start = port.address.rpartition(".")[0]
    asked = await second.port(cloud, network=port.network, address=f"{start}.77")
    assert asked.address == f"{start}.77"
    for address, code in (
        (f"{start}.77", "address_taken"), (f"{start}.1", "address_taken"), ("192.0.2.1", "no_subnet"),
        ("nonsense", "no_subnet"),
    ):
        with pytest.raises(CloudRefused) as refused:
            await cloud.ensure_port(third.tags, network=port.network, address=address)
        assert refused.value.code == code
    assert third.instance not in {r.instance for r in await cloud.resources()}


async def test_a_network_of_the_tenants_own(site: Site, wanted: New) -> None:
    cloud, one, stranger = site.door(), wanted("p-1"), wanted("p-2")
    network = site.add_network("p-1")
    port = await one.port(cloud, network=network)
    assert port.network == network
    for other in (network, "no-such-network", "../containers/json", " "):
        with pytest.raises(CloudRefused) as refused:
            await cloud.ensure_port(stranger.tags, network=other, address=None)
        assert refused.value.code == "no_network"
    await cloud.drop_port(one.instance)
    assert site.left_over() == [], "the tenant's network is not Coffer's to drop"
    again = await one.port(cloud, network=None, subnet=site.subnet_of(network))
    assert again.network == network, "a subnet is enough to find its network"
    for subnet in (str(uuid4()), port.network.replace(port.network[0], "z")):
        with pytest.raises(CloudRefused) as refused:
            await cloud.ensure_port(wanted("p-1").tags, network=network, address=None, subnet=subnet)
        assert refused.value.code == "no_subnet"
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_port(stranger.tags, network=None, address=None, subnet=site.subnet_of(network))
    assert refused.value.code in {"no_network", "no_subnet"}, "a stranger's subnet is none"


async def test_a_volume(site: Site, wanted: New) -> None:
    doors, one = [site.door() for _ in range(3)], wanted()
    volumes = await asyncio.gather(*(one.volume(door, gib=2) for door in doors))
    assert len(set(volumes)) == 1
    assert volumes[0].ready
    assert volumes[0].gib == 2
    assert (await one.volume(doors[0], gib=9, volume_type="fast")).gib == 2, "it is there already"
    await asyncio.gather(*(door.drop_volume(one.instance) for door in doors))
    assert site.left_over() == []


async def test_a_machine_from_its_making_to_its_end(site: Site, wanted: New) -> None:
    doors, one = [site.door(), site.door()], wanted()
    cloud = doors[0]
    assert await cloud.find_machine(one.instance) is None
    port = await one.port(cloud)
    volume = await one.volume(cloud)
    spec = one.spec(port, volume)
    made = await asyncio.gather(*(one.machine(door, spec) for door in doors))
    assert made[0].id == made[1].id
    machine = await cloud.find_machine(one.instance)
    assert machine is not None
    assert (machine.id, machine.state) == (made[0].id, MachineState.ACTIVE)
    assert await cloud.machines() == {one.instance: machine}
    assert await cloud.ensure_machine(spec) == machine
    assert isinstance(await cloud.console(one.instance, 10), str)

    await site.stop_machine(one.instance)
    stopped = await cloud.find_machine(one.instance)
    assert stopped is not None
    assert stopped.state is MachineState.STOPPED
    assert stopped.fault
    started = await asyncio.gather(*(one.machine(door, spec) for door in doors))
    assert {m.id for m in started} == {machine.id}, "started, not made anew"
    assert {m.state for m in started} == {MachineState.ACTIVE}

    await asyncio.gather(*(door.drop_machine(one.instance) for door in doors))
    await cloud.drop_machine(one.instance)
    assert await cloud.find_machine(one.instance) is None
    assert await cloud.machines() == {}
    assert await one.volume(cloud) == volume, "the data stays"
    assert await one.port(cloud) == port, "so does the address"
    again = await one.machine(cloud, spec)
    assert again.state is MachineState.ACTIVE
    assert again.id != machine.id
    await one.drop(cloud)
    assert site.left_over() == []
    assert await cloud.console(one.instance, 10) == ""


async def test_a_volume_is_marked_until_it_is_dropped(site: Site, wanted: New) -> None:
    cloud, other_door, one = site.door(), site.door(), wanted()
    await one.volume(cloud)
    assert not await cloud.volume_is_marked(one.instance)
    await asyncio.gather(cloud.mark_volume(one.tags), other_door.mark_volume(one.tags))
    assert await other_door.volume_is_marked(one.instance)
    assert "volume-held" in {r.kind for r in await cloud.resources()}
    await cloud.drop_volume(one.instance)
    assert not await cloud.volume_is_marked(one.instance)
    assert site.left_over() == []


async def test_a_machine_needs_its_port_and_its_volume(site: Site, wanted: New) -> None:
    cloud, one = site.door(), wanted()
    port = await one.port(cloud)
    volume = await one.volume(cloud)
    await cloud.drop_volume(one.instance)
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_machine(one.spec(port, volume))
    assert refused.value.code == "no_volume"
    volume = await one.volume(cloud)
    await cloud.drop_port(one.instance)
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_machine(one.spec(port, volume))
    assert refused.value.code == "no_port"
    await one.drop(cloud)
    assert site.left_over() == []


async def test_a_volume_grows_and_never_shrinks(site: Site, wanted: New) -> None:
    cloud, one = site.door(), wanted()
    with pytest.raises(CloudRefused) as refused:
        await cloud.grow_volume(one.instance, 2)
    assert refused.value.code == "no_volume"
    spec = await one.make(cloud)

    async def grow(door: Cloud, gib: int) -> Volume:
        return await reached(lambda: door.grow_volume(one.instance, gib), lambda v: ready(v) and v.gib == gib)

    grown = await asyncio.gather(grow(cloud, 3), grow(site.door(), 3))
    assert {(v.id, v.gib) for v in grown} == {(spec.volume.id, 3)}
    assert await cloud.grow_volume(one.instance, 3) == grown[0]
    assert (await grow(cloud, 4)).gib == 4
    assert (await one.volume(site.door())).gib == 4
    with pytest.raises(CloudRefused) as refused:
        await cloud.grow_volume(one.instance, 2)
    assert refused.value.code == "cannot_shrink"
    with pytest.raises(CloudBusy):
        await cloud.drop_volume(one.instance)
    await one.drop(cloud)
    assert site.left_over() == []


async def test_a_machine_is_restarted(site: Site, wanted: New) -> None:
    cloud, one = site.door(), wanted()
    with pytest.raises(CloudRefused) as refused:
        await cloud.restart_machine(one.instance)
    assert refused.value.code == "no_machine"
    await one.make(cloud)
    before = await cloud.find_machine(one.instance)
    other_door = site.door()

    async def restart(door: Cloud) -> None:
        await reached(lambda: door.restart_machine(one.instance))

    await asyncio.gather(restart(cloud), restart(other_door))
    assert await cloud.find_machine(one.instance) == before
    await site.stop_machine(one.instance)
    await restart(cloud)
    assert await cloud.find_machine(one.instance) == before, "a stopped one is started"


async def test_a_public_address(site: Site, wanted: New) -> None:
    doors, one, other, far = [site.door(), site.door()], wanted(), wanted(), wanted()
    cloud, elsewhere = doors[0], site.door(stack=1)
    ports = {who.instance: await who.port(door) for who, door in ((one, cloud), (other, cloud), (far, elsewhere))}

    async def ask(door: Cloud, who: Wanted, *allowed: str) -> PublicAddress:
        return await reached(lambda: door.ensure_public_address(
            who.tags, port=ports[who.instance], tcp_port=15432, allowed_cidrs=allowed,
        ))

    public = await asyncio.gather(*(ask(door, one, "192.0.2.0/24", "2001:db8::/32") for door in doors))
    assert public[0] == public[1]
    assert public[0].port == 15432
    for allowed in ((), ("10.0.0.0/8",), ("10.0.0.0/8", "192.0.2.7/32")):
        assert await ask(cloud, one, *allowed) == public[0], "changed, not moved"
        assert len([r for r in await cloud.resources() if r.kind == "public"]) == 1
    with pytest.raises(CloudRefused) as refused:
        await ask(cloud, one, "all of it")
    assert refused.value.code == "bad_cidr"
    second = await ask(cloud, other)
    third = await ask(elsewhere, far)
    assert len({public[0].address, second.address, third.address}) == 3, "whatever the stack"
    await asyncio.gather(*(door.drop_public_address(one.instance) for door in doors))
    for dropped in (one, other, far):
        await cloud.drop_public_address(dropped.instance)
        await cloud.drop_port(dropped.instance)
    assert site.left_over() == []
    assert far.instance in {r.instance for r in await elsewhere.resources()}
    await elsewhere.drop_public_address(far.instance)
    await elsewhere.drop_port(far.instance)
    assert await elsewhere.resources() == []


async def test_stacks_do_not_see_each_other(site: Site, wanted: New) -> None:
    here, there, one = site.door(), site.door(stack=1), wanted()
    await one.make(here)
    assert await there.find_machine(one.instance) is None
    assert await there.machines() == {}
    assert await there.resources() == []
    before = await here.resources()
    await one.drop(there)
    for resource in before:
        await there.drop_resource(resource)
    assert sorted(map(str, await here.resources())) == sorted(map(str, before))
    assert (await here.machines())[one.instance].state is MachineState.ACTIVE


async def test_everything_is_tagged_listed_and_can_be_dropped_by_itself(site: Site, wanted: New) -> None:
    cloud, one = site.door(), wanted()
    spec = await one.make(cloud)
    await reached(lambda: cloud.grow_volume(one.instance, 2), ready)
    await cloud.ensure_public_address(one.tags, port=spec.port, tcp_port=15432, allowed_cidrs=())
    found = await cloud.resources()
    assert {(r.instance, r.operation) for r in found} == {(one.instance, one.operation)}
    assert {"machine", "volume", "address", "public"} <= {r.kind for r in found}
    assert "tenant-network" not in {r.kind for r in found}, "it is in use"
    assert len([r for r in found if r.kind == "volume"]) == 1, "the one that holds data"
    with pytest.raises(CloudRefused) as refused:
        await cloud.drop_resource(Resource("quantum-bridge", "7", one.instance, one.operation))
    assert refused.value.code == "unknown_kind"
    await _sweep(cloud)
    assert site.left_over() == []
    for resource in found:
        await cloud.drop_resource(resource)


async def test_what_one_instance_leaves_is_not_taken_from_another(site: Site, wanted: New) -> None:
    cloud, one, other = site.door(), wanted(), wanted()
    port = await one.port(cloud)
    await other.port(cloud)
    for resource in await cloud.resources():
        if resource.instance == one.instance:
            await cloud.drop_resource(resource)
    left = await cloud.resources()
    assert {r.instance for r in left} == {other.instance}
    assert (await other.port(cloud)).network == port.network


@pytest.mark.parametrize("steps", [(0.0, 0.05, 0.15), (0.3, 0.6, 0.9)])
async def test_a_provisioner_that_dies_midway_leaves_nothing_stuck(
    site: Site, wanted: New, steps: tuple[float, ...],
) -> None:
    async def killed_after(seconds: float) -> Wanted:
        one, door = wanted(), site.door()
        making = asyncio.create_task(one.make(door))
        await asyncio.wait([making], timeout=seconds)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        return one

    half_made = await asyncio.gather(*(killed_after(seconds) for seconds in steps))
    cloud = site.door()
    specs = [await one.make(cloud) for one in half_made]
    assert len({spec.port.address for spec in specs}) == len(half_made)
    assert {m.state for m in (await cloud.machines()).values()} == {MachineState.ACTIVE}
    await asyncio.gather(*(one.drop(cloud) for one in half_made))
    await _sweep(cloud)
    assert site.left_over() == []


async def _sweep(cloud: Cloud) -> None:
    """Drop what is listed, as often as it takes: a volume goes after the machine that uses it."""
    for _ in range(5):
        for resource in await cloud.resources():
            try:
                await cloud.drop_resource(resource)
            except CloudBusy:
                continue
        if not await cloud.resources():
            return
