"""The cloud driver for OpenStack: Nova, Cinder, Neutron and Glance, as the user of one service project.

    openstack_labels     marks, names, settings (read this one first)
    openstack_calls      the requests: threads, deadlines, errors
    openstack_networks   which network an instance gets, and whether its tenant may have it
    openstack_ports      the instance's address, and its cards on the management networks
    openstack_access     its security group: who may connect
    openstack_public     floating addresses
    openstack_volumes    data volumes
    openstack_snapshots  their snapshots
    openstack_templates  flavors and the guest image
    openstack_user_data  what a new machine is told
    openstack_groups     server groups
    openstack_states     what a server's description says
    openstack_machines   servers: making, restarting, deleting
    openstack_sizes      servers: resizing, rebuilding

The tenant sees none of these but the floating address, which is in his own project. OpenStack makes things without a
key of ours, so each module says what decides when two provisioners make the same thing. When `drop_*` returns, all of
it is gone.
"""

from __future__ import annotations

import asyncio

from coffer_provisioner.cloud.interface import (
    CloudBusy,
    CloudRefused,
    Machine,
    MachineSpec,
    Port,
    PublicAddress,
    Resource,
    Size,
    Snapshot,
    Tags,
    Volume,
)
from coffer_provisioner.cloud.openstack_access import Access
from coffer_provisioner.cloud.openstack_calls import Calls
from coffer_provisioner.cloud.openstack_groups import Groups
from coffer_provisioner.cloud.openstack_labels import Kind, Marks, OpenStackSettings
from coffer_provisioner.cloud.openstack_machines import Machines
from coffer_provisioner.cloud.openstack_networks import Networks
from coffer_provisioner.cloud.openstack_ports import Ports, as_port
from coffer_provisioner.cloud.openstack_public import PublicAddresses
from coffer_provisioner.cloud.openstack_sizes import Sizes
from coffer_provisioner.cloud.openstack_snapshots import Snapshots
from coffer_provisioner.cloud.openstack_templates import Templates
from coffer_provisioner.cloud.openstack_volumes import Volumes, held

__all__ = ["OpenStackCloud", "OpenStackSettings"]


