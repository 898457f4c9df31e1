"""Neutron of the double: networks, subnets, ports, security groups, floating addresses, with the constraints that the
real one keeps in its database."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Any

from aiohttp import web
from multidict import MultiMapping

Thing = dict[str, Any]
COLLECTIONS = {
    "networks": "network", "subnets": "subnet", "ports": "port", "security_groups": "security_group",
    "security_group_rules": "security_group_rule", "floatingips": "floatingip", "rbac_policies": "rbac_policy",
}


class Refusal(Exception):
    def __init__(self, status: int, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.status = status
        name = "NeutronError" if kind else "badRequest"
        self.body = {name: {"message": message, "type": kind, "code": status, "detail": ""}}


@dataclass
class Network:
    project: str
    things: dict[str, dict[str, Thing]] = field(default_factory=lambda: {key: {} for key in COLLECTIONS})
    public_addresses: int = 50
    quota: dict[str, int] = field(default_factory=dict)
    """How many there may be, by collection."""

    def __post_init__(self) -> None:
        self.public = self.make("networks", {"name": "public", "project_id": "admin"})

    def answer(self, request: web.Request, parts: tuple[str, ...], body: Thing) -> Thing | None:
        collection = parts[0].replace("-", "_")
        things = self.things[collection]
        one = COLLECTIONS[collection]
        match (request.method, *parts[1:]):
            case ("GET",):
                return {collection: matching(things.values(), request.query)}
            case ("POST",):
                if collection in body:
                    return {collection: [self._made(collection, wanted) for wanted in body[collection]]}
                return {one: self._made(collection, body[one])}
            case "GET", identity:
                return {one: self._found(things, identity, one)}
            case "PUT", identity, "tags":
                thing = self._found(things, identity, one)
                thing["tags"] = list(body["tags"])
                thing["revision_number"] += 1
                return {"tags": thing["tags"]}
            case "PUT", identity:
                thing = self._found(things, identity, one)
                wanted = request.headers.get("If-Match", "").removeprefix("revision_number=")
                if wanted and int(wanted) != thing["revision_number"]:
                    raise Refusal(412, "the revision is another one", "RevisionNumberConstraintFailed")
                if missing := set(body[one].get("security_groups", ())) - self.things["security_groups"].keys():
                    raise Refusal(404, f"no {missing}", "SecurityGroupNotFound")
                thing.update(body[one])
                thing["revision_number"] += 1
                return {one: thing}
            case "DELETE", identity:
                self._delete(collection, self._found(things, identity, one))
                return None
        raise Refusal(404, f"no {parts}")

    def make(self, collection: str, wanted: Thing) -> Thing:
        thing = {
            "id": str(uuid.uuid4()), "description": "", "tags": [], "revision_number": 1, "project_id": self.project,
            "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), **wanted,
        }
        self.things[collection][thing["id"]] = thing
        return thing

    def add_network(self, project: str, cidr: str, *, name: str = "", routed: bool = True) -> Thing:
        network = self.make("networks", {"name": name, "project_id": project})
        subnet = self.make("subnets", {
            "network_id": network["id"], "cidr": cidr, "ip_version": ip_network(cidr).version,
            "gateway_ip": str(ip_network(cidr)[1]), "project_id": project,
        })
        if routed:
            self.make("ports", {
                "network_id": network["id"], "device_owner": "network:router_interface", "name": "", "device_id": "r",
                "fixed_ips": [{"subnet_id": subnet["id"], "ip_address": subnet["gateway_ip"]}], "mac_address": "r",
            })
        return network

    def _made(self, collection: str, wanted: Thing) -> Thing:
        if len(self.things[collection]) >= self.quota.get(collection, 10**6):
            raise Refusal(409, f"Quota exceeded for resources: ['{COLLECTIONS[collection]}'].", "OverQuota")
        match collection:
            case "ports":
                return self._port(wanted)
            case "security_groups":
                return self.make(collection, wanted)
            case "security_group_rules":
                key = {k: v for k, v in wanted.items() if v is not None}
                if any(key.items() <= one.items() for one in self.things[collection].values()):
                    raise Refusal(409, "Security group rule already exists.", "SecurityGroupRuleExists")
                return self.make(collection, {"remote_group_id": None, **wanted})
            case "floatingips":
                return self._floating(wanted)
        raise Refusal(404, f"no {collection}")

    def _port(self, wanted: Thing) -> Thing:
        here = [one for one in self.things["ports"].values() if one["network_id"] == wanted["network_id"]]
        if any(one["mac_address"] == wanted["mac_address"] for one in here):
            raise Refusal(409, "MAC address is in use.", "MacAddressInUse")
        asked = (wanted.get("fixed_ips") or [{}])[0]
        subnets = [s for s in self.things["subnets"].values() if s["network_id"] == wanted["network_id"]]
        subnet = next(s for s in subnets if s["id"] == asked.get("subnet_id", s["id"]))
        taken = {fixed["ip_address"] for one in here for fixed in one["fixed_ips"]} | {subnet["gateway_ip"]}
        address = asked.get("ip_address")
        if address in taken:
            raise Refusal(409, f"IP address {address} already allocated", "IpAddressAlreadyAllocated")
        free = (str(host) for host in ip_network(subnet["cidr"]).hosts() if str(host) not in taken)
        address = address or next(free, None)
        if address is None:
            raise Refusal(409, "No more IP addresses available on network", "IpAddressGenerationFailure")
        fixed = {"subnet_id": subnet["id"], "ip_address": str(ip_address(address))}
        return self.make("ports", {**wanted, "fixed_ips": [fixed], "device_id": "", "device_owner": ""})

    def _floating(self, wanted: Thing) -> Thing:
        network = self.things["ports"][wanted["port_id"]]["network_id"]
        ports = [one for one in self.things["ports"].values() if one["network_id"] == network]
        if not any(one["device_owner"].startswith("network:router") for one in ports):
            raise Refusal(404, "External network is not reachable", "ExternalGatewayForFloatingIPNotFound")
        there = list(self.things["floatingips"].values())
        if any(one["port_id"] == wanted["port_id"] for one in there):
            raise Refusal(409, "the fixed address has one already", "FloatingIPPortAlreadyAssociated")
        used = {one["floating_ip_address"] for one in there}
        pool = [f"198.51.100.{number}" for number in range(1, self.public_addresses + 1)]
        address = next((one for one in pool if one not in used), None)
        if address is None:
            raise Refusal(409, "No more IP addresses available on network", "IpAddressGenerationFailure")
        return self.make("floatingips", {**wanted, "floating_ip_address": address})

    def _delete(self, collection: str, thing: Thing) -> None:
        if collection == "security_groups":
            if any(thing["id"] in port.get("security_groups", ()) for port in self.things["ports"].values()):
                raise Refusal(409, "Security Group is in use.", "SecurityGroupInUse")
            rules = self.things["security_group_rules"]
            for rule in [r for r in rules.values() if r["security_group_id"] == thing["id"]]:
                del rules[rule["id"]]
        if collection == "ports":
            for floating in self.things["floatingips"].values():
                if floating["port_id"] == thing["id"]:
                    floating["port_id"] = None
        del self.things[collection][thing["id"]]

    @staticmethod
    def _found(things: dict[str, Thing], identity: str, kind: str) -> Thing:
        if identity not in things:
            raise Refusal(404, f"{kind} {identity} could not be found.", f"{kind.title().replace('_', '')}NotFound")
        return things[identity]


def matching(
    things: Iterable[Thing], query: MultiMapping[str], ignored: frozenset[str] | set[str] = frozenset(),
) -> list[Thing]:
    """Values of one key are alternatives; of `tags`, a thing must have all."""
    found = list(things)
    for key in set(query) - {"fields", "limit", "marker"} - ignored:
        values = query.getall(key)
        if key == "tags":
            wanted = set(values[0].split(","))
            found = [one for one in found if wanted <= set(one["tags"])]
        else:
            found = [one for one in found if str(one.get(key)) in values]
    return found
