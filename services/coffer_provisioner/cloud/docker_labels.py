"""How the Docker driver marks and names what it makes, and the settings it is given. No call to Docker is made here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from coffer_provisioner.cloud.interface import Tags

STACK = "coffer.stack"
INSTANCE = "coffer.instance"
OPERATION = "coffer.operation"
PROJECT = "coffer.project"
KIND = "coffer.kind"
HOLDS = "coffer.holds"
"""What a reservation or a claim stands for."""
OWNER = "coffer.owner"
"""Whom a reservation or a claim belongs to: the instance, or the project where its instances share the thing."""
GIB = "coffer.gib"
SEED = "coffer.seed"
SUBNET = "coffer.subnet"
NETWORK = "coffer.network"
OWN_NETWORK = "coffer.own-network"
"""On an address: whether its network is the project's own ("yes"), which the driver makes and drops."""

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


class Kind(StrEnum):
    """The value of the label coffer.kind, which is also `Resource.kind`."""

    MACHINE = "machine"
    """Container: the machine."""
    HELPER = "helper"
    """Container that runs one command and goes."""
    FORWARDER = "forwarder"
    """Container: the public address."""
    VOLUME = "volume"
    """Docker volume: the sparse file that holds the tenant's data. The only kind that does."""
    VOLUME_SIZE = "volume-size"
    """Docker volume, empty: the size in GiB to which the data volume has been grown."""
    VOLUME_HELD = "volume-held"
    """Docker volume, empty: the data volume has held a started database."""
    ENGINE = "machine-engine"
    """Docker volume: /var/lib/docker of the machine's own engine. Goes with the machine."""
    STATE = "machine-state"
    """Docker volume: what the agent remembers. Goes with the machine."""
    ADDRESS = "address"
    """Docker volume, empty: an address on a tenant network."""
    ADDRESS_CLAIM = "address-claim"
    LOOP = "loop"
    """Docker volume, empty: the minor number of a loop device."""
    LOOP_CLAIM = "loop-claim"
    PUBLIC = "public"
    """Docker volume, empty: a public address."""
    PUBLIC_CLAIM = "public-claim"
    """Docker volume: the forwarder's configuration."""
    SUBNET = "subnet"
    """Docker volume, empty: a range of addresses for a project's network."""
    SUBNET_CLAIM = "subnet-claim"
    NETWORK = "tenant-network"
    """Docker network of a project."""

    @property
    def is_container(self) -> bool:
        return self in {Kind.MACHINE, Kind.FORWARDER, Kind.HELPER}

    @property
    def of_project(self) -> bool:
        """Shared by the instances of a project: dropped when unused, never with one instance."""
        return self in {Kind.SUBNET, Kind.SUBNET_CLAIM, Kind.NETWORK}


@dataclass(frozen=True, slots=True)
class DockerSettings:
    """What the driver is told. Nothing here is secret."""

    management_network: str
    """Name of the existing internal network that machines reach the control plane on."""
    stack: str = "coffer"
    """Stacks on one Docker Engine do not see each other's resources."""
    machine_image: str = "coffer/machine"
    services_image: str = "coffer/services"
    """Holds the forwarder."""
    registry: str = "registry:5000"
    """Where machines pull engine images from."""
    seed_volume: str | None = None
    """Lent to machines made from now on if it exists; a machine keeps the one it was made with."""
    tenant_pool: str = "10.213.0.0/16"
    """Cut into one /24 per tenant network: a /24 at least."""
    public_pool: str = "127.0.13.0/24"
    """Public addresses, of this host. Its first address is left alone, as are the network's own two."""
    loop_minors: tuple[int, int] = (256, 1279)
    """First and last minor number of loop devices given to machines; lower ones are left to the host."""
    guest_environment: Mapping[str, str] = field(default_factory=dict)
    """More settings for the agent, such as COFFER_HEARTBEAT_SECONDS."""
    socket: str = "unix:///var/run/docker.sock"
    call_seconds: float = 30.0
    """How long one call to the Docker Engine may take."""
    stop_seconds: int = 120
    """How long a machine may take to stop its database; what its own init takes at worst must be less."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Names and labels of one stack."""

    stack: str

    def __post_init__(self) -> None:
        checked_name(self.stack)

    def labels(self, tags: Tags, kind: Kind, **more: str) -> dict[str, str]:
        """`more` is given by the label's last word: holds="..." is coffer.holds."""
        return {
            STACK: self.stack,
            INSTANCE: tags.instance,
            OPERATION: tags.operation,
            PROJECT: tags.project,
            KIND: kind.value,
            **{f"coffer.{key}": value for key, value in more.items()},
        }

    def own(self, instance: str, what: str = "") -> str:
        """Name of something of one instance (or project). Being unique per Engine, it also decides races."""
        name = f"coffer-{self.stack}-{instance}" + (f"-{what}" if what else "")
        return checked_name(name)

    def filters(
        self,
        kind: Kind | None = None,
        *,
        instance: str | None = None,
        owner: str | None = None,
        project: str | None = None,
    ) -> list[str]:
        """Label filters as Docker's list calls take them: what is this stack's, of that kind, and so on."""
        wanted = {
            STACK: self.stack, KIND: kind and kind.value, INSTANCE: instance, OWNER: owner, PROJECT: project,
        }
        return [f"{key}={value}" for key, value in wanted.items() if value is not None]


def checked_name(name: str) -> str:
    """The name itself if it is one that Docker takes and that cannot leave its place in a URL; ValueError otherwise."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a name: {name[:80]!r}")
    return name


def labels_of(thing: Mapping[str, Any]) -> dict[str, str]:
    """The labels in a container's, a volume's or a network's description, wherever Docker puts them."""
    return thing.get("Labels") or thing.get("Config", {}).get("Labels") or {}