class OpenStackCloud:
    """`cloud.interface.Cloud` on an OpenStack of release Stein or later."""

    def __init__(self, settings: OpenStackSettings) -> None:
        self._settings = settings
        self._marks = marks = Marks(settings.stack)
        self._calls = calls = Calls(settings)
        networks, templates = Networks(calls, settings), Templates(calls, settings)
        self._ports = Ports(calls, marks, networks, settings)
        self._access = Access(calls, marks, self._ports, settings)
        self._public = PublicAddresses(calls, marks, networks, self._ports, self._access, settings)
        self._volumes = Volumes(calls, marks, settings)
        self._snapshots = Snapshots(calls, marks, self._volumes, settings)
        self._groups = Groups(calls, marks)
        self._machines = Machines(calls, marks, self._ports, self._volumes, self._groups, templates, settings)
        self._sizes = Sizes(calls, marks, self._machines, templates, settings)

    async def ensure_port(
        self, tags: Tags, *, network: str | None, address: str | None, subnet: str | None = None,
    ) -> Port:
        port = await self._ports.ensure(tags, network, subnet, address)
        await self._access.ensure_group(tags)
        return as_port(port)

    async def ensure_access(self, tags: Tags, *, tcp_port: int, allowed_cidrs: tuple[str, ...]) -> None:
        await self._access.ensure(tags, tcp_port, allowed_cidrs)

    async def ensure_volume(
        self, tags: Tags, *, gib: int, volume_type: str | None, availability_zone: str | None = None,
        snapshot: str | None = None,
    ) -> Volume:
        return await self._volumes.ensure(tags, gib, volume_type, availability_zone, snapshot)

    async def mark_volume(self, tags: Tags) -> None:
        await self._volumes.mark(tags)

    async def volume_is_marked(self, instance: str) -> bool:
        return await self._volumes.is_marked(instance)

    async def ensure_machine(self, spec: MachineSpec) -> Machine:
        return await self._machines.ensure(spec)

    async def find_machine(self, instance: str) -> Machine | None:
        return await self._machines.find(instance)

    async def machines(self) -> dict[str, Machine]:
        return await self._machines.all()

    async def restart_machine(self, instance: str) -> None:
        await self._machines.restart(instance)

    async def resize_machine(self, tags: Tags, size: Size) -> Machine:
        return await self._sizes.resize(tags, size)

    async def confirm_resize(self, instance: str) -> Machine:
        return await self._sizes.confirm(instance)

    async def revert_resize(self, tags: Tags, size: Size) -> Machine:
        return await self._sizes.revert(tags, size)

    async def rebuild_machine(self, spec: MachineSpec) -> Machine:
        return await self._sizes.rebuild(spec)

    async def grow_volume(self, instance: str, gib: int) -> Volume:
        return await self._volumes.grow(instance, gib)

    async def ensure_public_address(
        self, tags: Tags, *, port: Port, tcp_port: int, allowed_cidrs: tuple[str, ...],  # noqa: ARG002
    ) -> PublicAddress:
        """On the port that carries the instance's marks, which is the same as `port`."""
        return await self._public.ensure(tags, tcp_port, allowed_cidrs)

    async def drop_public_address(self, instance: str) -> None:
        await self._public.drop(instance)

    async def drop_machine(self, instance: str) -> None:
        await self._machines.drop(instance)

    async def drop_volume(self, instance: str) -> None:
        if await self._machines.of(instance) is not None:
            raise CloudBusy("the volume is in use by a machine")
        await self._volumes.drop(instance)

    async def ensure_snapshot(self, tags: Tags, *, backup: str) -> Snapshot:
        return await self._snapshots.ensure(tags, backup)

    async def find_snapshot(self, backup: str) -> Snapshot | None:
        return await self._snapshots.find(backup)

    async def drop_snapshot(self, backup: str) -> None:
        await self._snapshots.drop(backup)

    async def drop_port(self, instance: str) -> None:
        if await self._machines.of(instance) is not None:
            raise CloudBusy("the address is in use by a machine")
        await self._ports.drop(instance, Kind.ADDRESS, Kind.MANAGEMENT)
        await self._access.drop(instance)

    async def resources(self) -> list[Resource]:
        """A listing of each kind, however many there are."""
        servers, volumes, snapshots, ports, access, public, groups = await asyncio.gather(
            self._machines.listed(), self._volumes.all(), self._snapshots.all(), self._ports.all(), self._access.all(),
            self._public.all(), self._groups.all(),
        )
        kinds = (
            (Kind.MACHINE, servers), (Kind.VOLUME, volumes), (Kind.VOLUME_HELD, [v for v in volumes if held(v)]),
            (Kind.SNAPSHOT, snapshots), (None, ports), (Kind.ACCESS, access), (Kind.PUBLIC, public),
            (Kind.GROUP, [group for group in groups if not group["members"]]),
        )
        return [
            Resource(mark.kind if kind is None else kind.value, thing["id"], mark.instance, mark.operation)
            for kind, things in kinds for thing in things if (mark := self._marks.of(thing)) is not None
        ]

    async def drop_resource(self, resource: Resource) -> None:
        match resource.kind:
            case Kind.MACHINE:
                await self._machines.drop_one(resource.id)
            case Kind.VOLUME:
                await self._volumes.drop_one(resource.id)
            case Kind.SNAPSHOT:
                await self._snapshots.drop_one(resource.id)
            case Kind.VOLUME_HELD:
                pass  # the mark is the volume's, and goes with it
            case Kind.ADDRESS | Kind.MANAGEMENT:
                await self._drop_port(resource)
            case Kind.ACCESS:
                await self._access.drop_one(resource.id)
            case Kind.PUBLIC:
                await self._public.drop_one(resource.id)
            case Kind.GROUP:
                await self._groups.drop_one(resource.id)
            case _:
                raise CloudRefused("unknown_kind", f"this release knows no {resource.kind}")

    async def console(self, instance: str, lines: int) -> str:
        return await self._machines.console(instance, min(lines, 5000))

    async def close(self) -> None:
        await self._calls.close()

    async def _drop_port(self, resource: Resource) -> None:
        if await self._machines.of(resource.instance) is not None:
            raise CloudBusy("the port is in use by a machine")
        await self._ports.drop_one(resource.id)
