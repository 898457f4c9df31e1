"""What every cloud driver promises. Each call twice, and twice at once, since two provisioners may run."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from coffer_provisioner.cloud.interface import Cloud, CloudBusy, CloudRefused, MachineState, PublicAddress, Resource
from contract.cloud.conftest import Site, Wanted


async def test_a_port_is_kept_for_its_instance(site: Site) -> None:
    cloud, other_door, one, other = site.door(), site.door(), Wanted(), Wanted()
    port = await cloud.ensure_port(one.tags, network=None, address=None)
    assert await other_door.ensure_port(one.tags, network=None, address=None) == port
    assert await other_door.ensure_port(one.tags, network=None, address="10.1.1.1") == port, "it has one already"
    second = await cloud.ensure_port(other.tags, network=None, address=None)
    assert second.network == port.network, "one network per project"
    assert second.address != port.address
    await cloud.drop_port(one.instance)
    await cloud.drop_port(one.instance)
    assert await other_door.ensure_port(other.tags, network=None, address=None) == second
    await cloud.drop_port(other.instance)
    assert site.left_over() == []


async def test_ports_asked_for_at_once_are_one_port(site: Site) -> None:
    doors, one = [site.door() for _ in range(4)], Wanted()
    ports = await asyncio.gather(*(door.ensure_port(one.tags, network=None, address=None) for door in doors))
    assert len(set(ports)) == 1
    assert len([r for r in await doors[0].resources() if r.kind == "address"]) == 1, "the losers gave theirs back"
    await asyncio.gather(*(door.drop_port(one.instance) for door in doors))
    assert site.left_over() == []


async def test_many_instances_at_once_have_addresses_of_their_own(site: Site) -> None:
    doors, many = [site.door(), site.door()], [Wanted() for _ in range(8)]
    ports = await asyncio.gather(*(
        doors[number % 2].ensure_port(one.tags, network=None, address=None) for number, one in enumerate(many)
    ))
    assert len({port.address for port in ports}) == len(many)
    assert len({port.network for port in ports}) == 1
    await asyncio.gather(*(doors[0].drop_port(one.instance) for one in many))
    await _sweep(doors[0])
    assert site.left_over() == []


async def test_projects_have_networks_of_their_own(site: Site) -> None:
    doors, wanted = [site.door(), site.door()], [Wanted("p-1"), Wanted("p-2"), Wanted("a project/with ../ odd id")]
    ports = await asyncio.gather(*(
        doors[number % 2].ensure_port(one.tags, network=None, address=None) for number, one in enumerate(wanted)
    ))
    assert len({port.network for port in ports}) == 3
    assert len({port.address.rpartition(".")[0] for port in ports}) == 3
    for one in wanted:
        await doors[0].drop_port(one.instance)
    assert site.left_over() == []


async def test_an_address_that_was_asked_for(site: Site) -> None:
    cloud, first, second, third = site.door(), Wanted(), Wanted(), Wanted()
    port = await cloud.ensure_port(first.tags, network=None, address=None)
    start = port.address.rpartition(".")[0]
    wanted = await cloud.ensure_port(second.tags, network=port.network, address=f"{start}.77")
    assert wanted.address == f"{start}.77"
    for address, code in (
        (f"{start}.77", "address_taken"), (f"{start}.1", "address_taken"), ("192.0.2.1", "no_subnet"),
        ("nonsense", "no_subnet"),
    ):
        with pytest.raises(CloudRefused) as refused:
            await cloud.ensure_port(third.tags, network=port.network, address=address)
        assert refused.value.code == code
    assert third.instance not in {r.instance for r in await cloud.resources()}


async def test_a_network_of_the_tenants_own(site: Site) -> None:
    cloud, one, stranger = site.door(), Wanted("p-1"), Wanted("p-2")
    network = site.add_network("p-1")
    port = await cloud.ensure_port(one.tags, network=network, address=None)
    assert port.network == network
    for wanted in (network, "no-such-network", "../containers/json", " "):
        with pytest.raises(CloudRefused) as refused:
            await cloud.ensure_port(stranger.tags, network=wanted, address=None)
        assert refused.value.code == "no_network"
    await cloud.drop_port(one.instance)
    assert site.left_over() == [], "the tenant's network is not Coffer's to drop"
    again = await cloud.ensure_port(one.tags, network=None, address=None, subnet=network)
    assert again.network == network, "a subnet is enough to find its network"
    for subnet in (str(uuid4()), port.network.replace(port.network[0], "z")):
        with pytest.raises(CloudRefused) as refused:
            await cloud.ensure_port(Wanted("p-1").tags, network=network, address=None, subnet=subnet)
        assert refused.value.code == "no_subnet"


async def test_a_volume(site: Site) -> None:
    doors, one = [site.door() for _ in range(3)], Wanted()
    volumes = await asyncio.gather(*(door.ensure_volume(one.tags, gib=2, volume_type=None) for door in doors))
    assert len(set(volumes)) == 1
    assert volumes[0].ready
    assert volumes[0].gib == 2
    assert (await doors[0].ensure_volume(one.tags, gib=9, volume_type="fast")).gib == 2, "it is there already"
    await asyncio.gather(*(door.drop_volume(one.instance) for door in doors))
    assert site.left_over() == []


async def test_a_machine_from_its_making_to_its_end(site: Site) -> None:
    doors, one = [site.door(), site.door()], Wanted()
    cloud = doors[0]
    assert await cloud.find_machine(one.instance) is None
    port = await cloud.ensure_port(one.tags, network=None, address=None)
    volume = await cloud.ensure_volume(one.tags, gib=1, volume_type=None)
    spec = one.spec(port, volume)
    made = await asyncio.gather(*(door.ensure_machine(spec) for door in doors))
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
    started = await asyncio.gather(*(door.ensure_machine(spec) for door in doors))
    assert {m.id for m in started} == {machine.id}, "started, not made anew"
    assert {m.state for m in started} == {MachineState.ACTIVE}

    await asyncio.gather(*(door.drop_machine(one.instance) for door in doors))
    await cloud.drop_machine(one.instance)
    assert await cloud.find_machine(one.instance) is None
    assert await cloud.machines() == {}
    assert await cloud.ensure_volume(one.tags, gib=1, volume_type=None) == volume, "the data stays"
    assert await cloud.ensure_port(one.tags, network=None, address=None) == port, "so does the address"
    again = await cloud.ensure_machine(spec)
    assert again.state is MachineState.ACTIVE
    assert again.id != machine.id
    await one.drop(cloud)
    assert site.left_over() == []
    assert await cloud.console(one.instance, 10) == ""


async def test_a_volume_is_marked_until_it_is_dropped(site: Site) -> None:
    cloud, other_door, one = site.door(), site.door(), Wanted()
    await cloud.ensure_volume(one.tags, gib=1, volume_type=None)
    assert not await cloud.volume_is_marked(one.instance)
    await asyncio.gather(cloud.mark_volume(one.tags), other_door.mark_volume(one.tags))
    assert await other_door.volume_is_marked(one.instance)
    assert "volume-held" in {r.kind for r in await cloud.resources()}
    await cloud.drop_volume(one.instance)
    assert not await cloud.volume_is_marked(one.instance)
    assert site.left_over() == []


async def test_a_machine_needs_its_port_and_its_volume(site: Site) -> None:
    cloud, one = site.door(), Wanted()
    port = await cloud.ensure_port(one.tags, network=None, address=None)
    volume = await cloud.ensure_volume(one.tags, gib=1, volume_type=None)
    await cloud.drop_volume(one.instance)
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_machine(one.spec(port, volume))
    assert refused.value.code == "no_volume"
    volume = await cloud.ensure_volume(one.tags, gib=1, volume_type=None)
    await cloud.drop_port(one.instance)
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_machine(one.spec(port, volume))
    assert refused.value.code == "no_port"
    await one.drop(cloud)
    assert site.left_over() == []


async def test_a_volume_grows_and_never_shrinks(site: Site) -> None:
    cloud, one = site.door(), Wanted()
    with pytest.raises(CloudRefused) as refused:
        await cloud.grow_volume(one.instance, 2)
    assert refused.value.code == "no_volume"
    spec = await one.make(cloud)
    grown = await asyncio.gather(cloud.grow_volume(one.instance, 3), site.door().grow_volume(one.instance, 3))
    assert {(v.id, v.gib) for v in grown} == {(spec.volume.id, 3)}
    assert await cloud.grow_volume(one.instance, 3) == grown[0]
    assert (await cloud.grow_volume(one.instance, 4)).gib == 4
    assert (await site.door().ensure_volume(one.tags, gib=1, volume_type=None)).gib == 4
    with pytest.raises(CloudRefused) as refused:
        await cloud.grow_volume(one.instance, 2)
    assert refused.value.code == "cannot_shrink"
    with pytest.raises(CloudBusy):
        await cloud.drop_volume(one.instance)
    await one.drop(cloud)
    assert site.left_over() == []


async def test_a_machine_is_restarted(site: Site) -> None:
    cloud, one = site.door(), Wanted()
    with pytest.raises(CloudRefused) as refused:
        await cloud.restart_machine(one.instance)
    assert refused.value.code == "no_machine"
    await one.make(cloud)
    before = await cloud.find_machine(one.instance)
    await asyncio.gather(cloud.restart_machine(one.instance), site.door().restart_machine(one.instance))
    assert await cloud.find_machine(one.instance) == before
    await site.stop_machine(one.instance)
    await cloud.restart_machine(one.instance)
    assert await cloud.find_machine(one.instance) == before, "a stopped one is started"


async def test_a_public_address(site: Site) -> None:
    doors, one, other, far = [site.door(), site.door()], Wanted(), Wanted(), Wanted()
    cloud = doors[0]
    port = await cloud.ensure_port(one.tags, network=None, address=None)

    async def ask(door: Cloud, who: Wanted, *allowed: str) -> PublicAddress:
        return await door.ensure_public_address(who.tags, port=port, tcp_port=15432, allowed_cidrs=allowed)

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
    third = await ask(site.door(stack=1), far)
    assert len({public[0].address, second.address, third.address}) == 3, "whatever the stack: the host is one"
    await asyncio.gather(*(door.drop_public_address(one.instance) for door in doors))
    for dropped in (one, other, far):
        await cloud.drop_public_address(dropped.instance)
    await cloud.drop_port(one.instance)
    assert site.left_over() == []
    await site.door(stack=1).drop_public_address(far.instance)


async def test_stacks_do_not_see_each_other(site: Site) -> None:
    here, there, one = site.door(), site.door(stack=1), Wanted()
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


async def test_everything_is_tagged_listed_and_can_be_dropped_by_itself(site: Site) -> None:
    cloud, one = site.door(), Wanted()
    spec = await one.make(cloud)
    await cloud.grow_volume(one.instance, 2)
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


async def test_what_one_instance_leaves_is_not_taken_from_another(site: Site) -> None:
    cloud, one, other = site.door(), Wanted(), Wanted()
    port = await cloud.ensure_port(one.tags, network=None, address=None)
    await cloud.ensure_port(other.tags, network=None, address=None)
    for resource in await cloud.resources():
        if resource.instance == one.instance:
            await cloud.drop_resource(resource)
    left = await cloud.resources()
    assert {r.instance for r in left} == {other.instance}
    assert (await cloud.ensure_port(other.tags, network=None, address=None)).network == port.network


@pytest.mark.parametrize("steps", [(0.0, 0.05, 0.15), (0.3, 0.6, 0.9)])
async def test_a_provisioner_that_dies_midway_leaves_nothing_stuck(site: Site, steps: tuple[float, ...]) -> None:
    async def killed_after(seconds: float) -> Wanted:
        one, door = Wanted(), site.door()
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
