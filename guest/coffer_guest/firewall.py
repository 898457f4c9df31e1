"""Who may talk to the engine, and whom the engine may talk to: one nftables table of the machine's own.

The engine's uid reaches the loopback address, its own addresses, and its tenants' subnets; nothing of the management
network, of the cloud's metadata service, of Docker's DNS, or of the host behind the tenant network's gateway. From
the management network nothing comes in but answers. From the tenant network only the engine's port is open, to the
allowed CIDRs and to that network's gateway, behind which the host's own forwarder stands. Who is allowed no more is
cut off in the middle of a connection. The metadata service, which has the user data, is for root alone.

A backup runs under the engine's uid, since that is who the engine's socket lets in, and under a group of its own. While
it runs, that group reaches Docker's DNS and the object store's port, and nothing of what the engine reaches.

What is different between a machine container and a virtual machine is in `Site`. A virtual machine's tenant network has
a router for a gateway, which hands on connections of the whole world under their own addresses or, of those that it
hides, under its own: so that it is not let in for being the gateway.

Interfaces are found by their addresses: names follow no order. Other tables are never touched, since Docker keeps
its DNS rules in one.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from coffer_guest.programs import run
from coffer_guest.users import ENGINE_UID
from coffer_shared import log
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

_log = log.get(__name__)

STORAGE_GID = 998
"""The group of what may reach the object store. No engine's process has it or can take it."""
_NAMES = "ip daddr {resolver} meta l4proto {{ tcp, udp }} ct original proto-dst 53 accept"
"""Rules of Docker's lead port 53 of its DNS to another one before these see it."""

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Interface:
    """One address of one interface."""

    name: str
    address: str
    prefix: int

    @property
    def network(self) -> Network:
        return ipaddress.ip_network(f"{self.address}/{self.prefix}", strict=False)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the table is made from. Without `listen` (nothing prepared yet) nothing comes in from anywhere."""

    listen: tuple[str, ...] = ()
    port: int = 0
    allowed: tuple[str, ...] = ()
    """CIDRs; empty for everybody."""
    engine_uid: int = ENGINE_UID
    gateway: str = ""
    """The tenant network's, if it is known; otherwise the routes are asked, and at last its first address is taken."""
    storage_port: int = 0
    """The object store's, while a backup or a restore runs; 0: closed."""


@dataclass(frozen=True, slots=True)
class Site:
    """What kind of machine this is; the same for its whole life. The fields are those of `Options`."""

    gateway_forwards: bool = True
    leases: bool = False
    resolver: str = "127.0.0.11"
    management_macs: tuple[str, ...] = ()
    ssh: tuple[str, ...] = ()


CONTAINER = Site()


class Firewall:
    def __init__(self, site: Site = CONTAINER) -> None:
        self._site = site
        self._applied = ""
        self._lock = asyncio.Lock()

    async def apply(self, rules: Rules) -> None:
        """Idempotent; the kernel takes the whole table or none of it. GiveUp(internal) if it takes none."""
        async with self._lock:
            script = render(rules, await _interfaces(), await _gateways(), self._site)
            if script == self._applied:
                return
            outcome = await run("nft", "-f", "-", stdin=script)
            if outcome.code:
                raise GiveUp(Failure.INTERNAL, f"firewall: {outcome.err}")
            self._applied = script
        _log.info(
            "firewall applied",
            listen=rules.listen,
            port=rules.port,
            allowed=rules.allowed,
            storage_port=rules.storage_port,
        )


def valid_cidrs(texts: Iterable[str]) -> tuple[str, ...]:
    """In their canonical form, without those that others contain. ValueError if one is none."""
    networks = [ipaddress.ip_network(text, strict=False) for text in texts]
    v4 = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    merged = (*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6))
    return tuple(str(network) for network in merged)


def render(
    rules: Rules, interfaces: Sequence[Interface], gateways: Sequence[tuple[str, str]], site: Site = CONTAINER
) -> str:
    """`gateways`: (interface name, address) of routes. Pure."""
    tenant = [interface for interface in interfaces if interface.address in rules.listen]
    names = sorted({interface.name for interface in tenant})
    allowed = valid_cidrs(rules.allowed or ("0.0.0.0/0", "::/0"))
    hosts = {rules.gateway} if rules.gateway else {address for name, address in gateways if name in names}
    if site.gateway_forwards and not hosts:
        hosts = {str(next(iter(interface.network.hosts()))) for interface in tenant if interface.prefix < 31}
    admitted = (*allowed, *sorted(hosts)) if site.gateway_forwards else allowed
    inward = [
        f"iifname {_set(names, quote=True)} tcp dport {rules.port} {family} saddr {_set(sources)} accept"
        for family, sources in _by_family(admitted)
        if names
    ]
    if names:  # before the rule for connections that were let in earlier: each packet is looked at
        inward.append(
            f"iifname {_set(names, quote=True)} tcp dport {rules.port} tcp flags & rst != rst ct state established "
            "reject with tcp reset"
        )
    inward += _ssh(site)
    if site.leases:
        inward += _LEASES
    elif any(":" in interface.address for interface in tenant):
        inward.append(
            f"iifname {_set(names, quote=True)} icmpv6 type "
            "{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert, packet-too-big } accept"
        )
    own = [interface.address for interface in tenant]
    local = ("127.0.0.1", "::1", *own)
    outward = ["tcp dport 22 reject"] if site.ssh else []
    outward += [f'oifname "lo" {family} daddr {_set(to)} accept' for family, to in _by_family(local)]
    outward += [f"{family} daddr {_set(to)} reject" for family, to in _by_family(sorted(hosts))]
    outward += [
        f"oifname {_set(names, quote=True)} {family} daddr {_set(to)} accept"
        for family, to in _by_family(tuple(sorted({str(interface.network) for interface in tenant})))
    ]
    networks = (str(interface.network) for interface in tenant)
    everywhere = (*hosts, *networks, *(interface.address for interface in interfaces))
    return _TABLE.format(
        uid=rules.engine_uid,
        gid=STORAGE_GID,
        inward=_lines(inward),
        outward=_lines(outward),
        storage=_lines(_storage(rules.storage_port, everywhere, site.resolver)),
    )


