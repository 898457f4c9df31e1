"""The clouds that the contract suite runs against: the fake one, a real Docker Engine, the double of an OpenStack, and
a real one if the environment names it (see support.openstack_ground)."""

from __future__ import annotations

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from coffer_provisioner.cloud.docker import DockerCloud, DockerSettings
from coffer_provisioner.cloud.docker_networks import uuid_of
from coffer_provisioner.cloud.fake import FakeCloud, World
from coffer_provisioner.cloud.interface import (
    Cloud,
    Machine,
    MachineSpec,
    MachineState,
    Port,
    Size,
    Snapshot,
    Tags,
    Volume,
)
from coffer_provisioner.cloud.openstack import OpenStackCloud
from support import openstack_ground
from support.openstack_ground import DoubleGround, Ground, RealGround, left_over
from support.openstack_stage import active, reached

T = TypeVar("T")
SMALL = Size("1", 256, 0.5)
IMAGES = ("coffer/machine", "coffer/services")
LET_GO = (
    "run", "--rm", "--network", "none", "--cap-drop", "ALL", "--cap-add", "MKNOD",
    "--device-cgroup-rule", "c 10:237 rwm", "--entrypoint", "coffer-loop", "coffer/machine", "remove",
)


class Site(Protocol):
    """A cloud as the suite sees it: doors to it, and what happens to it from outside."""

    @property
    def sizes(self) -> tuple[Size, Size, Size]:
        """Each larger than the one before."""
        ...

    def door(self, stack: int = 0) -> Cloud:
        """A provisioner's own connection to the cloud; every call gives another one."""
        ...

    def home(self, project: str) -> str | None:
        """The network on which a project's instances are by default; None: the driver makes one."""
        ...

    def add_network(self, project: str) -> str:
        """A network that the tenant made."""
        ...

    def subnet_of(self, network: str) -> str: ...

    async def stop_machine(self, instance: str) -> None:
        """Somebody stops a machine behind Coffer's back."""
        ...

    def left_over(self) -> list[str]:
        """What the first stack still has, seen by other means than the driver's."""
        ...


@dataclass
class FakeSite:
    world: World = field(default_factory=World)
    sizes: tuple[Size, Size, Size] = (SMALL, Size("2", 512, 1.0), Size("3", 1024, 1.0))

    def door(self, stack: int = 0) -> Cloud:
        return FakeCloud(self.world, stack=f"stack-{stack}")

    def home(self, project: str) -> str | None:
        return None

    def subnet_of(self, network: str) -> str:
        return network

    def add_network(self, project: str) -> str:
        return self.world.add_network(project, stack="stack-0")

    async def stop_machine(self, instance: str) -> None:
        FakeCloud(self.world, stack="stack-0").set_machine(instance, MachineState.STOPPED, "stopped by a test")

    def left_over(self) -> list[str]:
        mine = self.world.stack("stack-0")
        return [
            *mine.ports, *mine.volumes, *mine.snapshots, *mine.machines, *mine.public,
            *(n.id for n in mine.networks.values() if n.made_for is not None),
        ]


