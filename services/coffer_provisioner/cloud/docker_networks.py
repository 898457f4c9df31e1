"""Tenant networks and the addresses on them: one network per project, or one that the tenant names.

A project's network is a plain Docker bridge with a /24 of its own from the pool. Docker keeps different bridges apart.
Machines have the lower addresses, fixed for life; the last 32 are for what else is connected to the network.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from uuid import UUID

from coffer_provisioner.cloud.docker_engine import Description, Engine
from coffer_provisioner.cloud.docker_labels import (
    HOLDS,
    KIND,
    NETWORK,
    OWN_NETWORK,
    PROJECT,
    STACK,
    SUBNET,
    Kind,
    Marks,
    labels_of,
)
from coffer_provisioner.cloud.docker_reservations import Reservations
from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, Port, Tags

_NETWORK_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PLAIN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]{0,63}")
_TRIES = 10


@dataclass(frozen=True, slots=True)
class TenantNetwork:
    id: str
    name: str
    subnet: IPv4Network
    gateway: str
    own: bool
    """Made by the driver for a project, not by the tenant."""
    kept: IPv4Network | None
    """The part from which Docker gives out addresses by itself."""
    in_use: frozenset[str]
    """Addresses of what is running on it now."""

    def free_for_machines(self) -> Iterator[str]:
        return (str(address) for address in self.subnet.hosts() if self.refusal(address) is None)

    def refusal(self, address: IPv4Address) -> CloudRefused | None:
        """Why the network cannot give this address to a machine, whoever else has it."""
        if address not in self.subnet:
            return CloudRefused("no_subnet", f"{address} is not in {self.subnet}, the network's range of addresses")
        outside = address in {self.subnet.network_address, self.subnet.broadcast_address}
        if outside or str(address) == self.gateway or str(address) in self.in_use:
            return CloudRefused("address_taken", f"{address} is in use on this network")
        if self.kept is not None and self.kept != self.subnet and address in self.kept:
            return CloudRefused("address_taken", f"{address} is in {self.kept}, which the network keeps for itself")
        return None


class TenantNetworks:
    def __init__(self, engine: Engine, marks: Marks, reservations: Reservations, pool: str) -> None:
        self._engine = engine
        self._marks = marks
        self._reservations = reservations
        self._pool = IPv4Network(pool)

    async def ensure_port(self, tags: Tags, network: str | None, address: str | None, subnet: str | None) -> Port:
        claim = await self._reservations.held(tags, Kind.ADDRESS, owner=tags.instance)
        if claim is None:
            found = await self._wanted(tags, network, subnet)
            wanted = [_asked_for(found, address)] if address else found.free_for_machines()
            claim = await self._reservations.take(
                tags, Kind.ADDRESS, wanted, owner=tags.instance,
                notes={NETWORK: found.id, SUBNET: str(found.subnet), OWN_NETWORK: "yes" if found.own else "no"},
                none_left=CloudRefused("address_taken", f"{address} is in use on this network") if address
                else CloudRefused("no_address", "the network has no address left"),
            )
        return Port(claim[HOLDS], uuid_of((await self._network_of(tags, claim)).id))

    async def network_of(self, tags: Tags) -> tuple[TenantNetwork, str]:
        """The instance's network, made again with the same range if it was lost, and its address there."""
        claim = await self._reservations.held(tags, Kind.ADDRESS, owner=tags.instance)
        if claim is None:
            raise _no_port()
        return await self._network_of(tags, claim), claim[HOLDS]

    async def need_port(self, instance: str) -> None:
        if await self._reservations.claim(Kind.ADDRESS, instance) is None:
            raise _no_port()

    async def drop_port(self, instance: str) -> None:
        claim = await self._reservations.claim(Kind.ADDRESS, instance)
        await self._reservations.release(Kind.ADDRESS, instance)
        if claim is not None and claim.get(OWN_NETWORK) == "yes":
            await self._drop_if_unused(claim[PROJECT])

    async def drop_shared(self, kind: Kind, identity: str) -> None:
        """What a project has in common, told by one part of it: unless it is in use, again or after all."""
        look = self._engine.network if kind is Kind.NETWORK else self._engine.volume
        found = await look(identity)
        if found is not None and labels_of(found).get(STACK) == self._marks.stack:
            await self._drop_if_unused(labels_of(found)[PROJECT])

    async def _drop_if_unused(self, project: str) -> None:
        claims = await self._engine.volumes(self._marks.filters(Kind.ADDRESS_CLAIM, project=project))
        if any(labels_of(claim).get(OWN_NETWORK) == "yes" for claim in claims):
            return
        for network in await self._engine.networks(self._marks.filters(Kind.NETWORK, project=project)):
            if not await self._engine.remove_network(network["Id"]):
                return
        await self._reservations.release(Kind.SUBNET, _owner(project))

    async def _network_of(self, tags: Tags, claim: dict[str, str]) -> TenantNetwork:
        found = await self._engine.network(claim[NETWORK])
        if found is not None:
            return read_network(found)
        if claim.get(OWN_NETWORK) != "yes":
            raise CloudRefused("no_network", "the tenant's network does not exist any more")
        network = await self._project_network(tags, first=claim[SUBNET])
        if ip_address(claim[HOLDS]) not in network.subnet:
            raise CloudRefused("no_subnet", f"the project's network was lost, and {network.subnet} is its range now")
        return network

    async def _wanted(self, tags: Tags, network: str | None, subnet: str | None) -> TenantNetwork:
        """A Docker network has one range of addresses, so its subnet goes by the same id."""
        if network is not None and subnet is not None and network != subnet:
            raise CloudRefused("no_subnet", f"the network {network[:64]} has no subnet {subnet[:64]}")
        asked = network or subnet
        return await self._project_network(tags) if asked is None else await self._given(tags, asked)

    async def _given(self, tags: Tags, network: str) -> TenantNetwork:
        """A network that the tenant names. It must carry the project's label, and not another stack's."""
        found = await self._engine.network(network.replace("-", "")) if _NETWORK_ID.fullmatch(network) else None
        labels = labels_of(found) if found else {}
        ours = labels.get(STACK, self._marks.stack) == self._marks.stack
        if found is None or labels.get(PROJECT) != tags.project or not ours:
            raise CloudRefused("no_network", f"the project has no network {network[:64]}")
        return read_network(found)

    async def _project_network(self, tags: Tags, first: str | None = None) -> TenantNetwork:
        """The project's own network. Its range is reserved before it is made, so two provisioners make one network."""
        owner = _owner(tags.project)
        for _ in range(_TRIES):
            for found in await self._engine.networks(self._marks.filters(Kind.NETWORK, project=tags.project)):
                described = await self._engine.network(found["Id"])
                if described is not None:
                    return read_network(described)
            ranges = {r for n in await self._engine.networks([]) if (r := _range(n)) is not None}
            claim = await self._reservations.take(
                tags, Kind.SUBNET, self._ranges(ranges, first), owner=owner,
                none_left=CloudRefused("no_network", f"{self._pool} has no range left for another project's network"),
            )
            if any(r.overlaps(IPv4Network(claim[HOLDS])) for r in ranges):
                # a network that is not Coffer's has it, or the project's own appeared this moment
                if not await self._engine.networks(self._marks.filters(Kind.NETWORK, project=tags.project)):
                    await self._reservations.release(Kind.SUBNET, owner)
                continue
            if not await self._make(tags, IPv4Network(claim[HOLDS]), owner):
                await asyncio.sleep(0.2)  # another provisioner is making it
        raise CloudBusy("the project's network is not there yet")

    async def _make(self, tags: Tags, subnet: IPv4Network, owner: str) -> bool:
        kept = list(subnet.subnets(new_prefix=27))[-1]
        return await self._engine.create_network({
            "Name": self._marks.own(owner, "network"),
            "Driver": "bridge",
            "IPAM": {"Config": [{"Subnet": str(subnet), "IPRange": str(kept), "Gateway": str(subnet[1])}]},
            "Labels": self._marks.labels(tags, Kind.NETWORK),
        })

    def _ranges(self, in_use: set[IPv4Network], first: str | None) -> Iterator[str]:
        if first is not None:
            yield first
        for subnet in self._pool.subnets(new_prefix=24):
            if not any(subnet.overlaps(other) for other in in_use):
                yield str(subnet)


