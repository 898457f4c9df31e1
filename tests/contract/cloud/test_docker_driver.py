"""What the Docker driver promises beyond the contract: marks, limits, capabilities, and no secret in the open."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from typing import Any

import pytest

from coffer_provisioner.cloud import docker_recipe
from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, MachineState, Size
from contract.cloud.conftest import DockerSite, Wanted, docker

pytestmark = pytest.mark.docker

CAPABILITIES = {
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_ADMIN", "SETFCAP", "SETGID", "SETUID",
    "SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE",
}
BITS = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "NET_ADMIN": 12,
    "SYS_CHROOT": 18, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "MKNOD": 27, "SETFCAP": 31,
}
ECHO = """
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("%s", 15432)); s.listen()
while True:
    c, _ = s.accept(); c.sendall(b"hello " + c.recv(100)); c.close()
"""


def inspect(what: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", what))[0]
    return found


def inside(container: str, *command: str) -> str:
    return docker("exec", container, *command)


def labels(thing: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = thing.get("Labels") or thing["Config"]["Labels"]
    return found


async def ask(address: str, source: str = "127.0.0.1") -> bytes:
    """What a server answers; nothing if it does not."""
    try:
        reader, writer = await asyncio.open_connection(address, 15432, local_addr=(source, 0))
    except OSError:
        return b""
    try:
        writer.write(b"you")
        return await reader.read(100)
    except OSError:
        return b""
    finally:
        writer.close()


async def ask_until(address: str, answer: bytes, source: str = "127.0.0.1") -> None:
    async with asyncio.timeout(10):
        while await ask(address, source) != answer:
            await asyncio.sleep(0.1)


async def test_everything_made_says_whose_it_is(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    spec = await one.make(cloud)
    await cloud.ensure_public_address(one.tags, port=spec.port, tcp_port=15432, allowed_cidrs=())
    everything = [
        *docker("ps", "-aq", "--filter", f"name={docker_site.run}").split(),
        *docker("volume", "ls", "-q", "--filter", f"name={docker_site.run}").split(),
        *docker("network", "ls", "-q", "--filter", f"name=coffer-{docker_site.run}").split(),
    ]
    assert len(everything) >= 2 + 7 + 1
    kinds = set()
    for name in everything:
        found = labels(inspect(name))
        assert found["coffer.stack"] == docker_site.stack()
        assert found["coffer.instance"] == one.instance
        assert found["coffer.operation"] == one.operation
        assert found["coffer.project"] == one.project
        kinds.add(found["coffer.kind"])
    assert {"machine", "forwarder", "volume", "machine-engine", "machine-state", "tenant-network"} <= kinds


async def test_user_data_is_only_in_its_file(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    spec = await one.make(cloud, user_data=b'{"secret": "zebra-9f3c"}')
    machine = docker_site.container(one.instance)
    assert inside(machine, "stat", "-c", "%a %U", "/etc/coffer/user-data.json") == "600 root"
    assert inside(machine, "cat", "/etc/coffer/user-data.json") == '{"secret": "zebra-9f3c"}'
    for name in (machine, *docker("volume", "ls", "-q", "--filter", f"label=coffer.instance={one.instance}").split()):
        assert "zebra" not in json.dumps(inspect(name))
    assert "zebra" not in repr(spec)
    assert "zebra" not in inside(machine, "sh", "-c", "cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' ' '")


async def test_a_machine_that_is_started_again_gets_the_newer_user_data(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    spec = await one.make(cloud)
    await docker_site.stop_machine(one.instance)
    await cloud.ensure_machine(one.spec(spec.port, spec.volume, user_data=b"newer"))
    assert inside(docker_site.container(one.instance), "cat", "/etc/coffer/user-data.json") == "newer"


async def test_a_machine_has_exactly_its_capabilities_and_devices(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    await one.make(cloud)
    machine = docker_site.container(one.instance)
    asked = inspect(machine)["HostConfig"]
    assert {name.removeprefix("CAP_") for name in asked["CapAdd"]} == CAPABILITIES
    assert asked["CapDrop"] == ["ALL"]
    assert not asked["Privileged"]
    assert asked["CgroupnsMode"] == "private"
    assert not asked["Binds"]
    assert not asked["PortBindings"]
    status = dict(line.split(":", 1) for line in inside(machine, "cat", "/proc/1/status").splitlines())
    assert int(status["CapBnd"], 16) == sum(1 << BITS[name] for name in CAPABILITIES)
    minor = labels(inspect(f"coffer-{docker_site.stack()}-{one.instance}-loop"))["coffer.holds"]
    assert asked["DeviceCgroupRules"] == [f"b 7:{minor} rwm"]
    assert f"COFFER_LOOP_MINOR={minor}" in inspect(machine)["Config"]["Env"]
    for major, other, kind in (("7", "0", "b"), ("10", "237", "c")):
        node = f"/dev/node-{major}-{other}"
        inside(machine, "mknod", node, kind, major, other)
        attempt = ("docker", "exec", machine, "dd", f"if={node}", "count=1")
        opened = subprocess.run(attempt, capture_output=True, check=False)
        assert b"not permitted" in opened.stderr


async def test_a_machine_is_held_to_its_flavor(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    await one.make(cloud, size=Size("1", 384, 0.75))
    asked = inspect(docker_site.container(one.instance))["HostConfig"]
    assert (asked["Memory"], asked["MemorySwap"], asked["NanoCpus"]) == (384 * 2**20, 384 * 2**20, 750_000_000)
    machine = docker_site.container(one.instance)
    script = """
        cd /sys/fs/cgroup
        if [ -e cpu.max ]; then cat memory.max cpu.max
        else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us; fi 2>/dev/null || true
    """
    async with asyncio.timeout(20):
        while len(read := inside(machine, "sh", "-c", script).split()) != 3:  # its init mounts the hierarchies anew
            await asyncio.sleep(0.1)
    memory, quota, period = read
    assert int(memory) == 384 * 2**20
    assert int(quota) / int(period) == 0.75


async def test_more_cpus_than_the_host_has_are_refused_for_good(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    with pytest.raises(CloudRefused) as refused:
        await one.make(cloud, size=Size("1", 256, 4096))
    assert refused.value.code == "machine_refused"
    await one.drop(cloud)
    assert docker_site.left_over() == []


async def test_an_image_that_is_missing_is_named(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(machine_image="coffer/not-built"), Wanted()
    with pytest.raises(CloudRefused) as refused:
        await one.make(cloud)
    assert refused.value.code == "image_missing"
    assert "coffer/not-built" in refused.value.text
    await one.drop(cloud)
    assert docker_site.left_over() == []


async def test_an_engine_that_is_not_there_is_passing(docker_site: DockerSite) -> None:
    cloud = docker_site.door(socket="unix:///nowhere.sock")
    with pytest.raises(CloudBusy):
        await cloud.machines()


async def test_the_device_of_a_volume_grows_under_a_running_machine(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    await one.make(cloud)
    machine = docker_site.container(one.instance)
    minor = labels(inspect(f"coffer-{docker_site.stack()}-{one.instance}-loop"))["coffer.holds"]
    volume = ("/volume/disk.img", minor)
    assert inside(machine, "coffer-volume", "attach", *volume) == f"/dev/loop{minor}"
    assert inside(machine, "coffer-volume", "status", *volume) == f"/dev/loop{minor} {2**30}"
    await cloud.grow_volume(one.instance, 2)
    assert inside(machine, "coffer-volume", "status", *volume) == f"/dev/loop{minor} {2 * 2**30}"
    await cloud.restart_machine(one.instance)
    assert inside(machine, "stat", "-c", "%s", "/volume/disk.img") == str(2 * 2**30)


async def test_instances_have_loop_devices_of_their_own_across_stacks(docker_site: DockerSite) -> None:
    narrow = (1500, 1501)
    here, there = docker_site.door(loop_minors=narrow), docker_site.door(stack=1, loop_minors=narrow)
    first, second, third = Wanted(), Wanted(), Wanted()
    await asyncio.gather(first.make(here), second.make(there))
    minors = {
        labels(inspect(f"coffer-{docker_site.stack(stack)}-{one.instance}-loop"))["coffer.holds"]
        for stack, one in ((0, first), (1, second))
    }
    assert minors == {"1500", "1501"}
    with pytest.raises(CloudRefused) as refused:
        await third.make(here)
    assert refused.value.code == "no_loop_device"
    await second.drop(there)
    await third.make(here)


async def test_a_public_address_is_a_forwarder_that_minds_the_networks(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    spec = await one.make(cloud)
    machine = docker_site.container(one.instance)
    docker("exec", "-d", machine, "python3", "-c", ECHO % spec.port.address)
    asked: dict[str, Any] = {"port": spec.port, "tcp_port": 15432}
    public = await cloud.ensure_public_address(one.tags, **asked, allowed_cidrs=("127.0.9.0/24",))
    assert can_connect(public.address), "it listens when that returns"
    forwarder = docker_site.container(one.instance, "forwarder")
    await ask_until(public.address, b"hello you", source="127.0.9.1")
    assert await ask(public.address) == b""

    await cloud.ensure_public_address(one.tags, **asked, allowed_cidrs=())
    assert await ask(public.address) == b"hello you"
    await cloud.ensure_public_address(one.tags, **asked, allowed_cidrs=("192.0.2.0/24",))
    assert await ask(public.address, source="127.0.9.1") == b""
    assert docker_site.container(one.instance, "forwarder") == forwarder
    running = inspect(forwarder)
    assert running["RestartCount"] == 0, "told, not restarted"
    limits = running["HostConfig"]
    assert (limits["ReadonlyRootfs"], limits["CapDrop"], limits["CapAdd"]) == (True, ["ALL"], None)
    assert limits["Memory"] == 64 * 2**20
    assert not limits["PortBindings"]
    status = docker("exec", forwarder, "cat", "/proc/1/status")
    assert "Uid:\t10001" in status
    assert "NoNewPrivs:\t1" in status

    await docker_site_restart(cloud, one)
    docker("kill", forwarder)
    await cloud.ensure_public_address(one.tags, **asked, allowed_cidrs=())
    assert can_connect(public.address), "it listens when that returns"
    await cloud.drop_public_address(one.instance)
    assert not can_connect(public.address)


async def test_a_change_of_networks_spares_the_connections_of_those_who_stay_allowed(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    spec = await one.make(cloud)
    docker("exec", "-d", docker_site.container(one.instance), "python3", "-c", ECHO % spec.port.address)
    asked: dict[str, Any] = {"port": spec.port, "tcp_port": 15432}
    public = await cloud.ensure_public_address(one.tags, **asked, allowed_cidrs=())
    await ask_until(public.address, b"hello you")
    reader, writer = await asyncio.open_connection(public.address, 15432, local_addr=("127.0.9.1", 0))
    for allowed, says in ((("127.0.9.0/24", "192.0.2.0/24"), b""), (("127.0.9.1/32",), b"hello you")):
        await cloud.ensure_public_address(one.tags, **asked, allowed_cidrs=allowed)
        if says:
            writer.write(b"you")
            assert await reader.read(100) == says
    writer.close()
    assert await ask(public.address) == b""
    await cloud.drop_public_address(one.instance)
    await cloud.drop_public_address(one.instance)
    again = await cloud.ensure_public_address(one.tags, **asked, allowed_cidrs=("127.0.9.0/24",))
    await ask_until(again.address, b"hello you", source="127.0.9.1")


async def docker_site_restart(cloud: Any, one: Wanted) -> None:
    """The public address does not depend on the machine's life."""
    await cloud.restart_machine(one.instance)
    machine = await cloud.find_machine(one.instance)
    assert machine.state is MachineState.ACTIVE