@dataclass
class DockerSite:
    run: str
    doors: list[DockerCloud] = field(default_factory=list)
    sizes: tuple[Size, Size, Size] = (SMALL, Size("2", 512, 1.0), Size("3", 1024, 1.0))
    networks: list[str] = field(default_factory=list)

    @property
    def management(self) -> str:
        return f"{self.run}-management"

    def stack(self, number: int = 0) -> str:
        return f"{self.run}-{number}"

    def settings(self, stack: int = 0, **changed: object) -> DockerSettings:
        return DockerSettings(management_network=self.management, stack=self.stack(stack), **changed)  # type: ignore[arg-type]

    def door(self, stack: int = 0, **changed: object) -> DockerCloud:
        door = DockerCloud(self.settings(stack, **changed))
        self.doors.append(door)
        return door

    def home(self, project: str) -> str | None:
        return None

    def subnet_of(self, network: str) -> str:
        return network

    def add_network(self, project: str) -> str:
        made = docker("network", "create", "--label", f"coffer.project={project}", f"{self.run}-{project}-own")
        self.networks.append(made)
        return uuid_of(made)

    async def stop_machine(self, instance: str) -> None:
        docker("stop", "-t", "1", self.container(instance))

    def container(self, instance: str, kind: str = "machine") -> str:
        wanted = f"label=coffer.kind={kind}"
        return docker("ps", "-aq", "--no-trunc", "--filter", f"label=coffer.instance={instance}", "--filter", wanted)

    def left_over(self, stack: int = 0) -> list[str]:
        mine = ("--filter", f"label=coffer.stack={self.stack(stack)}")
        return [
            *docker("ps", "-a", *mine, "--format", "{{.Names}}").split(),
            *docker("volume", "ls", "-q", *mine).split(),
            *docker("network", "ls", *mine, "--format", "{{.Name}}").split(),
        ]

    def remove_all(self) -> None:
        for stack in (0, 1):
            mine = ("--filter", f"label=coffer.stack={self.stack(stack)}")
            minors = docker("volume", "ls", *mine, "--filter", "label=coffer.kind=loop", "-q").split()
            for listing, removing in (
                (("ps", "-aq"), ("rm", "-f", "-v")), (("network", "ls", "-q"), ("network", "rm")),
                (("volume", "ls", "-q"), ("volume", "rm")),
            ):
                found = docker(*listing, *mine).split()
                if found:
                    docker(*removing, *found)
            for minor in minors:
                docker(*LET_GO, minor.removeprefix("coffer-loop-"))
        for network in (*self.networks, self.management):
            docker("network", "rm", network)


@dataclass
class OpenStackSite:
    ground: Ground
    run: str = field(default_factory=lambda: f"c-{uuid.uuid4().hex[:8]}")
    doors: list[OpenStackCloud] = field(default_factory=list)

    @property
    def sizes(self) -> tuple[Size, Size, Size]:
        small, medium, large = self.ground.flavors
        return Size(small, 0, 0), Size(medium, 0, 0), Size(large, 0, 0)

    def stack(self, number: int = 0) -> str:
        return f"{self.run}-{number}"

    def door(self, stack: int = 0) -> OpenStackCloud:
        door = self.ground.door(self.stack(stack))
        self.doors.append(door)
        return door

    def home(self, project: str) -> str | None:
        return self.ground.network(f"home-{project}", project=project)

    def subnet_of(self, network: str) -> str:
        return self.ground.subnet(network)

    def add_network(self, project: str) -> str:
        return self.ground.network(f"own-{project}", project=project)

    async def stop_machine(self, instance: str) -> None:
        for server in self.ground.servers(self.stack()):
            if server["metadata"]["coffer_instance"] == instance:
                await asyncio.to_thread(self.ground.stop_server, server["id"])

    def left_over(self) -> list[str]:
        return left_over(self.ground, self.stack())

    async def close(self) -> None:
        for door in self.doors:
            await door.close()
        for stack in (0, 1):
            self.ground.clear(self.stack(stack))


