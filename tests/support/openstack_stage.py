"""An instance on a real OpenStack, by way of a proxy in which things go wrong."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from coffer_provisioner.cloud.interface import (
    Cloud,
    CloudBusy,
    Machine,
    MachineSpec,
    MachineState,
    Port,
    PublicAddress,
    Size,
    Snapshot,
    Tags,
    Volume,
)
from coffer_provisioner.cloud.openstack import OpenStackCloud
from support.faulty_proxy import FaultyProxy
from support.openstack_ground import Ground, left_over

T = TypeVar("T")
PROJECT = "tenant"
WITHIN = 300.0


@dataclass
class Stage:
    """A stack of its own on the ground, all of whose calls go through the proxy."""

    ground: Ground
    proxy: FaultyProxy
    clouds: str
    stack: str = field(default_factory=lambda: f"f-{uuid.uuid4().hex[:8]}")
    doors: list[OpenStackCloud] = field(default_factory=list)

    def door(self, **changed: Any) -> OpenStackCloud:
        made = self.ground.door(self.stack, **{"clouds_file": self.clouds, **changed})
        self.doors.append(made)
        return made

    @asynccontextmanager
    async def aside(self) -> AsyncIterator[Stage]:
        """The same stack by a proxy of its own, so that what goes wrong there does not here."""
        proxy = FaultyProxy(dict(self.proxy.bases))
        await proxy.start()
        directory = Path(self.clouds).parent / f"aside-{proxy.port}"
        directory.mkdir()
        made = Stage(
            self.ground, proxy, proxy.clouds(directory, self.ground.file, self.ground.cloud), self.stack,
        )
        try:
            yield made
        finally:
            for door in made.doors:
                await door.close()
            await proxy.stop()

    def network(self) -> str:
        return self.ground.network("tenant", project=PROJECT)

    def left_over(self) -> list[str]:
        return left_over(self.ground, self.stack)

    def instance(self) -> Instance:
        return Instance(self.network(), self.ground.flavors[0])


@dataclass(frozen=True)
class Instance:
    network: str
    flavor: str
    instance: str = field(default_factory=lambda: str(uuid.uuid4()))
    operation: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def tags(self) -> Tags:
        return Tags(self.instance, self.operation, PROJECT)

    async def everything(self, cloud: Cloud) -> MachineSpec:
        """What the plan of a public instance makes, in its order."""
        port = await reached(lambda: cloud.ensure_port(self.tags, network=self.network, address=None))
        await reached(lambda: cloud.ensure_access(self.tags, tcp_port=5432, allowed_cidrs=("192.0.2.0/24",)))
        volume = await self.volume(cloud)
        spec = self.spec(port, volume)
        await reached(lambda: cloud.ensure_machine(spec), active)
        await reached(lambda: cloud.mark_volume(self.tags))
        await self.public(cloud, spec)
        return spec

    def spec(self, port: Port, volume: Volume, flavor: str | None = None) -> MachineSpec:
        return MachineSpec(
            tags=self.tags, name="my db", size=Size(flavor or self.flavor, 0, 0), port=port, volume=volume,
            user_data=b'{"secret": "once only"}', manager="postgresql", user="u-1", locality="soft-anti-affinity",
        )

    async def volume(self, cloud: Cloud, snapshot: str | None = None) -> Volume:
        return await reached(
            lambda: cloud.ensure_volume(self.tags, gib=1, volume_type=None, snapshot=snapshot), lambda v: v.ready,
        )

    async def snapshot(self, cloud: Cloud, backup: str) -> Snapshot:
        return await reached(lambda: cloud.ensure_snapshot(self.tags, backup=backup), lambda s: s.ready)

    async def public(self, cloud: Cloud, spec: MachineSpec) -> PublicAddress:
        return await reached(lambda: cloud.ensure_public_address(
            self.tags, port=spec.port, tcp_port=5432, allowed_cidrs=("192.0.2.0/24",),
        ))

    async def nothing(self, cloud: Cloud) -> None:
        """What the plan of a delete does, in its order."""
        for drop in (cloud.drop_public_address, cloud.drop_machine, cloud.drop_volume, cloud.drop_port):
            await reached(lambda drop=drop: drop(self.instance))  # type: ignore[misc]


async def reached(
    look: Callable[[], Awaitable[T]], good: Callable[[T], bool] = lambda _: True, within: float = WITHIN,
) -> T:
    """What the cloud says in the end: calls of a driver need not wait, and may be told to try again."""
    end = time.monotonic() + within
    while True:
        said: object
        try:
            said = found = await look()
            if good(found):
                return found
        except CloudBusy as error:
            said = error
        assert time.monotonic() < end, f"still not there: {said!r}"
        await asyncio.sleep(0.2)


def active(machine: Machine | None) -> bool:
    assert machine is not None
    assert machine.state is not MachineState.ERROR, machine.fault
    return machine.state is MachineState.ACTIVE and not machine.unconfirmed


def with_password(clouds: str, password: str) -> str:
    """A copy of a clouds.yaml in which every entry has that password."""
    found = yaml.safe_load(Path(clouds).read_text(encoding="utf-8"))
    for entry in found["clouds"].values():
        entry["auth"]["password"] = password
    path = Path(clouds).with_name("other-clouds.yaml")
    path.write_text(yaml.safe_dump(found), encoding="utf-8")
    return str(path)