def can_connect(address: str) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, 15432)) == 0


async def test_machines_of_different_projects_do_not_reach_each_other(docker_site: DockerSite) -> None:
    cloud, one, friend, stranger = docker_site.door(), Wanted("p-1"), Wanted("p-1"), Wanted("p-2")
    spec, *_ = await asyncio.gather(*(each.make(cloud) for each in (one, friend, stranger)))
    docker("exec", "-d", docker_site.container(one.instance), "python3", "-c", ECHO % spec.port.address)
    connect = f"socket.create_connection(('{spec.port.address}', 15432), 2)"
    script = f"import socket; s = {connect}; s.send(b'you'); print(s.recv(9))"
    attempt = ("docker", "exec", docker_site.container(friend.instance), "python3", "-c", script)
    async with asyncio.timeout(10):
        while (done := subprocess.run(attempt, capture_output=True, check=False)).returncode != 0:
            await asyncio.sleep(0.1)
    assert b"hello you" in done.stdout
    attempt = ("docker", "exec", docker_site.container(stranger.instance), "python3", "-c", script)
    assert b"timed out" in subprocess.run(attempt, capture_output=True, check=False).stderr


async def test_a_tenant_network_that_was_lost_is_made_again(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    spec = await one.make(cloud)
    network = spec.port.network.replace("-", "")
    before = inspect(network)["IPAM"]["Config"][0]["Subnet"]
    await docker_site.stop_machine(one.instance)
    docker("network", "rm", network)
    machine = await cloud.ensure_machine(spec)
    assert machine.state is MachineState.ACTIVE
    port = await cloud.ensure_port(one.tags, network=None, address=None)
    assert port.address == spec.port.address
    assert inspect(port.network.replace("-", ""))["IPAM"]["Config"][0]["Subnet"] == before
    found = inspect(docker_site.container(one.instance))["NetworkSettings"]["Networks"]
    assert spec.port.address in {network["IPAddress"] for network in found.values()}


async def test_a_range_that_somebody_else_took_is_passed_over(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(tenant_pool="10.199.0.0/22"), Wanted()
    docker_site.networks.append(docker("network", "create", "--subnet", "10.199.0.0/24", f"{docker_site.run}-stranger"))
    port = await cloud.ensure_port(one.tags, network=None, address=None)
    assert port.address == "10.199.1.2"
    await cloud.drop_port(one.instance)
    assert docker_site.left_over() == []


async def test_a_seed_is_kept_for_the_machines_life(docker_site: DockerSite) -> None:
    seed = f"{docker_site.run}-seed"
    without, one = docker_site.door(seed_volume=seed), Wanted()
    await one.make(without)
    assert "/seed" not in {m["Destination"] for m in inspect(docker_site.container(one.instance))["Mounts"]}
    docker("volume", "create", "--label", f"coffer.stack={docker_site.stack()}", seed)
    other = Wanted()
    await other.make(without)
    mounts = {m["Destination"]: m for m in inspect(docker_site.container(other.instance))["Mounts"]}
    assert mounts["/seed"]["Name"] == seed
    assert not mounts["/seed"]["RW"]
    docker("rm", "-f", docker_site.container(other.instance))
    await other.make(docker_site.door(seed_volume=None))
    mounts = {m["Destination"]: m for m in inspect(docker_site.container(other.instance))["Mounts"]}
    assert mounts["/seed"]["Name"] == seed, "its engine's volume has links into it"


def test_the_recipe_names_the_capabilities_one_by_one() -> None:
    assert set(docker_recipe.CAPABILITIES) == CAPABILITIES


# --- sizes, rebuilds, access ---


async def test_a_size_is_changed_live_and_kept(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    await one.make(cloud)
    machine = docker_site.container(one.instance)
    for size in (Size("2", 512, 1.0), Size("1", 192, 0.25)):
        started = inspect(machine)["State"]["StartedAt"]
        resized = await cloud.resize_machine(one.tags, size)
        assert (resized.id, resized.state, resized.unconfirmed) == (machine, MachineState.ACTIVE, False)
        assert inspect(machine)["State"]["StartedAt"] == started, "it went on running"
        await cloud.restart_machine(one.instance)
        asked = inspect(machine)["HostConfig"]
        bytes_of = size.memory_mb * 2**20
        assert (asked["Memory"], asked["MemorySwap"], asked["NanoCpus"]) == (bytes_of, bytes_of, size.vcpus * 10**9)
    assert await cloud.confirm_resize(one.instance) == await cloud.find_machine(one.instance)
    await cloud.revert_resize(one.tags, Size("2", 512, 1.0))
    assert inspect(machine)["HostConfig"]["Memory"] == 512 * 2**20


async def test_a_size_that_the_host_does_not_have_is_refused_and_less_than_is_used_is_passing(
    docker_site: DockerSite,
) -> None:
    cloud, one = docker_site.door(), Wanted()
    await one.make(cloud)
    with pytest.raises(CloudRefused) as refused:
        await cloud.resize_machine(one.tags, Size("huge", 256, 4096))
    assert refused.value.code == "no_capacity"
    machine = docker_site.container(one.instance)
    inside(machine, "sh", "-c", "head -c 120000000 /dev/zero > /run/full")
    try:
        await cloud.resize_machine(one.tags, Size("tiny", 64, 0.5))
    except CloudBusy:
        assert inspect(machine)["HostConfig"]["Memory"] == 256 * 2**20
    with pytest.raises(CloudRefused) as refused:
        await cloud.resize_machine(Wanted().tags, Size("tiny", 64, 0.5))
    assert refused.value.code == "no_machine"


async def test_a_rebuilt_machine_has_nothing_of_the_one_before_but_its_data(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    spec = await one.make(cloud)
    before = docker_site.container(one.instance)
    minor = labels(inspect(f"coffer-{docker_site.stack()}-{one.instance}-loop"))["coffer.holds"]
    for path in ("/var/lib/coffer/old", "/var/lib/docker/old", "/volume/data"):
        inside(before, "touch", path)
    rebuild = Wanted(one.project, instance=one.instance)
    wanted = rebuild.spec(spec.port, spec.volume, user_data=b"newer", size=Size("2", 384, 0.5))
    built = await cloud.rebuild_machine(wanted)
    machine = docker_site.container(one.instance)
    assert built.id == machine != before
    assert inside(machine, "cat", "/etc/coffer/user-data.json") == "newer"
    assert inside(machine, "sh", "-c", "ls /var/lib/coffer/old /var/lib/docker/old /volume/data 2>/dev/null || true"
                  ).split() == ["/volume/data"]
    assert f"COFFER_LOOP_MINOR={minor}" in inspect(machine)["Config"]["Env"]
    assert inspect(machine)["HostConfig"]["Memory"] == 384 * 2**20
    remade = {"machine", "machine-engine", "machine-state"}
    assert {r.operation for r in await cloud.resources() if r.kind in remade} == {rebuild.operation}
    inside(machine, "touch", "/var/lib/coffer/new")
    again = await docker_site.door().rebuild_machine(rebuild.spec(spec.port, spec.volume, user_data=b"newest"))
    assert again.id == machine, "once for each operation"
    assert inside(machine, "ls", "/var/lib/coffer/new")
    await one.drop(cloud)
    assert docker_site.left_over() == []


async def test_a_rebuild_that_was_cut_short_leaves_no_old_state_to_the_next(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    spec = await one.make(cloud)
    machine = docker_site.container(one.instance)
    inside(machine, "touch", "/var/lib/coffer/old")
    docker("rm", "-f", machine)
    await cloud.rebuild_machine(Wanted(one.project, instance=one.instance).spec(spec.port, spec.volume))
    assert not inside(docker_site.container(one.instance), "sh", "-c", "ls /var/lib/coffer/old 2>/dev/null || true")


async def test_access_is_the_machines_own_affair(docker_site: DockerSite) -> None:
    cloud, one = docker_site.door(), Wanted()
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_access(one.tags, tcp_port=5432, allowed_cidrs=("10.0.0.0/8",))
    assert refused.value.code == "no_port"
    await cloud.ensure_port(one.tags, network=None, address=None)
    before = await cloud.resources()
    await cloud.ensure_access(one.tags, tcp_port=5432, allowed_cidrs=("10.0.0.0/8", "2001:db8::/32"))
    with pytest.raises(CloudRefused) as refused:
        await cloud.ensure_access(one.tags, tcp_port=5432, allowed_cidrs=("all of it",))
    assert refused.value.code == "bad_cidr"
    assert set(await cloud.resources()) == set(before)
