"""What the OpenStack driver promises beyond the contract: whose things are, their marks, who may use a network, and who
may connect."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from uuid import uuid4

import pytest
import yaml

from coffer_provisioner.cloud.interface import CloudRefused, Tags
from support.openstack_ground import DoubleGround, Ground
from support.openstack_stage import PROJECT, Instance, Stage, active, reached


def mac_of(ground: Ground, stack: str, kind: str) -> list[str]:
    found = ground.neutron("ports", stack)
    return [one["mac_address"] for one in found if f"coffer-kind={kind}" in one["description"]]


async def test_everything_is_the_service_projects_but_the_public_address(stage: Stage) -> None:
    cloud, one = stage.door(), stage.instance()
    spec = await one.everything(cloud)
    ground, name = stage.ground, f"trove-{one.instance}"
    server, volume = ground.servers(stage.stack)[0], ground.volumes(stage.stack)[0]
    assert server["name"] == "my db"
    assert set(server["tags"]) == {
        "trove_instance", "trove_postgresql", f"trove_project_id_{PROJECT}", "trove_user_id_u-1",
        f"trove_instance_id_{one.instance}", f"coffer-stack={stage.stack}",
    }
    assert server["metadata"] == {
        "trove_project_id": PROJECT, "trove_user_id": "u-1", "trove_instance_id": one.instance,
        "trove_manager": "postgresql", "coffer_stack": stage.stack, "coffer_instance": one.instance,
        "coffer_operation": one.operation, "coffer_project": PROJECT,
    }
    assert volume["name"] == name
    assert volume["metadata"]["coffer_held"] == "true"
    ports, groups = ground.neutron("ports", stage.stack), ground.neutron("security_groups", stage.stack)
    public = ground.neutron("floatingips", stage.stack)
    assert {one["name"] for one in ports} == {name}
    assert [one["name"] for one in groups] == [f"trove_sg-{one.instance}"]
    assert ground.groups(stage.stack)[0]["name"].startswith(f"locality_{one.instance} ")
    assert {one["project_id"] for one in (*ports, *groups)} == {groups[0]["project_id"]}
    assert groups[0]["project_id"] != PROJECT
    assert [one["project_id"] for one in public] == [PROJECT], "the tenant's own"
    tenant = next(port for port in ports if port["network_id"] == one.network)
    assert tenant["security_group_ids" if "security_group_ids" in tenant else "security_groups"] == [groups[0]["id"]]
    assert public[0]["port_id"] == tenant["id"]
    for thing in (*ports, *groups, *public):
        assert f"coffer-instance={one.instance}" in thing["tags"]
        assert f"coffer-operation={one.operation}" in thing["tags"]
    if isinstance(ground, DoubleGround):
        told = yaml.safe_load(ground.double.user_data[server["id"]])
        files = {f["path"]: base64.b64decode(f["content"]) for f in told["write_files"]}
        assert files["/etc/coffer/user-data.json"] == spec.user_data
        machine = json.loads(files["/etc/coffer/machine.json"])
        assert machine["data_volume"] == volume["id"]
        assert [machine["tenant_mac"]] == mac_of(ground, stage.stack, "address")
        assert machine["management_macs"] == mac_of(ground, stage.stack, "management-port")
        assert machine["tenant_address"] == spec.port.address
        newer = replace(spec, tags=Tags(one.instance, str(uuid4()), PROJECT), user_data=b'{"secret": "newer"}')
        await reached(lambda: cloud.rebuild_machine(newer), active)
        assert b"b25jZSBvbmx5" not in ground.double.user_data[server["id"]]
        assert base64.b64encode(newer.user_data) in ground.double.user_data[server["id"]]
    await reached(lambda: cloud.drop_machine(one.instance))
    kinds = {resource.kind for resource in await cloud.resources()}
    assert kinds == {"volume", "volume-held", "address", "security-group", "public"}, "the rest goes with the machine"
    await one.nothing(cloud)
    assert stage.left_over() == []


async def test_a_tenant_uses_his_own_networks_and_what_is_shared_with_him(stage: Stage) -> None:
    cloud, ground, run = stage.door(), stage.ground, stage.stack
    foreign = ground.network(f"{run}-foreign", project="somebody")
    for_others = ground.network(f"{run}-for-others", project="somebody")
    for_him, for_all = (ground.network(f"{run}-{name}", project="somebody") for name in ("for-him", "for-all"))
    ground.share(for_others, "another")
    ground.share(for_others, ground.service_project)
    ground.share(for_him, PROJECT)
    ground.share(for_all, "*")
    for network in (foreign, for_others):
        for asked in ({"network": network}, {"network": network, "subnet": ground.subnet(network)},
                      {"network": None, "subnet": ground.subnet(network)}):
            with pytest.raises(CloudRefused) as refused:
                await cloud.ensure_port(stage.instance().tags, address=None, **asked)
            assert refused.value.code == "no_network"
            assert "project has no network" in str(refused.value), "as if it were not there"
    for network in (for_him, for_all, one_of_his := stage.network()):
        one = stage.instance()
        port = await reached(lambda n=network, one=one: cloud.ensure_port(one.tags, network=n, address=None))  # type: ignore[misc]
        assert port.network == network
        await reached(lambda one=one: cloud.drop_port(one.instance))  # type: ignore[misc]
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_port(stage.instance().tags, network=None, address=None)
    assert refused.value.code == "no_network"
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_port(stage.instance().tags, network=for_him, address=None, subnet=ground.subnet(one_of_his))
    assert refused.value.code == "no_subnet"
    assert stage.left_over() == []


async def test_a_network_without_a_router(stage: Stage) -> None:
    network = stage.ground.network(f"{stage.stack}-alone", project=PROJECT, routed=False)
    strict, lenient, one = stage.door(), stage.door(enable_access_check=False), Instance(network, "")
    with pytest.raises(CloudRefused) as refused:
        await strict.ensure_port(one.tags, network=network, address=None)
    assert refused.value.code == "no_router"
    port = await reached(lambda: lenient.ensure_port(one.tags, network=network, address=None))
    assert await strict.ensure_port(one.tags, network=network, address=None) == port, "it has it already"
    with pytest.raises(CloudRefused) as refused:
        await lenient.ensure_public_address(one.tags, port=port, tcp_port=1, allowed_cidrs=())
    assert refused.value.code == "no_router"
    await reached(lambda: lenient.drop_port(one.instance))
    assert stage.left_over() == []


async def test_a_network_that_is_full(stage: Stage) -> None:
    network = stage.ground.network(f"{stage.stack}-tiny", project=PROJECT, bits=29)
    cloud, made = stage.door(), []
    with pytest.raises(CloudRefused) as refused:
        for _ in range(8):
            one = Instance(network, "")
            await reached(lambda one=one: cloud.ensure_port(one.tags, network=network, address=None))  # type: ignore[misc]
            made.append(one)
    assert refused.value.code == "no_address"
    assert len(made) >= 3
    for one in made:
        await reached(lambda one=one: cloud.drop_port(one.instance))  # type: ignore[misc]
    assert stage.left_over() == []


async def test_who_may_connect(stage: Stage) -> None:
    cloud, one = stage.door(allow_icmp=True), stage.instance()
    await reached(lambda: cloud.ensure_port(one.tags, network=one.network, address=None))
    group = stage.ground.neutron("security_groups", stage.stack)[0]["id"]
    assert stage.ground.rules(group) == [], "nobody, until it is said"

    async def rules(*allowed: str) -> set[tuple[str, str, int | None]]:
        await reached(lambda: cloud.ensure_access(one.tags, tcp_port=5432, allowed_cidrs=allowed))
        found = stage.ground.rules(group)
        assert all(rule["port_range_min"] == rule["port_range_max"] for rule in found)
        return {(rule["remote_ip_prefix"], rule["protocol"], rule["port_range_min"]) for rule in found}

    everybody = await rules()
    assert everybody == {
        ("0.0.0.0/0", "tcp", 5432), ("::/0", "tcp", 5432), ("0.0.0.0/0", "icmp", None), ("::/0", "ipv6-icmp", None),
    }
    before = {rule["id"] for rule in stage.ground.rules(group)}
    assert await rules() == everybody
    assert {rule["id"] for rule in stage.ground.rules(group)} == before, "what is right is left alone"
    assert await rules("192.0.2.9/24", "2001:db8::/32") == {
        ("192.0.2.0/24", "tcp", 5432), ("192.0.2.0/24", "icmp", None),
        ("2001:db8::/32", "tcp", 5432), ("2001:db8::/32", "ipv6-icmp", None),
    }
    with pytest.raises(CloudRefused):
        await cloud.ensure_access(one.tags, tcp_port=5432, allowed_cidrs=("0.0.0.0/0", "nonsense"))
    assert len(stage.ground.rules(group)) == 4, "a refusal changes nothing"
    await reached(lambda: cloud.drop_port(one.instance))
    assert stage.left_over() == []


async def test_a_forged_mark_gives_no_address(double_stage: Stage, double_ground: DoubleGround) -> None:
    """A tenant may write what he likes on his own floating address, also that it is another one's."""
    stage = double_stage
    cloud, one = stage.door(), stage.instance()
    port = await reached(lambda: cloud.ensure_port(one.tags, network=one.network, address=None))
    forged = double_ground.double.network.make("floatingips", {
        "project_id": "attacker", "port_id": None, "floating_ip_address": "198.51.100.250",
        "tags": [f"coffer-stack={stage.stack}", f"coffer-instance={one.instance}", "coffer-kind=public"],
    })
    public = await reached(lambda: cloud.ensure_public_address(one.tags, port=port, tcp_port=1, allowed_cidrs=()))
    assert public.address != forged["floating_ip_address"]
    assert forged["port_id"] is None


