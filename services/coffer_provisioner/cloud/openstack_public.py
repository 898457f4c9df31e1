"""Public addresses: a floating address of the tenant's own project, on the instance's port.

Neutron lets a fixed address have one floating address per network, so of two that are made at once one is refused.
"""

from __future__ import annotations

from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, PublicAddress, Tags
from coffer_provisioner.cloud.openstack_access import Access, rules_for
from coffer_provisioner.cloud.openstack_calls import Calls, Service
from coffer_provisioner.cloud.openstack_labels import Kind, Marks, OpenStackSettings, Thing, ranked
from coffer_provisioner.cloud.openstack_networks import Networks
from coffer_provisioner.cloud.openstack_ports import Ports, address_of, tag


class PublicAddresses:
    def __init__(
        self, calls: Calls, marks: Marks, networks: Networks, ports: Ports, access: Access, settings: OpenStackSettings,
    ) -> None:
        self._calls = calls
        self._marks = marks
        self._networks = networks
        self._ports = ports
        self._access = access
        self._settings = settings

    async def ensure(self, tags: Tags, tcp_port: int, allowed: tuple[str, ...]) -> PublicAddress:
        rules_for(tcp_port, allowed, icmp=False)
        port = await self._ports.needed(tags.instance)
        # another project's is no more than a forged mark
        found = [one for one in await self._of(tags.instance, port) if one["project_id"] == tags.project]
        order = ranked(found, lambda one: one["port_id"] == port["id"])
        chosen = order[0] if order else await self._make(tags, port)
        for superfluous in order[1:]:
            await self._delete(superfluous["id"])
        if chosen["port_id"] != port["id"]:
            await self._calls.ask(
                "moving a floating address to its port", Service.NETWORK, "PUT", f"/floatingips/{chosen['id']}",
                body={"floatingip": {"port_id": port["id"], "fixed_ip_address": address_of(port)}},
            )
        if not chosen.get("tags"):
            await tag(self._calls, "floatingips", chosen["id"], self._marks.network_tags(tags, Kind.PUBLIC))
        await self._access.ensure(tags, tcp_port, allowed)
        return PublicAddress(chosen["floating_ip_address"], tcp_port)

    async def drop(self, instance: str) -> None:
        for found in await self._of(instance, await self._ports.tenant(instance)):
            await self._delete(found["id"])

    async def all(self) -> list[Thing]:
        """By their tags: they are in the tenants' projects, among many that are not ours. One that a provisioner died
        before marking is found by its port, when its operation goes on or is undone."""
        return self._marks.mine(await self._listed({"tags": self._marks.network_filter()}))

    async def drop_one(self, identity: str) -> None:
        found = await self._calls.find(
            "looking at a floating address", Service.NETWORK, f"/floatingips/{identity}", "floatingip",
        )
        if found is not None and self._marks.of(found) is not None:
            await self._delete(identity)

    async def _of(self, instance: str, port: Thing | None) -> list[Thing]:
        found = await self._listed({"tags": self._marks.network_filter(instance)})
        if port is not None:
            found += await self._listed({"port_id": port["id"]})
        return self._marks.mine({one["id"]: one for one in found}.values(), instance)

    async def _listed(self, query: dict[str, str]) -> list[Thing]:
        return await self._calls.listing(
            "listing floating addresses", Service.NETWORK, "/floatingips", "floatingips", query,
        )

    async def _make(self, tags: Tags, port: Thing) -> Thing:
        wanted = {
            "floating_network_id": await self._public_network(),
            "project_id": tags.project,
            "port_id": port["id"],
            "fixed_ip_address": address_of(port),
            "description": self._marks.description(tags, Kind.PUBLIC),
        }
        answer = await self._calls.ask(
            "making a floating address", Service.NETWORK, "POST", "/floatingips", body={"floatingip": wanted},
            expected=(400, 404, 409),
        )
        if answer.status < 300:
            return answer.one("floatingip")
        match answer.type:
            case "OverQuota":
                raise CloudRefused("quota", f"a quota of the project does not allow another one: {answer.text}")
            case "IpAddressGenerationFailure" | "ExternalIpAddressExhausted" | "NoMoreFixedIps":
                raise CloudRefused("no_public_address", "the public network has no address left")
            case "ExternalGatewayForFloatingIPNotFound":
                raise CloudRefused("no_router", "the instance's network has no router to the public network")
        if answer.status == 400:
            raise CloudRefused("cloud_refused", f"Neutron makes no floating address: {answer.text}")
        raise CloudBusy(f"Neutron makes no floating address now: {answer.text}")

    async def _public_network(self) -> str:
        if not self._settings.public_network:
            raise CloudRefused("no_public_address", "this cloud has no public addresses (setting public_network)")
        return await self._networks.network_id(self._settings.public_network, "public_network")

    async def _delete(self, identity: str) -> None:
        await self._calls.ask(
            "giving a floating address back", Service.NETWORK, "DELETE", f"/floatingips/{identity}", expected=(404,),
        )
