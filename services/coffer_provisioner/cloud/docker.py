"""The cloud driver for one Docker host: a machine is a container with an engine of its own inside.

    docker_labels        marks, names, settings
    docker_engine        the calls to the Docker Engine: deadlines and errors
    docker_reservations  addresses, loop devices and ranges, each held by a small labelled volume (read this one first)
    docker_networks      tenant networks and ports
    docker_recipe        what a machine's and a forwarder's container are made of
    docker_machines      machines and data volumes
    docker_public        public addresses

A machine container is no boundary against somebody who is root in it: this driver is for trust within one host.
"""

from __future__ import annotations

from coffer_provisioner.cloud.docker_engine import Description, Engine
from coffer_provisioner.cloud.docker_labels import (
    INSTANCE,
    KIND,
    OPERATION,
    PROJECT,
    STACK,
    DockerSettings,
    Kind,
    Marks,
    labels_of,
)
from coffer_provisioner.cloud.docker_machines import Machines
from coffer_provisioner.cloud.docker_networks import TenantNetworks, projects_in_use
from coffer_provisioner.cloud.docker_public import PublicAddresses, check_cidrs
from coffer_provisioner.cloud.docker_reservations import Reservations
from coffer_provisioner.cloud.interface import (
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

__all__ = ["DockerCloud", "DockerSettings"]


class DockerCloud:
    """`cloud.interface.Cloud` on the Docker Engine of this host."""

    def __init__(self, settings: DockerSettings) -> None:
        self._marks = Marks(settings.stack)
        self._engine = Engine(settings.socket, settings.call_seconds)
        reservations = Reservations(self._engine, self._marks)
        self._networks = TenantNetworks(self._engine, self._marks, reservations, settings.tenant_pool)
        self._machines = Machines(self._engine, self._marks, reservations, self._networks, settings)
        self._public = PublicAddresses(self._engine, self._marks, reservations, settings)

    async def ensure_port(
        self, tags: Tags, *, network: str | None, address: str | None, subnet: str | None = None,
    ) -> Port:
        return await self._networks.ensure_port(tags, network, address, subnet)

    async def ensure_access(self, tags: Tags, *, tcp_port: int, allowed_cidrs: tuple[str, ...]) -> None:  # noqa: ARG002
        """Docker filters nothing between a tenant's containers: the machine's own firewall does."""
        check_cidrs(allowed_cidrs)
        await self._networks.need_port(tags.instance)

    async def ensure_volume(
        self, tags: Tags, *, gib: int, volume_type: str | None, availability_zone: str | None = None,  # noqa: ARG002
        snapshot: str | None = None,
    ) -> Volume:
        """One host has one kind of disk and is one zone, so neither says anything here."""
        if snapshot is not None:
            raise _no_snapshots()
        return await self._machines.ensure_volume(tags, gib)

    async def mark_volume(self, tags: Tags) -> None:
        await self._machines.mark_volume(tags)

    async def volume_is_marked(self, instance: str) -> bool:
        return await self._machines.volume_is_marked(instance)

    async def ensure_machine(self, spec: MachineSpec) -> Machine:
        return await self._machines.ensure(spec)

    async def find_machine(self, instance: str) -> Machine | None:
        return await self._machines.find(instance)

    async def machines(self) -> dict[str, Machine]:
        return await self._machines.all()

    async def restart_machine(self, instance: str) -> None:
        await self._machines.restart(instance)

    async def resize_machine(self, tags: Tags, size: Size) -> Machine:
        return await self._machines.resize(tags.instance, size)

    async def confirm_resize(self, instance: str) -> Machine:
        return await self._machines.existing(instance)

    async def revert_resize(self, tags: Tags, size: Size) -> Machine:
        return await self._machines.resize(tags.instance, size)

    async def rebuild_machine(self, spec: MachineSpec) -> Machine:
        return await self._machines.rebuild(spec)

    async def grow_volume(self, instance: str, gib: int) -> Volume:
        return await self._machines.grow_volume(instance, gib)

    async def ensure_public_address(
        self, tags: Tags, *, port: Port, tcp_port: int, allowed_cidrs: tuple[str, ...],
    ) -> PublicAddress:
        return await self._public.ensure(tags, port, tcp_port, allowed_cidrs)

    async def drop_public_address(self, instance: str) -> None:
        await self._public.drop(instance)

    async def drop_machine(self, instance: str) -> None:
        await self._machines.drop(instance)

    async def drop_volume(self, instance: str) -> None:
        await self._machines.drop_volume(instance)

    async def ensure_snapshot(self, tags: Tags, *, backup: str) -> Snapshot:  # noqa: ARG002
        raise _no_snapshots()

    async def find_snapshot(self, backup: str) -> Snapshot | None:  # noqa: ARG002
        return None

    async def drop_snapshot(self, backup: str) -> None:
        """There is none."""

    async def drop_port(self, instance: str) -> None:
        await self._networks.drop_port(instance)

    async def resources(self) -> list[Resource]:
        """What projects share is listed only when no instance uses it: it is left over from the one in its tags."""
        mine = self._marks.filters()
        containers = await self._engine.containers(mine)
        networks = await self._engine.networks(mine)
        # after the networks: one that is made meanwhile is not missed as unused, since its address is seen
        volumes = await self._engine.volumes(mine)
        used = projects_in_use(volumes)
        found = [
            *(_resource(container, container["Id"]) for container in containers),
            *(_resource(network, network["Id"]) for network in networks if labels_of(network).get(PROJECT) not in used),
            *(
                _resource(volume, volume["Name"]) for volume in volumes
                if labels_of(volume).get(KIND) not in {Kind.SUBNET, Kind.SUBNET_CLAIM}
                or labels_of(volume).get(PROJECT) not in used
            ),
        ]
        return [resource for resource in found if resource.kind and resource.instance]

    async def drop_resource(self, resource: Resource) -> None:
        try:
            kind = Kind(resource.kind)
        except ValueError:
            raise CloudRefused("unknown_kind", f"this release knows no {resource.kind}") from None
        if kind.of_project:
            await self._networks.drop_shared(kind, resource.id)
        elif kind.is_container:
            container = await self._engine.container(resource.id)
            if container is not None and labels_of(container).get(STACK) == self._marks.stack:
                await self._engine.remove_container(resource.id)
        else:
            volume = await self._engine.volume(resource.id)
            if volume is not None and labels_of(volume).get(STACK) == self._marks.stack:
                await self._engine.remove_volume(resource.id)

    async def console(self, instance: str, lines: int) -> str:
        return await self._machines.console(instance, min(lines, 5000))

    async def close(self) -> None:
        await self._engine.close()


def _no_snapshots() -> CloudRefused:
    return CloudRefused("no_snapshots", "this cloud cannot make snapshots of volumes: it is a Docker host")


def _resource(thing: Description, identity: str) -> Resource:
    labels = labels_of(thing)
    return Resource(labels.get(KIND, ""), identity, labels.get(INSTANCE, ""), labels.get(OPERATION, ""))
