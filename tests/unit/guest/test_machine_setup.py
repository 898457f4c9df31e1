"""What a virtual machine's own file is turned into."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

import msgspec
import pytest

from coffer_guest.machine_setup import apply, networks
from coffer_guest.options import Options
from coffer_shared import settings
from coffer_shared.machine_file import MachineFile

MACHINE = MachineFile(
    registry="10.8.0.1:5000",
    registry_insecure=True,
    data_volume="0b1e6f7a-3c55-4b1e-9d2a-0f4b5c6d7e8f",
    tenant_mac="fa:16:3e:00:00:02",
    tenant_address="10.9.0.77",
    management_macs=("fa:16:3e:00:00:01", "fa:16:3e:00:00:03"),
)


class Runs(list[tuple[str, ...]]):
    def __call__(self, *command: str) -> None:
        self.append(command)


@pytest.fixture
def runs() -> Runs:
    return Runs()


def unit(text: str) -> dict[str, str]:
    """Of a unit, without the sections that may come more than once."""
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text.split("[RoutingPolicyRule]", 1)[0])
    return {f"{name}.{key}": value for name in parser.sections() for key, value in parser[name].items()}


def test_the_main_table_is_the_management_networks_alone() -> None:
    units = {unit(text)["Match.MACAddress"]: unit(text) for text in networks(MACHINE).values()}
    assert set(units) == {*MACHINE.management_macs, MACHINE.tenant_mac}
    first, second, tenant = (units[mac] for mac in (*MACHINE.management_macs, MACHINE.tenant_mac))
    assert (first["DHCPv4.RouteMetric"], second["DHCPv4.RouteMetric"]) == ("100", "101")
    assert not any(key.endswith("RouteTable") for key in (*first, *second))
    assert tenant["DHCPv4.RouteTable"] == tenant["IPv6AcceptRA.RouteTable"] == "100"
    assert all(found["DHCPv4.UseMTU"] == "yes" for found in units.values())


def test_the_tenants_network_says_nothing_about_names_or_time() -> None:
    tenant = unit(networks(MACHINE)["80-coffer-tenant.network"])
    assert {tenant[f"{section}.UseDNS"] for section in ("DHCPv4", "DHCPv6", "IPv6AcceptRA")} == {"no"}
    assert tenant["DHCPv4.UseNTP"] == tenant["DHCPv6.UseNTP"] == "no"


@pytest.mark.parametrize("address", ["10.9.0.77", "fd00::5"])
def test_answers_leave_by_the_tenants_port_and_the_engine_finds_its_own_subnet(address: str) -> None:
    text = networks(msgspec.structs.replace(MACHINE, tenant_address=address))["80-coffer-tenant.network"]
    answers, engine = (set(part.split()) for part in text.split("[RoutingPolicyRule]")[1:])
    assert answers == {"Priority=100", f"From={address}", "Table=100"}
    assert engine == {"Priority=101", "User=999", "Family=both", "Table=100", "SuppressPrefixLength=0"}


def test_docker_runs_as_in_a_machine_container_and_knows_the_registry(tmp_path: Path, runs: Runs) -> None:
    apply(MACHINE, tmp_path, runs)
    found = json.loads((tmp_path / "etc/docker/daemon.json").read_text())
    assert found["insecure-registries"] == ["10.8.0.1:5000"]
    assert (found["bridge"], found["live-restore"]) == ("none", True)
    assert not any(found[name] for name in ("iptables", "ip6tables", "ip-forward", "ip-masq", "userland-proxy"))
    assert not (tmp_path / "etc/docker/certs.d").exists()


def test_a_registry_with_tls_has_its_own_authority_until_it_has_none(tmp_path: Path, runs: Runs) -> None:
    secure = msgspec.structs.replace(MACHINE, registry_insecure=False, registry_ca="PEM")
    apply(secure, tmp_path, runs)
    ca = tmp_path / "etc/docker/certs.d/10.8.0.1:5000/ca.crt"
    assert ca.read_text() == "PEM\n"
    assert json.loads((tmp_path / "etc/docker/daemon.json").read_text())["insecure-registries"] == []
    apply(msgspec.structs.replace(secure, registry_ca=""), tmp_path, runs)
    assert not ca.exists()


def test_the_agent_reads_what_was_written_for_it(tmp_path: Path, runs: Runs) -> None:
    apply(msgspec.structs.replace(MACHINE, ssh_cidrs=("10.8.0.0/24",)), tmp_path, runs)
    lines = (tmp_path / "etc/coffer/agent.env").read_text().splitlines()
    options = settings.load(Options, dict(line.split("=", 1) for line in lines))
    assert options.data_volume == MACHINE.data_volume
    assert options.management_macs == list(MACHINE.management_macs)
    assert options.ssh_cidrs == ["10.8.0.0/24"]


def test_the_network_is_reloaded_when_it_differs_and_never_else(tmp_path: Path, runs: Runs) -> None:
    apply(MACHINE, tmp_path, runs)
    assert runs == [("networkctl", "reload")]
    apply(MACHINE, tmp_path, runs)
    assert len(runs) == 1
    apply(msgspec.structs.replace(MACHINE, management_macs=MACHINE.management_macs[:1]), tmp_path, runs)
    assert len(runs) == 2
    assert {path.name for path in (tmp_path / "etc/systemd/network").iterdir()} == {
        "10-coffer-management.network",
        "80-coffer-tenant.network",
    }


def test_ssh_runs_only_where_somebody_may_reach_it(tmp_path: Path, runs: Runs) -> None:
    apply(MACHINE, tmp_path, runs)
    assert not any("ssh.service" in command for command in runs)
    apply(msgspec.structs.replace(MACHINE, ssh_cidrs=("10.8.0.0/24",)), tmp_path, runs)
    assert runs[-1] == ("systemctl", "start", "--no-block", "ssh.service")
