"""What a cloud of virtual machines tells a new machine of itself, beside its user data: /etc/coffer/machine.json.

Nothing in it is secret. It is read at every boot, and everything in it is checked before any of it is used, since it
becomes configuration of programs that run as root.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import msgspec

PATH = "/etc/coffer/machine.json"
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_REGISTRY = re.compile(r"([a-z0-9]([a-z0-9.-]{0,252}[a-z0-9])?|\[[0-9a-f:]+\])(:[0-9]{1,5})?")
_VOLUME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PEM = re.compile(r"(-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\s*)+")


class MachineFile(msgspec.Struct, frozen=True, kw_only=True):
    registry: str
    """host:port of the registry that engine images are pulled from."""
    registry_insecure: bool = False
    """It is spoken to without TLS."""
    registry_ca: str = ""
    """PEM of the authority that the registry's certificate comes from; empty: one that Debian knows."""
    data_volume: str
    """The block storage's id of the data volume, a UUID."""
    tenant_mac: str
    tenant_address: str
    """The engine is reached there; what is sent from it leaves by the tenant's port."""
    management_macs: tuple[str, ...]
    """The agent's own ways, the first of them preferred."""
    ssh_cidrs: tuple[str, ...] = ()
    """Who of the management network may reach the machine's ssh server; empty: it does not run."""


def encode_machine_file(machine: MachineFile) -> bytes:
    """ValueError as `decode_machine_file`: what no machine would take is not sent to one."""
    return msgspec.json.encode(_checked(machine))


def decode_machine_file(raw: bytes | str) -> MachineFile:
    """In canonical form. ValueError names the field that is not what it should be."""
    try:
        machine = msgspec.json.decode(raw, type=MachineFile)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a machine file: {error}") from error
    return _checked(machine)


def _checked(given: MachineFile) -> MachineFile:
    machine = msgspec.structs.replace(
        given,
        registry_ca=given.registry_ca.strip(),
        tenant_mac=given.tenant_mac.lower(),
        tenant_address=_address(given.tenant_address),
        management_macs=tuple(mac.lower() for mac in given.management_macs),
        ssh_cidrs=tuple(_cidrs(given.ssh_cidrs)),
    )
    _demand(_REGISTRY.fullmatch(machine.registry), "registry")
    _demand(not machine.registry_ca or _PEM.fullmatch(machine.registry_ca + "\n"), "registry_ca")
    _demand(not (machine.registry_ca and machine.registry_insecure), "registry_ca")
    _demand(_VOLUME.fullmatch(machine.data_volume), "data_volume")
    macs = (machine.tenant_mac, *machine.management_macs)
    _demand(_MAC.fullmatch(machine.tenant_mac), "tenant_mac")
    _demand(len(macs) > 1 and len(set(macs)) == len(macs), "management_macs")
    _demand(all(_MAC.fullmatch(mac) for mac in macs), "management_macs")
    return machine


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise _wrong("tenant_address") from None


def _cidrs(texts: Iterable[str]) -> Iterable[str]:
    try:
        return [str(ipaddress.ip_network(text, strict=False)) for text in texts]
    except ValueError:
        raise _wrong("ssh_cidrs") from None


def _demand(good: object, field: str) -> None:
    if not good:
        raise _wrong(field)


def _wrong(field: str) -> ValueError:
    return ValueError(f"machine file: {field} is not what it should be")
