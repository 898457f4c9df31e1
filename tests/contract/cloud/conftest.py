"""The clouds that the contract suite runs against: the fake one, and a real Docker Engine."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import pytest

from coffer_provisioner.cloud.docker import DockerCloud, DockerSettings
from coffer_provisioner.cloud.docker_networks import uuid_of
from coffer_provisioner.cloud.fake import FakeCloud, World
from coffer_provisioner.cloud.interface import Cloud, MachineSpec, MachineState, Port, Size, Tags, Volume

IMAGES = ("coffer/machine", "coffer/services")
LET_GO = (
    "run", "--rm", "--network", "none", "--cap-drop", "ALL", "--cap-add", "MKNOD",
    "--device-cgroup-rule", "c 10:237 rwm", "--entrypoint", "coffer-loop", "coffer/machine", "remove",
)


class Site(Protocol):
    """A cloud as the suite sees it: doors to it, and what happens to it from outside."""

    def door(self, stack: int = 0) -> Cloud:
        """A provisioner's own connection to the cloud; every call gives another one."""
        ...

    def add_network(self, project: str) -> str:
        """A network that the tenant made."""
        ...

    async def stop_machine(self, instance: str) -> None:
        """Somebody stops a machine behind Coffer's back."""
        ...

    def left_over(self) -> list[str]:
        """What the first stack still has, seen by other means than the driver's."""
        ...


@dataclass
class FakeSite:
    world: World = field(default_factory=World)

    def door(self, stack: int = 0) -> Cloud:
        return FakeCloud(self.world, stack=f"stack-{stack}")

    def add_network(self, project: str) -> str:
        return self.world.add_network(project, stack="stack-0")

    async def stop_machine(self, instance: str) -> None:
        FakeCloud(self.world, stack="stack-0").set_machine(instance, MachineState.STOPPED, "stopped by a test")

    def left_over(self) -> list[str]:
        mine = self.world.stack("stack-0")
        return [
            *mine.ports, *mine.volumes, *mine.machines, *mine.public,
            *(n.id for n in mine.networks.values() if n.made_for is not None),
        ]


@dataclass
class DockerSite:
    run: str
    doors: list[DockerCloud] = field(default_factory=list)
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


@pytest.fixture(params=["fake", pytest.param("docker", marks=pytest.mark.docker)])
def site(request: pytest.FixtureRequest) -> Site:
    if request.param == "fake":
        return FakeSite()
    found: DockerSite = request.getfixturevalue("docker_site")
    return found


@dataclass(frozen=True)
class Wanted:
    """One instance that a test makes."""

    project: str = "p-1"
    operation: str = field(default_factory=lambda: str(uuid.uuid4()))
    instance: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def tags(self) -> Tags:
        return Tags(self.instance, self.operation, self.project)

    def spec(self, port: Port, volume: Volume, **changed: object) -> MachineSpec:
        wanted: dict[str, object] = {
            "tags": self.tags, "name": "my db", "size": Size("small", 256, 0.5), "port": port, "volume": volume,
            "user_data": b'{"secret": "once only"}', **changed,
        }
        return MachineSpec(**wanted)  # type: ignore[arg-type]

    async def make(self, cloud: Cloud, **changed: object) -> MachineSpec:
        """Everything up to the running machine."""
        port = await cloud.ensure_port(self.tags, network=None, address=None)
        volume = await cloud.ensure_volume(self.tags, gib=1, volume_type=None)
        spec = self.spec(port, volume, **changed)
        machine = await cloud.ensure_machine(spec)
        assert machine.state is MachineState.ACTIVE
        return spec

    async def drop(self, cloud: Cloud) -> None:
        await cloud.drop_public_address(self.instance)
        await cloud.drop_machine(self.instance)
        await cloud.drop_volume(self.instance)
        await cloud.drop_port(self.instance)
