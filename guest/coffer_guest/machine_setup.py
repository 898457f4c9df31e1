"""`coffer-machine-setup`: a virtual machine made ready for the agent, from its machine file, before Docker starts.

It writes the network's units, Docker's configuration and the agent's environment, and starts the ssh server if
anybody may reach it. It runs at every boot and changes only what differs. What it writes is in files that survive a
reboot, since the program that brought the machine file does not run again.

The management ports have the main routing table to themselves, so that the agent's way does not depend on what ranges
the tenant chose. All routes of the tenant's port are in a table of their own, which is used for what comes from the
tenant's address, such as answers to clients behind a router, and for what the engine sends to its own subnet. Where
the two networks' ranges overlap, whatever is not the engine's goes to the management network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from coffer_guest.users import ENGINE_UID
from coffer_shared import machine_file
from coffer_shared.machine_file import MachineFile

TENANT_TABLE = 100
ENVIRONMENT = "etc/coffer/agent.env"
_NETWORKS = "etc/systemd/network"
_DOCKER = "etc/docker"
_PORT = """\
[Match]
MACAddress={mac}

[Network]
DHCP=yes
IPv6AcceptRA=yes
LinkLocalAddressing=ipv6
LLMNR=no
MulticastDNS=no

[DHCPv4]
ClientIdentifier=mac
UseMTU=yes
UseHostname=no
UseDomains=no
{v4}

[DHCPv6]
UseHostname=no
UseDomains=no
{v6}

[IPv6AcceptRA]
UseDomains=no
{ra}
"""
_RULES = f"""\

[RoutingPolicyRule]
Priority=100
From={{address}}
Table={TENANT_TABLE}

[RoutingPolicyRule]
Priority=101
User={ENGINE_UID}
Family=both
Table={TENANT_TABLE}
SuppressPrefixLength=0
"""
"""The second finds the tenant's subnet, and not the way out of it, which is the first one's alone."""


def main() -> None:
    try:
        machine = machine_file.decode_machine_file(Path(machine_file.PATH).read_bytes())
        apply(machine, Path("/"), _run)
    except (ValueError, OSError, subprocess.SubprocessError) as error:
        sys.stderr.write(f"coffer-machine-setup: {error}\n")
        raise SystemExit(1) from None


def apply(machine: MachineFile, root: Path, run: Callable[..., object]) -> None:
    """`run` is given the words of a command. What an interrupted run left is made whole by the next."""
    _write(root, {f"{_DOCKER}/daemon.json": docker_configuration(machine)})
    _write(root, certificates(machine))
    _write(root, {ENVIRONMENT: environment(machine)})
    wanted = networks(machine)
    stale = [path for path in (root / _NETWORKS).glob("*-coffer-*.network") if path.name not in wanted]
    changed = _write(root, {f"{_NETWORKS}/{name}": text for name, text in wanted.items()})
    for path in stale:
        path.unlink()
    if changed or stale:
        run("networkctl", "reload")
    if machine.ssh_cidrs:
        # the server waits for other units, which wait for this one
        run("systemctl", "start", "--no-block", "ssh.service")


def networks(machine: MachineFile) -> dict[str, str]:
    """systemd-networkd's units by their names. No other port is used, and none before this is known."""
    units = {
        f"{10 + n}-coffer-management.network": _PORT.format(
            mac=mac, v4=f"RouteMetric={100 + n}", v6="", ra=f"RouteMetric={100 + n}"
        )
        for n, mac in enumerate(machine.management_macs)
    }
    table = f"RouteTable={TENANT_TABLE}\nUseDNS=no"
    tenant = _PORT.format(mac=machine.tenant_mac, v4=f"{table}\nUseNTP=no", v6="UseDNS=no\nUseNTP=no", ra=table)
    return {**units, "80-coffer-tenant.network": tenant + _RULES.format(address=machine.tenant_address)}


def docker_configuration(machine: MachineFile) -> str:
    """No bridge, so no firewall rules and no proxy: what runs here shares the machine's network."""
    return json.dumps(
        {
            "live-restore": True,
            "bridge": "none",
            "iptables": False,
            "ip6tables": False,
            "ip-forward": False,
            "ip-masq": False,
            "userland-proxy": False,
            "log-level": "warn",
            "log-driver": "local",
            "log-opts": {"max-size": "10m", "max-file": "3"},
            "insecure-registries": [machine.registry] if machine.registry_insecure else [],
        },
        indent=2,
    )


def certificates(machine: MachineFile) -> dict[str, str]:
    """Docker looks here at every pull."""
    return {f"{_DOCKER}/certs.d/{machine.registry}/ca.crt": machine.registry_ca and f"{machine.registry_ca}\n"}


def environment(machine: MachineFile) -> str:
    values = {
        "COFFER_DATA_VOLUME": machine.data_volume,
        "COFFER_SSH_CIDRS": ",".join(machine.ssh_cidrs),
        "COFFER_MANAGEMENT_MACS": ",".join(machine.management_macs),
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _write(root: Path, files: Mapping[str, str]) -> bool:
    """Each whole or not at all, readable by all; a file with no content is removed. True if anything changed."""
    changed = False
    for name, content in files.items():
        path = root / name
        old = path.read_text(encoding="utf-8") if path.exists() else ""
        if old == content:
            continue
        changed = True
        if not content:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.new")
        with new.open("w", encoding="utf-8") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    return changed


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=30)


if __name__ == "__main__":
    main()
