"""Which network and subnet an instance gets, and whether its tenant may have them.

The driver asks with an administrator's rights, so Neutron refuses nothing: what a tenant may use is decided here.
Whatever he may not use does not exist, as far as the answer goes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from coffer_provisioner.cloud.interface import CloudRefused, Tags
from coffer_provisioner.cloud.openstack_calls import Calls, Service
from coffer_provisioner.cloud.openstack_labels import OpenStackSettings, Thing

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ROUTERS = (
    "network:router_interface", "network:router_interface_distributed", "network:ha_router_replicated_interface",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a port is to be made."""

    network: str
    fixed_ip: dict[str, str]


class Networks:
    def __init__(self, calls: Calls, settings: OpenStackSettings) -> None:
        self._calls = calls
        self._settings = settings

    async def choose(self, tags: Tags, network: str | None, subnet: str | None, address: str | None) -> Place:
        if subnet is not None:
            network = await self._network_of(subnet, network)
        elif network is None:
            raise CloudRefused("no_network", "name a network: this cloud has none that Coffer could choose")
        await self._check_allowed(tags, network)
        subnets = await self._subnets(network, subnet)
        if self._settings.enable_access_check:
            subnets = await self._routed(network, subnets)
        if address is None:
            # machines are reached by IPv4 where there is some
            chosen = min(subnets, key=lambda one: (one["ip_version"], one["id"]))
            return Place(network, {"subnet_id": chosen["id"]})
        return Place(network, _fixed(subnets, address))

    async def network_id(self, wanted: str, setting: str) -> str:
        """Of a network that an operator named in a setting, by id or name."""
        return await self._named(wanted, "/networks", "networks", setting)

    async def security_group_id(self, wanted: str, setting: str) -> str:
        return await self._named(wanted, "/security-groups", "security_groups", setting)

    async def _network_of(self, subnet: str, network: str | None) -> str:
        found = None
        if _ID.fullmatch(subnet):
            found = await self._calls.find("looking at a subnet", Service.NETWORK, f"/subnets/{subnet}", "subnet")
        if found is None or network not in {None, found["network_id"]}:
            where = f"the network {network[:64]} has" if network else "the project has"
            raise CloudRefused("no_subnet", f"{where} no subnet {subnet[:64]}")
        return str(found["network_id"])

    async def _check_allowed(self, tags: Tags, network: str) -> None:
        """The network's own word "shared" is from where the driver stands, so the sharing itself is looked at."""
        found = None
        if _ID.fullmatch(network):
            found = await self._calls.find("looking at a network", Service.NETWORK, f"/networks/{network}", "network")
        if found is not None and found["project_id"] == tags.project:
            return
        if found is not None:
            shared = await self._calls.listing(
                "asking who may use a network", Service.NETWORK, "/rbac-policies", "rbac_policies",
                {"object_type": "network", "object_id": network, "action": "access_as_shared"},
            )
            if any(one["target_tenant"] in {tags.project, "*"} for one in shared):
                return
        raise CloudRefused("no_network", f"the project has no network {network[:64]}")

    async def _subnets(self, network: str, subnet: str | None) -> list[Thing]:
        found = await self._calls.listing(
            "listing a network's subnets", Service.NETWORK, "/subnets", "subnets", {"network_id": network},
        )
        wanted = [one for one in found if subnet in {None, one["id"]}]
        if not wanted:
            raise CloudRefused("no_subnet", f"the network {network} has no subnet")
        return wanted

    async def _routed(self, network: str, subnets: Sequence[Thing]) -> list[Thing]:
        ports = await self._calls.listing(
            "listing a network's routers", Service.NETWORK, "/ports", "ports",
            {"network_id": network, "device_owner": list(_ROUTERS), "fields": ["id", "fixed_ips"]},
        )
        reached = {fixed["subnet_id"] for port in ports for fixed in port["fixed_ips"]}
        routed = [one for one in subnets if one["id"] in reached]
        if not routed:
            raise CloudRefused("no_router", f"no router is connected to the network {network}, or to its subnet")
        return routed

    async def _named(self, wanted: str, path: str, key: str, setting: str) -> str:
        by_id, by_name = await asyncio.gather(*(
            self._calls.listing(
                f"looking for what the setting {setting} names", Service.NETWORK, path, key,
                {field: wanted, "fields": ["id"]},
            )
            for field in ("id", "name")
        ))
        found = {one["id"] for one in by_id or by_name}
        if len(found) != 1:
            many = f"{len(found)} of that name" if found else "nothing of that name"
            raise CloudRefused("bad_setting", f"the setting {setting} names {wanted[:64]}, and there is {many}")
        return str(found.pop())


def _fixed(subnets: Sequence[Thing], address: str) -> dict[str, str]:
    """That address, if one of the subnets can give it to a machine, whoever else has it."""
    try:
        wanted = ip_address(address)
    except ValueError:
        raise CloudRefused("no_subnet", f"{address[:64]} is not an address") from None
    for subnet in subnets:
        cidr = ip_network(subnet["cidr"])
        if wanted in cidr:
            outside = cidr.version == 4 and wanted in {cidr.network_address, cidr.broadcast_address}
            if outside or str(wanted) == subnet["gateway_ip"]:
                raise CloudRefused("address_taken", f"{wanted} is in use on this network")
            return {"subnet_id": subnet["id"], "ip_address": str(wanted)}
    shown = ", ".join(subnet["cidr"] for subnet in subnets)[:200]
    raise CloudRefused("no_subnet", f"{wanted} is not in {shown}, the network's range of addresses")
