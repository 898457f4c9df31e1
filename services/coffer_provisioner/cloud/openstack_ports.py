"""Ports: the instance's address on its tenant's network, and its cards on the management networks.

All belong to the service project. A port is made with a hardware address that follows from the instance, which a
network has only once: of two provisioners that make it at the same time, one is told that it is there already.
"""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, Port, Tags
from coffer_provisioner.cloud.openstack_calls import Calls, Service
from coffer_provisioner.cloud.openstack_labels import Kind, Marks, OpenStackSettings, Thing, port_name, ranked
from coffer_provisioner.cloud.openstack_networks import Networks, Place


class Ports:
    def __init__(self, calls: Calls, marks: Marks, networks: Networks, settings: OpenStackSettings) -> None:
        self._calls = calls
        self._marks = marks
        self._networks = networks
        self._settings = settings

    async def ensure(self, tags: Tags, network: str | None, subnet: str | None, address: str | None) -> Thing:
        """The tenant's port. It comes with no security group, and lets nothing through until it has one."""
        found = await self.tenant(tags.instance)
        if found is None:
            place = await self._networks.choose(tags, network, subnet, address)
            found = await self._make(tags, place, Kind.ADDRESS, [])
        await self._tag(tags, found, Kind.ADDRESS)
        return found

    async def tenant(self, instance: str) -> Thing | None:
        found = ranked(self._marks.mine(await self._of(instance), instance, Kind.ADDRESS))
        for superfluous in found[1:]:
            await self._delete(superfluous)
        return found[0] if found else None

    async def needed(self, instance: str) -> Thing:
        found = await self.tenant(instance)
        if found is None:
            raise CloudRefused("no_port", "the instance has no address on a tenant network")
        return found

    async def ensure_management(self, tags: Tags) -> list[Thing]:
        """One on each management network, in the order of the setting."""
        wanted, groups = await asyncio.gather(
            asyncio.gather(*(
                self._networks.network_id(one, "management_networks") for one in self._settings.management_networks
            )),
            asyncio.gather(*(
                self._networks.security_group_id(one, "management_security_groups")
                for one in self._settings.management_security_groups
            )),
        )
        there = self._marks.mine(await self._of(tags.instance), tags.instance, Kind.MANAGEMENT)
        by_network = {port["network_id"]: port for port in there}
        for network in wanted:
            if network not in by_network:
                by_network[network] = await self._make(tags, Place(network, {}), Kind.MANAGEMENT, groups)
            await self._tag(tags, by_network[network], Kind.MANAGEMENT)
        return [by_network[network] for network in wanted]

    async def drop(self, instance: str, *kinds: Kind) -> None:
        for port in self._marks.mine(await self._of(instance), instance):
            mark = self._marks.of(port)
            if mark is not None and mark.kind in kinds:
                await self._delete(port)

    async def all(self) -> list[Thing]:
        """Every port of this stack."""
        query = {
            "project_id": await self._calls.project(),
            "fields": ["id", "description", "tags", "device_id", "created_at"],
        }
        return self._marks.mine(await self._calls.listing(
            "listing all ports", Service.NETWORK, "/ports", "ports", query,
        ))

    async def drop_one(self, identity: str) -> None:
        found = await self._calls.find("looking at a port", Service.NETWORK, f"/ports/{identity}", "port")
        if found is not None and self._marks.of(found) is not None:
            await self._delete(found)

    async def set_groups(self, port: Thing, groups: list[str]) -> bool:
        """False if the port was changed since it was looked at. So the port decides which security group is the one."""
        answer = await self._calls.ask(
            "giving a port its security group", Service.NETWORK, "PUT", f"/ports/{port['id']}",
            body={"port": {"security_groups": groups}},
            headers={"If-Match": f"revision_number={port['revision_number']}"}, expected=(404, 412),
        )
        return 200 <= answer.status < 300

    async def _of(self, instance: str) -> list[Thing]:
        """Whatever of the service project has the name of the instance's ports."""
        query = {"project_id": await self._calls.project(), "name": port_name(instance)}
        return await self._calls.listing("listing an instance's ports", Service.NETWORK, "/ports", "ports", query)

    async def _make(self, tags: Tags, place: Place, kind: Kind, groups: list[str]) -> Thing:
        wanted = {
            "network_id": place.network,
            "name": port_name(tags.instance),
            "description": self._marks.description(tags, kind),
            "mac_address": self._marks.mac(tags.instance, place.network),
            "security_groups": groups,
            **({"fixed_ips": [place.fixed_ip]} if place.fixed_ip else {}),
        }
        answer = await self._calls.ask(
            "making a port", Service.NETWORK, "POST", "/ports", body={"port": wanted}, expected=(400, 404, 409),
        )
        if answer.status < 300:
            return answer.one("port")
        match answer.type:
            case "OverQuota":
                raise CloudRefused("quota", f"a quota of the cloud does not allow another port: {answer.text}")
            case "MacAddressInUse":
                found = self._marks.mine(await self._of(tags.instance), tags.instance, kind)
                there = [port for port in found if port["network_id"] == place.network]
                if there:
                    return there[0]
                raise CloudBusy("the instance's port is being made by somebody else")
            case "IpAddressInUse" | "IpAddressAlreadyAllocated":
                raise CloudRefused("address_taken", f"{place.fixed_ip.get('ip_address')} is in use on this network")
            case "IpAddressGenerationFailure" | "ExternalIpAddressExhausted":
                raise CloudRefused("no_address", "the network has no address left")
            case "NetworkNotFound" | "SubnetNotFound":
                raise CloudRefused("no_network", f"the network {place.network} does not exist any more")
            case "InvalidIpForNetwork" | "InvalidIpForSubnet" | "AllocationOnAutoAddressSubnet":
                raise CloudRefused("no_subnet", f"the network cannot give this address: {answer.text}")
        if answer.status == 400:
            raise CloudRefused("cloud_refused", f"Neutron makes no port: {answer.text}")
        raise CloudBusy(f"Neutron makes no port now: {answer.text}")

    async def _tag(self, tags: Tags, port: Thing, kind: Kind) -> None:
        if not port.get("tags"):
            await tag(self._calls, "ports", port["id"], self._marks.network_tags(tags, kind))

    async def _delete(self, port: Thing) -> None:
        await self._calls.ask(
            "deleting a port", Service.NETWORK, "DELETE", f"/ports/{port['id']}", expected=(404,),
        )


async def tag(calls: Calls, collection: str, identity: str, tags: list[str]) -> None:
    """For people and for listings: Neutron takes tags only in a call of their own, so they are never relied on."""
    await calls.ask(
        "marking what was made", Service.NETWORK, "PUT", f"/{collection}/{identity}/tags", body={"tags": tags},
    )


def address_of(port: Thing) -> str:
    """The one by which the instance is known: IPv4 if there is one."""
    addresses = sorted(
        (fixed["ip_address"] for fixed in port["fixed_ips"]), key=lambda text: (ip_address(text).version, text),
    )
    if not addresses:
        raise CloudBusy("the instance's port has no address")
    return str(addresses[0])


def as_port(port: Thing) -> Port:
    return Port(address_of(port), port["network_id"])
