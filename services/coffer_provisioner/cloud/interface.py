"""What the provisioner asks of a cloud. Two real drivers implement it; the fake one passes the same contract suite.

Every call is idempotent: it looks for what carries the instance's tag, and makes it only if it is not there. Every
resource carries the instance id and the id of the operation that made it as tags (labels, in Docker). Names are for
people and are never keys. `drop_*` of what is not there succeeds.

Errors: CloudBusy (passing: try later) and CloudRefused (final: carries a code and a sentence for the tenant).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from coffer_shared.errors import GiveUp, TryAgain


class CloudBusy(TryAgain):
    """The cloud did not answer, or is not ready yet."""


class CloudRefused(GiveUp):
    """The cloud says no: quota, no capacity, an address that is taken, an image that is missing."""


class MachineState(StrEnum):
    BUILDING = "building"
    ACTIVE = "active"
    STOPPED = "stopped"
    """Not running: stopped, crashed, or its host is down."""
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Tags:
    """Whose a resource is and which operation made it."""

    instance: str
    operation: str
    project: str


@dataclass(frozen=True, slots=True)
class Port:
    """An address on a tenant network, reserved for one instance for its whole life."""

    address: str
    network: str
    """Id of the tenant network, a UUID, as `addresses` shows it and as a tenant asks for it."""


@dataclass(frozen=True, slots=True)
class Volume:
    id: str
    gib: int
    ready: bool
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of an instance's volume as it was at one moment. It outlives the instance; the volume it is of may have to
    stay as long."""

    id: str
    gib: int
    """Of the volume; no volume that is made of it can be smaller."""
    ready: bool
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Size:
    """How large a machine is. `flavor` is the cloud's own id of it; a driver whose cloud has none goes by the rest."""

    flavor: str
    memory_mb: int
    vcpus: float


@dataclass(frozen=True, slots=True)
class Machine:
    id: str
    state: MachineState
    fault: str = ""
    unconfirmed: bool = False
    """It runs in a new size, and the cloud keeps the way back open until the size is confirmed."""


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """The machine of one instance. `user_data` holds a short-lived secret: never in an environment or a label."""

    tags: Tags
    name: str
    """The instance's, as its tenant chose it."""
    size: Size
    port: Port
    volume: Volume
    user_data: bytes = field(repr=False)
    manager: str = ""
    """The datastore's folder: a mark for the cloud's operators."""
    user: str = ""
    """Who asked for the instance: as `manager`."""
    availability_zone: str | None = None
    locality: str | None = None
    """affinity or anti-affinity, between the machines of one instance and its replicas."""
    locality_of: str | None = None
    """That instance, when this is one of its replicas."""


@dataclass(frozen=True, slots=True)
class PublicAddress:
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Resource:
    """Something in the cloud that carries Coffer's tag. `kind` is the driver's word."""

    kind: str
    id: str
    instance: str
    operation: str


class Cloud(Protocol):
    async def ensure_port(
        self, tags: Tags, *, network: str | None, address: str | None, subnet: str | None = None,
    ) -> Port:
        """Reserve an address on the tenant network `network`, in its `subnet` if that is given, which is enough to
        find the network (neither: the project's own, made when missing).

        CloudRefused `address_taken` or `no_network`, `no_subnet` when what was asked for cannot be had."""
        ...

    async def ensure_access(self, tags: Tags, *, tcp_port: int, allowed_cidrs: tuple[str, ...]) -> None:
        """Let in at the tenant's port exactly who is allowed (nobody named: everybody), where the cloud filters
        itself; the machine's own firewall does so everywhere. CloudRefused `bad_cidr`, `no_port`."""
        ...

    async def ensure_volume(
        self, tags: Tags, *, gib: int, volume_type: str | None, availability_zone: str | None = None,
        snapshot: str | None = None,
    ) -> Volume:
        """Empty, or with what the snapshot of that id holds.

        CloudRefused `no_snapshot` if that is not there, `too_small` if its volume was larger, `no_snapshots` where the
        cloud has none."""
        ...

    async def mark_volume(self, tags: Tags) -> None:
        """Record with the volume itself that it holds a started database, whatever our own database forgets."""
        ...

    async def volume_is_marked(self, instance: str) -> bool: ...

    async def ensure_machine(self, spec: MachineSpec) -> Machine:
        """Make and start the machine. A machine that is stopped is started; one in error is reported, not remade."""
        ...

    async def find_machine(self, instance: str) -> Machine | None: ...

    async def machines(self) -> dict[str, Machine]:
        """Every machine by instance id, in one call to the cloud."""
        ...

    async def restart_machine(self, instance: str) -> None:
        """Stop (its agent stops the database first) and start."""
        ...

    async def resize_machine(self, tags: Tags, size: Size) -> Machine:
        """Give the machine another size, restarting it if the cloud must. BUILDING while that goes on; then
        `unconfirmed` where the cloud keeps the way back open. One that has the size already is left as it is.

        CloudRefused `no_machine`, `no_flavor`, `no_capacity`, `quota`."""
        ...

    async def confirm_resize(self, instance: str) -> Machine:
        """Give up the way back. Nothing to confirm: nothing is done."""
        ...

    async def revert_resize(self, tags: Tags, size: Size) -> Machine:
        """Back to `size`, which it had before, by the way that the cloud kept open or else by resizing again.
        BUILDING while that goes on."""
        ...

    async def rebuild_machine(self, spec: MachineSpec) -> Machine:
        """A new system disk from the image of today, with new user data; port, volume and its data stay. Once for each
        operation (of `spec.tags`): called again, it tells how that goes. Without a machine it makes one."""
        ...

    async def grow_volume(self, instance: str, gib: int) -> Volume:
        """Grow the block device, online; the guest grows the file system. Not `ready` while that goes on. Shrinking is
        CloudRefused `cannot_shrink`, of what is not there `no_volume`."""
        ...

    async def ensure_public_address(
        self, tags: Tags, *, port: Port, tcp_port: int, allowed_cidrs: tuple[str, ...],
    ) -> PublicAddress: ...

    async def drop_public_address(self, instance: str) -> None: ...

    async def drop_machine(self, instance: str) -> None: ...

    async def drop_volume(self, instance: str) -> None:
        """Delete the data. The caller has made sure that this is wanted, and that there are no snapshots of it."""
        ...

    async def ensure_snapshot(self, tags: Tags, *, backup: str) -> Snapshot:
        """Begin to copy the volume of `tags.instance` as it is now, while a machine uses it: the one snapshot of that
        backup. Not `ready` while that goes on; once it is, whatever is written later is not in it.

        CloudRefused `no_snapshots` where the cloud cannot do so, `no_volume`, `quota`."""
        ...

    async def find_snapshot(self, backup: str) -> Snapshot | None: ...

    async def drop_snapshot(self, backup: str) -> None:
        """CloudBusy while the cloud needs it, such as for a volume that was made of it."""
        ...

    async def drop_port(self, instance: str) -> None:
        """Give the address back, and the tenant network with it if nothing else uses it."""
        ...

    async def resources(self) -> list[Resource]:
        """Everything that carries this stack's tag, for the sweeper."""
        ...

    async def drop_resource(self, resource: Resource) -> None: ...

    async def console(self, instance: str, lines: int) -> str:
        """The machine's last console lines, for people who look for a cause."""
        ...

    async def close(self) -> None: ...
