"""Who may connect: one security group per instance, on its tenant's port.

Several may be made at once; the one that the port has is the one, and the others go. Rules are set exactly: what is
missing is added, what is superfluous is dropped, so that those who may connect are never cut off meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, Tags
from coffer_provisioner.cloud.openstack_calls import Calls, Service, error_of
from coffer_provisioner.cloud.openstack_labels import Kind, Marks, OpenStackSettings, Thing, access_name
from coffer_provisioner.cloud.openstack_ports import Ports, tag

_TRIES = 3
ANYBODY = ("0.0.0.0/0", "::/0")
_ICMP = {"IPv4": "icmp", "IPv6": "ipv6-icmp"}
_ICMP_NAMES = {"icmpv6": "ipv6-icmp", "1": "icmp", "58": "ipv6-icmp", "6": "tcp"}


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """One way in."""

    cidr: str
    protocol: str
    first: int | None = None
    last: int | None = None

    @property
    def ethertype(self) -> str:
        return f"IPv{ip_network(self.cidr).version}"


class Access:
    def __init__(self, calls: Calls, marks: Marks, ports: Ports, settings: OpenStackSettings) -> None:
        self._calls = calls
        self._marks = marks
        self._ports = ports
        self._settings = settings

    async def ensure_group(self, tags: Tags) -> str:
        """The id of the security group that the instance's port has."""
        for _ in range(_TRIES):
            port = await self._ports.needed(tags.instance)
            listed = await self._groups(tags.instance)
            if not {group["id"] for group in listed} & set(port["security_groups"]):
                listed += await self._those_of(port)  # a listing may be behind
            groups = {group["id"]: group for group in self._marks.mine(listed, tags.instance)}
            chosen = next((one for one in port["security_groups"] if one in groups), None)
            if chosen is None:
                group = next(iter(groups.values()), None) or await self._make(tags)
                chosen, groups[group["id"]] = group["id"], group
                if not await self._ports.set_groups(port, [chosen]):
                    continue  # somebody else was first, and the port may have another one now
            if not groups[chosen].get("tags"):
                await tag(self._calls, "security-groups", chosen, self._marks.network_tags(tags, Kind.ACCESS))
            for superfluous in groups.keys() - {chosen}:
                await self._delete(superfluous, expected=(404, 409))
            return str(chosen)
        raise CloudBusy("the instance's port is being changed by somebody else")

    async def ensure(self, tags: Tags, tcp_port: int, allowed: tuple[str, ...]) -> None:
        wanted = rules_for(tcp_port, allowed, icmp=self._settings.allow_icmp)
        group = await self.ensure_group(tags)
        listed = await self._calls.listing(
            "listing who may connect", Service.NETWORK, "/security-group-rules", "security_group_rules",
            {"security_group_id": group, "direction": "ingress"},
        )
        missing, superfluous = compared(wanted, listed)
        if missing:
            await self._add(group, missing)
        for identity in superfluous:
            await self._calls.ask(
                "taking an access back", Service.NETWORK, "DELETE", f"/security-group-rules/{identity}",
                expected=(404,),
            )

    async def drop(self, instance: str) -> None:
        for group in self._marks.mine(await self._groups(instance), instance):
            await self._delete(group["id"], expected=(404,))

    async def all(self) -> list[Thing]:
        return self._marks.mine(await self._calls.listing(
            "listing all security groups", Service.NETWORK, "/security-groups", "security_groups",
            {"project_id": await self._calls.project(), "fields": ["id", "description", "tags"]},
        ))

    async def drop_one(self, identity: str) -> None:
        """CloudBusy while a port has it."""
        found = await self._look(identity)
        if found is not None and self._marks.of(found) is not None:
            await self._delete(identity, expected=(404,))

    async def _look(self, identity: str) -> Thing | None:
        return await self._calls.find(
            "looking at a security group", Service.NETWORK, f"/security-groups/{identity}", "security_group",
        )

    async def _those_of(self, port: Thing) -> list[Thing]:
        found = [await self._look(one) for one in port["security_groups"]]
        return [group for group in found if group is not None]

    async def _groups(self, instance: str) -> list[Thing]:
        query = {
            "project_id": await self._calls.project(), "name": access_name(instance),
            "fields": ["id", "description", "tags"],
        }
        return await self._calls.listing(
            "listing an instance's security groups", Service.NETWORK, "/security-groups", "security_groups", query,
        )

    async def _make(self, tags: Tags) -> Thing:
        answer = await self._calls.ask(
            "making a security group", Service.NETWORK, "POST", "/security-groups",
            body={"security_group": {
                "name": access_name(tags.instance), "description": self._marks.description(tags, Kind.ACCESS),
            }},
        )
        return answer.one("security_group")

    async def _add(self, group: str, missing: Iterable[Rule]) -> None:
        body = [
            {
                "security_group_id": group, "direction": "ingress", "ethertype": rule.ethertype,
                "protocol": rule.protocol, "port_range_min": rule.first, "port_range_max": rule.last,
                "remote_ip_prefix": rule.cidr,
            }
            for rule in sorted(missing)
        ]
        what = "letting somebody in"
        answer = await self._calls.ask(
            what, Service.NETWORK, "POST", "/security-group-rules", body={"security_group_rules": body},
            expected=(400, 409),
        )
        if answer.status == 400:
            raise CloudRefused("bad_cidr", f"Neutron does not take these ranges of addresses: {answer.text}")
        if answer.status == 409:
            raise error_of(what, answer)

    async def _delete(self, group: str, expected: tuple[int, ...]) -> None:
        await self._calls.ask(
            "deleting a security group", Service.NETWORK, "DELETE", f"/security-groups/{group}", expected=expected,
        )


def rules_for(tcp_port: int, allowed: tuple[str, ...], *, icmp: bool) -> frozenset[Rule]:
    """CloudRefused `bad_cidr`."""
    cidrs = {_network(text) for text in allowed or ANYBODY}
    rules = {Rule(cidr, "tcp", tcp_port, tcp_port) for cidr in cidrs}
    if icmp:
        rules |= {Rule(cidr, _ICMP[f"IPv{ip_network(cidr).version}"]) for cidr in cidrs}
    return frozenset(rules)


def compared(wanted: frozenset[Rule], listed: Iterable[Thing]) -> tuple[frozenset[Rule], list[str]]:
    """Rules to add, and ids of rules to drop: ones that nobody wants, and further ones of the same meaning."""
    seen: set[Rule] = set()
    superfluous = []
    for thing in listed:
        rule = _read(thing)
        if rule is None or rule not in wanted or rule in seen:
            superfluous.append(str(thing["id"]))
        else:
            seen.add(rule)
    return wanted - seen, superfluous


def _read(thing: Thing) -> Rule | None:
    """None: it is of a kind that is never wanted here, such as one that names another security group."""
    if thing.get("remote_group_id") or thing.get("remote_address_group_id"):
        return None
    anybody = ANYBODY[0] if thing["ethertype"] == "IPv4" else ANYBODY[1]
    protocol = str(thing.get("protocol") or "")
    return Rule(
        _network(thing.get("remote_ip_prefix") or anybody), _ICMP_NAMES.get(protocol, protocol),
        thing.get("port_range_min"), thing.get("port_range_max"),
    )


def _network(text: str) -> str:
    try:
        # no name of an interface, which means nothing to others
        return str(ip_network(text.replace("%", "/"), strict=False))
    except ValueError:
        raise CloudRefused("bad_cidr", f"not a range of addresses: {text[:64]}") from None
