"""What the cloud in memory consists of. A `World` is the cloud itself and outlives the provisioners that talk to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from uuid import uuid4

from coffer_provisioner.cloud.interface import (
    CloudRefused,
    Machine,
    MachineSpec,
    MachineState,
    Port,
    Size,
    Snapshot,
    Tags,
    Volume,
)


@dataclass(slots=True)
class Network:
    id: str
    project: str
    subnet: IPv4Network
    made_for: Tags | None
    """None: the tenant's own, which the driver never drops."""


@dataclass(slots=True)
class FakeMachine:
    id: str
    spec: MachineSpec
    state: MachineState
    size: Size
    fault: str = ""
    looks_left: int = 0
    starts: int = 1
    way_back: Size | None = None
    """The size before, while that is kept."""
    keeps: Size | None = None
    """As `way_back`, once it is active again."""

    @property
    def seen(self) -> Machine:
        return Machine(self.id, self.state, self.fault, unconfirmed=self.way_back is not None)

    def look(self) -> Machine:
        """What is seen at one more look."""
        if self.state is MachineState.BUILDING:
            self.looks_left -= 1
            if self.looks_left <= 0:
                self.state = MachineState.ACTIVE
                self.way_back, self.keeps = self.keeps or self.way_back, None
        return self.seen

    def start(self, looks: int = 0) -> None:
        """`looks`: how many it takes until it is active."""
        self.state, self.fault, self.looks_left = MachineState.BUILDING if looks else MachineState.ACTIVE, "", looks
        self.starts += 1
        if not looks:
            self.way_back, self.keeps = self.keeps or self.way_back, None


@dataclass(slots=True)
class FakeSnapshot:
    tags: Tags
    volume: str
    """Id of the one that it is of."""
    seen: Snapshot
    looks_left: int = 0

    def look(self) -> Snapshot:
        """What is seen at one more look."""
        if not self.seen.ready:
            self.looks_left -= 1
            if self.looks_left <= 0:
                self.seen = replace(self.seen, ready=True)
        return self.seen


@dataclass(slots=True)
class Public:
    tags: Tags
    address: str
    tcp_port: int
    allowed: tuple[str, ...]


@dataclass(slots=True)
class Stack:
    """What one stack has in the world, by instance (networks: by id, snapshots: by backup)."""

    networks: dict[str, Network] = field(default_factory=dict)
    ports: dict[str, tuple[Tags, Port]] = field(default_factory=dict)
    volumes: dict[str, tuple[Tags, Volume]] = field(default_factory=dict)
    marked: dict[str, Tags] = field(default_factory=dict)
    machines: dict[str, FakeMachine] = field(default_factory=dict)
    public: dict[str, Public] = field(default_factory=dict)
    access: dict[str, tuple[str, ...]] = field(default_factory=dict)
    growing: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Volumes: the size to be, in GiB, and how many looks that takes."""
    snapshots: dict[str, FakeSnapshot] = field(default_factory=dict)
    made_of: dict[str, str] = field(default_factory=dict)
    """Volumes that were not empty: the id of the snapshot whose content they began with."""


@dataclass(slots=True)
class World:
    pool: str = "10.213.0.0/16"
    public_pool: str = "127.0.13.0/24"
    looks_until_active: int = 0
    """How often a new machine is looked at before it is active; so, too, one that is resized or rebuilt."""
    looks_until_grown: int = 0
    looks_until_copied: int = 0
    keeps_copied_from: bool = False
    """A snapshot stays as long as the volumes that were made of it, as in Ceph; else it goes at any time, as in LVM."""
    keeps_way_back: bool = False
    """A resize restarts the machine and leaves it unconfirmed, as Nova's does; else it is done at once, as Docker's."""
    stacks: dict[str, Stack] = field(default_factory=dict)
    made: int = 0

    def stack(self, name: str) -> Stack:
        return self.stacks.setdefault(name, Stack())

    def new_id(self, kind: str) -> str:
        self.made += 1
        return f"{kind}-{self.made}"

    def add_network(self, project: str, *, stack: str = "coffer") -> str:
        """A network of the tenant's own."""
        return self.make_network(self.stack(stack), project, None).id

    def make_network(self, stack: Stack, project: str, made_for: Tags | None) -> Network:
        used = {network.subnet for each in self.stacks.values() for network in each.networks.values()}
        subnet = next((s for s in IPv4Network(self.pool).subnets(new_prefix=24) if s not in used), None)
        if subnet is None:
            raise CloudRefused("no_network", "no range is left for another project's network")
        network = Network(str(uuid4()), project, subnet, made_for)
        stack.networks[network.id] = network
        return network