def docker(*command: str) -> str:
    done = subprocess.run(["docker", *command], capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, f"docker {' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="session")
def docker_images() -> None:
    for image in IMAGES:
        assert docker("image", "ls", "-q", image), f"the image {image} is not built: run `make images` first"


@pytest.fixture
def docker_network(docker_images: None) -> Iterator[DockerSite]:
    site = DockerSite(f"t-{uuid.uuid4().hex[:8]}")
    docker("network", "create", "--internal", site.management)
    try:
        yield site
    finally:
        site.remove_all()


@pytest.fixture
async def docker_site(docker_network: DockerSite) -> AsyncIterator[DockerSite]:
    yield docker_network
    for door in docker_network.doors:
        await door.close()


@pytest.fixture(scope="session")
def real_ground() -> Iterator[RealGround]:
    made = RealGround.connect()
    yield made
    made.close()


@pytest.fixture
async def openstack_double_site(tmp_path: Path) -> AsyncIterator[OpenStackSite]:
    ground = await DoubleGround.start(tmp_path)
    made = OpenStackSite(ground)
    yield made
    await made.close()
    await ground.double.stop()


@pytest.fixture
async def openstack_site(real_ground: RealGround) -> AsyncIterator[OpenStackSite]:
    made = OpenStackSite(real_ground)
    yield made
    await made.close()


OPENSTACK_MARKS = (pytest.mark.timeout(900), pytest.mark.filterwarnings(openstack_ground.QUIET))
DOCKER = pytest.param("docker", marks=pytest.mark.docker)
SITES = [
    "fake",
    DOCKER,
    "openstack_double",
    # who names no cloud has not asked for its tests, so none is skipped
    *([pytest.param("openstack", marks=OPENSTACK_MARKS)] if openstack_ground.configured() else []),
]


@pytest.fixture(params=SITES)
def site(request: pytest.FixtureRequest) -> Site:
    return asked_for(request)


def asked_for(request: pytest.FixtureRequest) -> Site:
    """Of SITES, the one that a fixture's parameter names."""
    if request.param == "fake":
        return FakeSite()
    found: Site = request.getfixturevalue(f"{request.param}_site")
    return found


def ready(one: Volume | Snapshot) -> bool:
    assert not one.fault
    return one.ready


@dataclass(frozen=True)
class Wanted:
    """One instance that a test makes."""

    project: str = "p-1"
    network: str | None = None
    size: Size = SMALL
    operation: str = field(default_factory=lambda: str(uuid.uuid4()))
    instance: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def tags(self) -> Tags:
        return Tags(self.instance, self.operation, self.project)

    def spec(self, port: Port, volume: Volume, **changed: object) -> MachineSpec:
        wanted: dict[str, object] = {
            "tags": self.tags, "name": "my db", "size": self.size, "port": port, "volume": volume,
            "user_data": b'{"secret": "once only"}', **changed,
        }
        return MachineSpec(**wanted)  # type: ignore[arg-type]

    async def port(self, cloud: Cloud, **changed: str | None) -> Port:
        wanted: dict[str, str | None] = {"network": self.network, "address": None, **changed}
        return await reached(lambda: cloud.ensure_port(self.tags, **wanted))  # type: ignore[arg-type]

    async def volume(
        self, cloud: Cloud, gib: int = 1, volume_type: str | None = None, snapshot: str | None = None,
    ) -> Volume:
        return await reached(lambda: cloud.ensure_volume(
            self.tags, gib=gib, volume_type=volume_type, snapshot=snapshot,
        ), ready)

    async def snapshot(self, cloud: Cloud, backup: str) -> Snapshot:
        return await reached(lambda: cloud.ensure_snapshot(self.tags, backup=backup), ready)

    async def machine(self, cloud: Cloud, spec: MachineSpec) -> Machine:
        return await reached(lambda: cloud.ensure_machine(spec), active)

    async def make(self, cloud: Cloud, **changed: object) -> MachineSpec:
        """Everything up to the running machine."""
        port, volume = await self.port(cloud), await self.volume(cloud)
        spec = self.spec(port, volume, **changed)
        await self.machine(cloud, spec)
        return spec

    async def drop(self, cloud: Cloud) -> None:
        for drop in (cloud.drop_public_address, cloud.drop_machine, cloud.drop_volume, cloud.drop_port):
            await reached(lambda drop=drop: drop(self.instance))  # type: ignore[misc]


@pytest.fixture
def wanted(site: Site) -> Callable[..., Wanted]:
    """An instance of a project, on the project's network at that site."""

    def make(project: str = "p-1") -> Wanted:
        return Wanted(project, site.home(project), site.sizes[0])

    return make