_LEASES = (
    "udp sport 67 udp dport 68 accept",
    "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept",
    "ip6 hoplimit 255 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept",
    "icmpv6 type packet-too-big accept",
)


def _ssh(site: Site) -> list[str]:
    """By whose hardware address a frame is for, since nobody may know yet which interface is the tenant's. The kernel
    itself drops a frame that is for another address than that of the interface it came to."""
    if not site.ssh or not site.management_macs:
        return []
    macs = "{ " + ", ".join(sorted(site.management_macs)) + " }"
    return [
        f"ether daddr {macs} tcp dport 22 {family} saddr {_set(sources)} accept"
        for family, sources in _by_family(valid_cidrs(site.ssh))
    ]


def _storage(port: int, near: Sequence[str], resolver: str) -> list[str]:
    """Where exactly the object store is, DNS knows; `near` is where it never is: the machine itself and its tenant."""
    if not port:
        return []
    never = ("127.0.0.0/8", "169.254.0.0/16", "::1", "fe80::/10", *near)
    refused = [f"{family} daddr {_set(to)} reject" for family, to in _by_family(sorted(never))]
    names = _NAMES.format(resolver=resolver)
    return ["ct state established,related accept", names, *refused, f"tcp dport {port} accept"]


_TABLE = """\
add table inet coffer
delete table inet coffer
table inet coffer {{
    chain inward {{
        type filter hook input priority filter; policy drop;
        iifname "lo" accept
{inward}
        ct state established,related accept
    }}
    chain through {{
        type filter hook forward priority filter; policy drop;
    }}
    chain outward {{
        type filter hook output priority filter; policy accept;
        ip daddr 169.254.169.254 meta skuid != 0 reject
        ip6 daddr fe80::a9fe:a9fe meta skuid != 0 reject
        meta skuid {uid} meta skgid {gid} jump storage
        meta skuid {uid} jump engine
    }}
    chain storage {{
{storage}
        reject
    }}
    chain engine {{
        ip daddr {{ 127.0.0.11, 169.254.0.0/16 }} reject
        ct state established,related accept
{outward}
        reject
    }}
}}
"""


def _by_family(addresses: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Grouped under nftables' words for the two families; a family without addresses is left out."""
    families: dict[str, list[str]] = {"ip": [], "ip6": []}
    for address in addresses:
        families["ip6" if ":" in address else "ip"].append(address)
    return [(family, found) for family, found in families.items() if found]


def _set(values: Sequence[str], *, quote: bool = False) -> str:
    # A set refuses elements that overlap, such as a host within an allowed network.
    kept = values if quote else _without_contained(values)
    return "{ " + ", ".join(f'"{value}"' if quote else value for value in kept) + " }"


def _without_contained(values: Sequence[str]) -> list[str]:
    networks = [str(network) for network in valid_cidrs(values)]
    return [network.removesuffix("/32") if ":" not in network else network.removesuffix("/128") for network in networks]


def _lines(rules: Sequence[str]) -> str:
    return "\n".join(f"        {rule}" for rule in rules)


# --- the machine's interfaces ---


class _Address(msgspec.Struct):
    local: str = ""
    prefixlen: int = 0
    scope: str = ""


class _Link(msgspec.Struct):
    ifname: str
    addr_info: list[_Address] = []


class _Route(msgspec.Struct):
    dev: str = ""
    gateway: str = ""


async def _interfaces() -> list[Interface]:
    links = msgspec.json.decode(await _ip("address", "show"), type=list[_Link])
    return [
        Interface(link.ifname, address.local, address.prefixlen)
        for link in links
        for address in link.addr_info
        if address.local and address.scope != "link"
    ]


async def _gateways() -> list[tuple[str, str]]:
    routes = [
        *msgspec.json.decode(await _ip("-4", "route", "show", "table", "all"), type=list[_Route]),
        *msgspec.json.decode(await _ip("-6", "route", "show", "table", "all"), type=list[_Route]),
    ]
    return [(route.dev, route.gateway) for route in routes if route.gateway]


async def _ip(*arguments: str) -> str:
    outcome = await run("ip", "-json", *arguments)
    if outcome.code:
        raise GiveUp(Failure.INTERNAL, f"ip: {outcome.err}")
    return outcome.out or "[]"
