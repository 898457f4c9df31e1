"""A cloud in memory, for tests: same rules as the real ones, plus delays, failures and crashes on demand.

A `World` (`fake_world`) is the cloud itself and outlives the provisioners that talk to it; each `FakeCloud` is one
provisioner's door to it. A new FakeCloud on an old World is a provisioner that was killed and started again.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from typing import Any, Concatenate, ParamSpec, TypeVar

from coffer_provisioner.cloud import fake_volumes
from coffer_provisioner.cloud.fake_world import FakeMachine, Network, Public, World
from coffer_provisioner.cloud.interface import (
    CloudBusy,
    CloudRefused,
    Machine,
    MachineSpec,
    MachineState,
    Port,
    PublicAddress,
    Resource,
    Size,
    Snapshot,
    Tags,
    Volume,
)

__all__ = ["FakeCloud", "World"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(slots=True)
class _Failure:
    error: BaseException
    after: bool


def _call(
    method: Callable[Concatenate[FakeCloud, P], T],
) -> Callable[Concatenate[FakeCloud, P], Coroutine[Any, Any, T]]:
    """Make a call to the cloud of a plain function: delay, failure, and others get their turn before it."""

    @functools.wraps(method)
    async def call(self: FakeCloud, /, *args: P.args, **kwargs: P.kwargs) -> T:
        name = method.__name__
        self.calls[name] += 1
        await asyncio.sleep(self.delays.get(name, 0))
        failures = self.failures.get(name)
        failure = failures.popleft() if failures else None
        if failure is not None and not failure.after:
            raise failure.error
        result = method(self, *args, **kwargs)
        if failure is not None:
            raise failure.error
        return result

    return call


class FakeCloud:
    """`cloud.interface.Cloud` on a World."""

    def __init__(self, world: World | None = None, *, stack: str = "coffer") -> None:
        self.world = world or World()
        self.calls: Counter[str] = Counter()
        self.delays: dict[str, float] = {}
        self.failures: dict[str, deque[_Failure]] = {}
        self._mine = self.world.stack(stack)

    # --- for tests ---

    def fail_at(
        self, method: str, times: int = 1, error: BaseException | None = None, *, after: bool = False,
    ) -> None:
        """Let the next calls of a method fail. `after`: the work is done, but the caller does not learn of it.

        Give asyncio.CancelledError, or a BaseException of the test's own, for a provisioner that dies there."""
        one = _Failure(error or CloudBusy(f"{method} fails because a test said so"), after)
        self.failures.setdefault(method, deque()).extend([one] * times)

    def set_machine(self, instance: str, state: MachineState, fault: str = "") -> None:
        machine = self._mine.machines[instance]
        machine.state, machine.fault = state, fault

    def user_data(self, instance: str) -> bytes:
        return self._mine.machines[instance].spec.user_data

    def starts(self, instance: str) -> int:
        return self._mine.machines[instance].starts

    def size(self, instance: str) -> Size:
        return self._mine.machines[instance].size

    def access(self, instance: str) -> tuple[str, ...] | None:
        return self._mine.access.get(instance)

    def gib(self, instance: str) -> int:
        return self._mine.volumes[instance][1].gib

    def made_of(self, instance: str) -> str | None:
        """Id of the snapshot that the instance's volume was made of."""
        return self._mine.made_of.get(instance)

    # --- the interface ---

    @_call
    def ensure_port(
        self, tags: Tags, *, network: str | None, address: str | None, subnet: str | None = None,
    ) -> Port:
        if tags.instance in self._mine.ports:
            return self._mine.ports[tags.instance][1]
        if network is not None and subnet is not None and network != subnet:
            raise CloudRefused("no_subnet", f"the network {network} has no subnet {subnet}")
        found = self._network(tags, network or subnet)
        if address is not None and address not in {str(host) for host in found.subnet.hosts()}:
            raise CloudRefused("no_subnet", f"{address} is not in {found.subnet}")
        taken = {port.address for _, port in self._mine.ports.values()} | {str(found.subnet[1])}
        free = [address] if address else [str(host) for host in found.subnet.hosts()]
        chosen = next((one for one in free if one not in taken), None)
        if chosen is None:
            raise CloudRefused(*(("address_taken", f"{address} is in use") if address else ("no_address", "none left")))
        port = Port(chosen, found.id)
        self._mine.ports[tags.instance] = (tags, port)
        return port

    @_call
    def ensure_access(self, tags: Tags, *, tcp_port: int, allowed_cidrs: tuple[str, ...]) -> None:  # noqa: ARG002
        _check_cidrs(allowed_cidrs)
        if tags.instance not in self._mine.ports:
            raise CloudRefused("no_port", "the instance has no port")
        self._mine.access[tags.instance] = allowed_cidrs

    @_call
    def ensure_volume(
        self, tags: Tags, *, gib: int, volume_type: str | None, availability_zone: str | None = None,  # noqa: ARG002
        snapshot: str | None = None,
    ) -> Volume:
        return fake_volumes.ensure(self.world, self._mine, tags, gib, snapshot)

    @_call
    def ensure_machine(self, spec: MachineSpec) -> Machine:
        instance = spec.tags.instance
        machine = self._mine.machines.get(instance)
        if machine is None:
            machine = self._make(spec)
        elif machine.state is MachineState.STOPPED:
            machine.spec = spec
            machine.start()
        return machine.seen

    @_call
    def find_machine(self, instance: str) -> Machine | None:
        machine = self._mine.machines.get(instance)
        if machine is None:
            return None
        return machine.look()

    @_call
    def machines(self) -> dict[str, Machine]:
        return {i: m.seen for i, m in self._mine.machines.items()}

    @_call
    def restart_machine(self, instance: str) -> None:
        self._machine(instance).start()

    @_call
    def resize_machine(self, tags: Tags, size: Size) -> Machine:
        machine = self._machine(tags.instance)
        machine.look()
        if machine.state is not MachineState.BUILDING and machine.size != size:
            if machine.way_back is not None:
                raise CloudBusy("an earlier resize is not confirmed yet")
            before, machine.size = machine.size, size
            if self.world.keeps_way_back:
                machine.keeps = before
                machine.start(self.world.looks_until_active)
        return machine.seen

    @_call
    def confirm_resize(self, instance: str) -> Machine:
        machine = self._machine(instance)
        machine.way_back = None
        return machine.seen

    @_call
    def revert_resize(self, tags: Tags, size: Size) -> Machine:
        machine = self._machine(tags.instance)
        machine.look()
        if machine.state is not MachineState.BUILDING and machine.size != size:
            machine.size, machine.way_back = size, None
            if self.world.keeps_way_back:
                machine.start(self.world.looks_until_active)
        return machine.seen

    @_call
    def rebuild_machine(self, spec: MachineSpec) -> Machine:
        machine = self._mine.machines.get(spec.tags.instance)
        if machine is None:
            return self._make(spec).seen
        machine.look()
        if machine.spec.tags.operation != spec.tags.operation:
            machine.spec, machine.size, machine.way_back, machine.keeps = spec, spec.size, None, None
            machine.start(self.world.looks_until_active)
        return machine.seen

    @_call
    def grow_volume(self, instance: str, gib: int) -> Volume:
        return fake_volumes.grow(self.world, self._mine, instance, gib)

    @_call
    def ensure_public_address(
        self, tags: Tags, *, port: Port, tcp_port: int, allowed_cidrs: tuple[str, ...],  # noqa: ARG002
    ) -> PublicAddress:
        _check_cidrs(allowed_cidrs)
        if tags.instance not in self._mine.public:
            taken = {one.address for stack in self.world.stacks.values() for one in stack.public.values()}
            hosts = [str(host) for host in IPv4Network(self.world.public_pool).hosts()][1:]
            free = next((host for host in hosts if host not in taken), None)
            if free is None:
                raise CloudRefused("no_public_address", "all public addresses are taken")
            self._mine.public[tags.instance] = Public(tags, free, tcp_port, allowed_cidrs)
        public = self._mine.public[tags.instance]
        public.tcp_port, public.allowed = tcp_port, allowed_cidrs
        return PublicAddress(public.address, tcp_port)

    @_call
    def drop_public_address(self, instance: str) -> None:
        self._mine.public.pop(instance, None)

    @_call
    def drop_machine(self, instance: str) -> None:
        self._mine.machines.pop(instance, None)

    @_call
    def mark_volume(self, tags: Tags) -> None:
        self._mine.marked.setdefault(tags.instance, tags)

    @_call
    def volume_is_marked(self, instance: str) -> bool:
        return instance in self._mine.marked

    @_call
    def drop_volume(self, instance: str) -> None:
        fake_volumes.drop(self._mine, instance)

    @_call
    def ensure_snapshot(self, tags: Tags, *, backup: str) -> Snapshot:
        return fake_volumes.ensure_snapshot(self.world, self._mine, tags, backup)

    @_call
    def find_snapshot(self, backup: str) -> Snapshot | None:
        found = self._mine.snapshots.get(backup)
        return None if found is None else found.look()

    @_call
    def drop_snapshot(self, backup: str) -> None:
        fake_volumes.drop_snapshot(self.world, self._mine, backup)

    @_call
    def drop_port(self, instance: str) -> None:
        self._drop_port(instance)

    @_call
    def resources(self) -> list[Resource]:
        mine = self._mine
        used = {port.network for _, port in mine.ports.values()}
        return [
            *(Resource("machine", m.id, i, m.spec.tags.operation) for i, m in mine.machines.items()),
            *(Resource("volume", volume.id, i, tags.operation) for i, (tags, volume) in mine.volumes.items()),
            *(Resource("volume-held", f"{i}-held", i, tags.operation) for i, tags in mine.marked.items()),
            *(Resource("snapshot", s.seen.id, s.tags.instance, s.tags.operation) for s in mine.snapshots.values()),
            *(Resource("address", port.address, i, tags.operation) for i, (tags, port) in mine.ports.items()),
            *(Resource("public", public.address, i, public.tags.operation) for i, public in mine.public.items()),
            *(
                Resource("tenant-network", n.id, n.made_for.instance, n.made_for.operation)
                for n in mine.networks.values() if n.made_for is not None and n.id not in used
            ),
        ]

    @_call
    def drop_resource(self, resource: Resource) -> None:
        mine = self._mine
        match resource.kind:
            case "machine":
                _forget(mine.machines, lambda m: m.id == resource.id)
            case "volume":
                for instance in [i for i, (_, volume) in mine.volumes.items() if volume.id == resource.id]:
                    fake_volumes.drop(mine, instance)
            case "snapshot":
                for backup in [b for b, snapshot in mine.snapshots.items() if snapshot.seen.id == resource.id]:
                    fake_volumes.drop_snapshot(self.world, mine, backup)
            case "volume-held":
                mine.marked.pop(resource.instance, None)
            case "address":
                for instance in [i for i, (_, port) in mine.ports.items() if port.address == resource.id]:
                    self._drop_port(instance)
            case "public":
                _forget(mine.public, lambda one: one.address == resource.id)
            case "tenant-network":
                self._drop_network_if_unused(resource.id)
            case unknown:
                raise CloudRefused("unknown_kind", f"this release knows no {unknown}")

    @_call
    def console(self, instance: str, lines: int) -> str:
        machine = self._mine.machines.get(instance)
        said = [f"start {n + 1}" for n in range(machine.starts)] if machine else []
        return "".join(line + "\n" for line in said[-lines:])

    @_call
    def close(self) -> None:
        """There is nothing to close."""

    # --- inside ---

    def _machine(self, instance: str) -> FakeMachine:
        if instance not in self._mine.machines:
            raise CloudRefused("no_machine", "the instance has no machine")
        return self._mine.machines[instance]

    def _make(self, spec: MachineSpec) -> FakeMachine:
        instance, looks = spec.tags.instance, self.world.looks_until_active
        for what, there in (("volume", self._mine.volumes), ("port", self._mine.ports)):
            if instance not in there:
                raise CloudRefused(f"no_{what}", f"the instance has no {what}")
        state = MachineState.BUILDING if looks else MachineState.ACTIVE
        machine = FakeMachine(self.world.new_id("machine"), spec, state, spec.size, looks_left=looks)
        self._mine.machines[instance] = machine
        return machine

    def _network(self, tags: Tags, wanted: str | None) -> Network:
        networks = self._mine.networks
        if wanted is not None:
            if wanted not in networks or networks[wanted].project != tags.project:
                raise CloudRefused("no_network", f"the project has no network {wanted}")
            return networks[wanted]
        own = (n for n in networks.values() if n.project == tags.project and n.made_for is not None)
        return next(own, None) or self.world.make_network(self._mine, tags.project, tags)

    def _drop_port(self, instance: str) -> None:
        self._mine.access.pop(instance, None)
        dropped = self._mine.ports.pop(instance, None)
        if dropped is not None:
            self._drop_network_if_unused(dropped[1].network)

    def _drop_network_if_unused(self, identity: str) -> None:
        network = self._mine.networks.get(identity)
        used = {port.network for _, port in self._mine.ports.values()}
        if network is not None and network.made_for is not None and identity not in used:
            del self._mine.networks[identity]


def _check_cidrs(cidrs: tuple[str, ...]) -> None:
    for text in cidrs:
        try:
            ip_network(text, strict=False)
        except ValueError:
            raise CloudRefused("bad_cidr", f"not a range of addresses: {text}") from None


def _forget(things: dict[str, T], which: Callable[[T], bool]) -> None:
    for key in [key for key, thing in things.items() if which(thing)]:
        del things[key]