async def test_settings_that_name_nothing(stage: Stage) -> None:
    one = stage.instance()
    good = stage.door()
    port = await reached(lambda: good.ensure_port(one.tags, network=one.network, address=None))
    spec = one.spec(port, await one.volume(good))
    for changed, code in (
        ({"image": "no-such-image"}, "no_image"), ({"management_networks": ("no-such-network",)}, "bad_setting"),
        ({"management_security_groups": ("no-such-group",)}, "bad_setting"),
    ):
        bad = stage.door(**changed)
        with pytest.raises(CloudRefused) as refused:
            await reached(lambda bad=bad: bad.ensure_machine(spec), active)  # type: ignore[misc]
        assert refused.value.code == code
    without = stage.door(public_network="")
    with pytest.raises(CloudRefused) as refused:
        await without.ensure_public_address(one.tags, port=port, tcp_port=1, allowed_cidrs=())
    assert refused.value.code == "no_public_address"
    with pytest.raises(CloudRefused) as refused:
        await good.ensure_machine(one.spec(port, spec.volume, flavor="no-such-flavor"))
    assert refused.value.code == "no_flavor"
    with pytest.raises(CloudRefused) as refused:
        await good.ensure_machine(replace(spec, locality="together"))
    assert refused.value.code == "bad_locality"
    other = stage.instance()
    with pytest.raises(CloudRefused) as refused:
        await good.ensure_volume(other.tags, gib=1, volume_type="no-such-type")
    assert refused.value.code == "no_volume_type"
    await one.nothing(good)
    assert stage.left_over() == []