def projects_in_use(volumes: Iterable[Description]) -> set[str]:
    """Projects with an address on their own network, going by all volumes of a stack."""
    labels = [labels_of(volume) for volume in volumes]
    return {one[PROJECT] for one in labels if one.get(OWN_NETWORK) == "yes"}


def _owner(project: str) -> str:
    """A project's id as part of a name; the label says it as it is."""
    if _PLAIN.fullmatch(project):
        return project
    return "project-" + hashlib.sha256(project.encode()).hexdigest()[:24]


def uuid_of(network: str) -> str:
    """The id under which tenants know a Docker network: the first half of its own, which Docker takes for the whole."""
    return str(UUID(hex=network[:32]))


def _asked_for(network: TenantNetwork, address: str) -> str:
    try:
        wanted = IPv4Address(address)
    except ValueError:
        raise CloudRefused("no_subnet", f"{address[:64]} is not an IPv4 address") from None
    refusal = network.refusal(wanted)
    if refusal is not None:
        raise refusal
    return str(wanted)


def _range(network: Description) -> IPv4Network | None:
    for config in (network.get("IPAM") or {}).get("Config") or []:
        if "." in config.get("Subnet", ""):
            return IPv4Network(config["Subnet"])
    return None


def read_network(network: Description) -> TenantNetwork:
    subnet = _range(network)
    if subnet is None:
        raise CloudRefused("no_subnet", f"the network {network['Name']} has no IPv4 range of addresses")
    config = next(c for c in network["IPAM"]["Config"] if c["Subnet"] == str(subnet))
    running = (network.get("Containers") or {}).values()
    return TenantNetwork(
        id=network["Id"],
        name=network["Name"],
        subnet=subnet,
        gateway=config.get("Gateway") or str(subnet[1]),
        own=labels_of(network).get(KIND) == Kind.NETWORK.value,
        kept=IPv4Network(config["IPRange"]) if config.get("IPRange") else None,
        in_use=frozenset(c["IPv4Address"].partition("/")[0] for c in running if c.get("IPv4Address")),
    )


def _no_port() -> CloudRefused:
    return CloudRefused("no_port", "the instance has no address on a tenant network")
