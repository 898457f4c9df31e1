"""Networks and flavors as the tenant's own token shows them: nobody gets a database onto a network, or of a size, that
they could not have a machine on, or of.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import quote

import asyncpg
import msgspec

from coffer_api.bodies import NicSpec
from coffer_api.call import Call
from coffer_api.problems import Problem, bad_request
from coffer_api.tenant_cloud import COMPUTE, NETWORK, Reply, TenantCloud

_PAGES = 100
"""Of a listing of flavors."""


class _Subnet(msgspec.Struct):
    network_id: str
    cidr: str
    gateway_ip: str | None = None


class _Network(msgspec.Struct):
    tenant_id: str
    shared: bool = False
    """To everybody, or to this project."""
    subnets: list[str] = []


class _SubnetReply(msgspec.Struct):
    subnet: _Subnet


class _NetworkReply(msgspec.Struct):
    network: _Network


class _Flavor(msgspec.Struct):
    id: str


class _Flavors(msgspec.Struct):
    flavors: list[_Flavor]
    flavors_links: list[dict[str, str]] = []


async def place(call: Call, nics: Sequence[NicSpec]) -> list[dict[str, str]]:
    """What the row says of where the instance is to be: on a network of the tenant's own, or one that is shared with
    them. Problem 400 with Trove's words."""
    stored = [nic.stored() for nic in nics]
    if call.api.settings.cloud == "docker":
        return stored
    if not stored:
        raise bad_request("Instance network or subnet needs to be specified.")
    tenants = _tenants(call)
    return stored if tenants is None else [await _placed(call, tenants, nic) for nic in stored]


async def need_flavor(call: Call, flavor: str) -> None:
    """Problem 400 unless the tenant may use it."""
    if not await sees_flavor(call, flavor):
        raise bad_request(f"Resource {flavor} cannot be found.")


async def sees_flavor(call: Call, flavor: str) -> bool:
    tenants = _tenants(call)
    if tenants is None:
        return True
    answer = await tenants.ask(call.token, COMPUTE, "GET", f"/flavors/{quote(flavor, safe='')}")
    return _there(answer)


async def seen_flavors(call: Call, rows: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    """Those that the tenant may use."""
    tenants = _tenants(call)
    if tenants is None:
        return list(rows)
    seen = await _flavors(call, tenants)
    return [row for row in rows if row["id"] in seen]


def _tenants(call: Call) -> TenantCloud | None:
    return call.api.tenants if call.api.settings.cloud == "openstack" else None


async def _placed(call: Call, tenants: TenantCloud, nic: dict[str, str]) -> dict[str, str]:
    wanted, subnet_id, address = nic.get("network"), nic.get("subnet"), nic.get("address")
    subnet: _Subnet | None = None
    if subnet_id is not None:
        answer = await tenants.ask(call.token, NETWORK, "GET", f"/v2.0/subnets/{subnet_id}")
        if not _there(answer):
            raise bad_request(f"Subnet {subnet_id} cannot be found.")
        subnet = answer.decode(_SubnetReply).subnet
        if wanted not in {None, subnet.network_id}:
            raise bad_request(f"Subnet {subnet_id} cannot be found in the network {wanted}.")
        wanted = subnet.network_id
    network_id = wanted or ""
    network = await _network(call, tenants, network_id)
    if address is not None and subnet is not None:
        if network.tenant_id != call.project:
            raise bad_request(f"An address cannot be chosen on network {network_id}, which is another project's.")
        _need_address(address, subnet)
    return {**nic, "network": network_id}


async def _network(call: Call, tenants: TenantCloud, network_id: str) -> _Network:
    answer = await tenants.ask(call.token, NETWORK, "GET", f"/v2.0/networks/{quote(network_id, safe='')}")
    network = answer.decode(_NetworkReply).network if _there(answer) else None
    # An administrator sees everybody's, and everybody sees those that lead outside.
    if network is None or (network.tenant_id != call.project and not network.shared):
        raise bad_request(f"Network {network_id} cannot be found.")
    if not network.subnets:
        raise bad_request(f"Network {network_id} has no subnet.")
    return network


def _need_address(address: str, subnet: _Subnet) -> None:
    wanted, within = ipaddress.ip_address(address), ipaddress.ip_network(subnet.cidr, strict=False)
    if wanted not in within:
        raise bad_request(f"Address {address} is not in the subnet's range {within}.")
    if address == subnet.gateway_ip or wanted in {within.network_address, within.broadcast_address}:
        raise bad_request(f"Address {address} is not one that a machine in {within} can have.")


async def _flavors(call: Call, tenants: TenantCloud) -> set[str]:
    found: set[str] = set()
    marker = ""
    for _ in range(_PAGES):
        answer = await tenants.ask(call.token, COMPUTE, "GET", f"/flavors?limit=1000{marker}")
        if not _there(answer):
            break
        page = answer.decode(_Flavors)
        found |= {flavor.id for flavor in page.flavors}
        if not page.flavors or not page.flavors_links:
            break
        marker = f"&marker={quote(page.flavors[-1].id, safe='')}"
    return found


def _there(answer: Reply) -> bool:
    """False where the tenant is shown nothing. Problem for what is neither."""
    if answer.status == 401:
        raise Problem(401, "The request you have made requires authentication.")
    if answer.status in {400, 403, 404}:
        return False
    if answer.status != 200:
        raise Problem(503, f"The cloud's {answer.service} service answered {answer.status}; try again.")
    return True