async def test_replicas_share_their_primarys_group(stage: Stage) -> None:
    cloud, primary, replica = stage.door(), stage.instance(), stage.instance()
    await primary.everything(cloud)
    port = await reached(lambda: cloud.ensure_port(replica.tags, network=replica.network, address=None))
    spec = replace(replica.spec(port, await replica.volume(cloud)), locality_of=primary.instance)
    await reached(lambda: cloud.ensure_machine(spec), active)
    groups = stage.ground.groups(stage.stack)
    assert len(groups) == 1
    assert len(groups[0]["members"]) == 2
    await primary.nothing(cloud)
    assert len(stage.ground.groups(stage.stack)) == 1, "a replica is still in it"
    assert "server-group" not in {resource.kind for resource in await cloud.resources()}
    await replica.nothing(cloud)
    assert stage.left_over() == []


async def test_pages(double_stage: Stage, double_ground: DoubleGround) -> None:
    """Services answer with a part of a long listing, and a link whose host need not be the one that was asked."""
    stage = double_stage
    cloud = stage.door()
    many = [stage.instance() for _ in range(7)]
    for one in many:
        await one.volume(cloud)
    double_ground.double.page = 3
    assert {resource.instance for resource in await cloud.resources()} == {one.instance for one in many}
    double_ground.double.page = 1000
    for one in many:
        await one.nothing(cloud)
    assert stage.left_over() == []


async def test_a_volume_that_is_busy_with_something_else_has_not_grown(double_ground: DoubleGround) -> None:
    stack = "busy"
    cloud, tags = double_ground.door(stack), Tags(str(uuid4()), str(uuid4()), PROJECT)
    made = await reached(lambda: cloud.ensure_volume(tags, gib=1, volume_type=None), lambda volume: volume.ready)
    (volume,) = double_ground.volumes(stack)
    for status in ("reserved", "attaching"):
        volume["status"] = status
        found = await cloud.grow_volume(tags.instance, 2)
        assert (found.id, found.gib, found.ready) == (made.id, 1, False), status
    volume["status"] = "available"
    grown = await reached(lambda: cloud.grow_volume(tags.instance, 2), lambda volume: volume.ready)
    assert grown.gib == 2
    await cloud.close()
