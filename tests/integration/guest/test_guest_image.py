"""What is in the guest image's root file system, asked of the programs that will read it there. Nothing is built here.

That it boots is seen where there is a hypervisor.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker

IMAGE = "coffer/guest-image:guest"
MACHINE = {
    "registry": "10.8.0.1:5000",
    "registry_insecure": True,
    "data_volume": "0b1e6f7a-3c55-4b1e-9d2a-0f4b5c6d7e8f",
    "tenant_mac": "fa:16:3e:00:00:02",
    "tenant_address": "10.9.0.77",
    "management_macs": ["fa:16:3e:00:00:01"],
}
_SETUP = """
from pathlib import Path
from coffer_guest.machine_setup import apply
from coffer_shared.machine_file import PATH, decode_machine_file
apply(decode_machine_file(Path(PATH).read_bytes()), Path("/"), print)
"""


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    if not docker("image", "ls", "-q", IMAGE).strip():
        pytest.skip(f"{IMAGE} is not here; deploy/guest-image/build.sh makes it")


def inside(script: str, *options: str) -> str:
    return docker("run", "--rm", "--network", "none", *options, IMAGE, "sh", "-euc", script)


def test_docker_takes_its_configuration_and_the_network_its_units(tmp_path: Path) -> None:
    (tmp_path / "machine.json").write_text(json.dumps(MACHINE))
    said = inside(
        f"/opt/coffer/bin/python -c '{_SETUP}'; dockerd --validate --config-file /etc/docker/daemon.json 2>&1;"
        "ls -l /etc/systemd/network /etc/coffer/agent.env; containerd config dump >/tmp/dump; grep disabled /tmp/dump",
        *("-v", f"{tmp_path / 'machine.json'}:/etc/coffer/machine.json:ro"),
    )
    assert "configuration OK" in said
    assert "networkctl reload" in said
    assert said.count("-rw-r--r--") == 3
    assert "io.containerd.grpc.v1.cri" in said
    assert "80-coffer-tenant.network" in said


def test_a_machine_without_its_file_says_so_and_does_not_start_the_agent() -> None:
    said = inside(
        "! /opt/coffer/bin/coffer-machine-setup 2>&1;"
        "ls /etc/systemd/system/coffer-guest.service.requires /etc/systemd/system/systemd-networkd.service.requires"
    )
    assert "/etc/coffer/machine.json" in said
    assert "coffer-machine-setup.service" in said
    assert "coffer-firewall.service" in said


def test_the_kernel_takes_the_firewall_of_before_the_agent() -> None:
    listed = inside("nft -f /usr/lib/coffer/boot.nft; nft list table inet coffer", "--cap-add", "NET_ADMIN")
    assert "policy drop" in listed
    assert "tcp dport" not in listed


def test_the_units_are_whole_and_those_run_that_should() -> None:
    found = inside(
        "mkdir /etc/coffer; touch /etc/coffer/agent.env;"
        "systemd-analyze verify --man=no /usr/lib/systemd/system/coffer-*.service 2>&1;"
        "systemctl is-enabled coffer-firewall coffer-machine-setup coffer-guest coffer-grow-root docker containerd"
        "  systemd-networkd systemd-resolved cloud-init-main || :; echo; systemctl is-enabled ssh nftables"
        "  systemd-networkd-wait-online apt-daily.timer serial-getty@ttyS0 || :"
    )
    on, off = found.split("\n\n")
    assert set(on.split()) == {"enabled"}
    assert set(off.split()) <= {"disabled", "masked"}


def test_ssh_takes_keys_alone_and_never_root() -> None:
    said = inside("mkdir -p /run/sshd; ssh-keygen -A >/dev/null; sshd -T").splitlines()
    assert {"permitrootlogin no", "passwordauthentication no", "kbdinteractiveauthentication no"} <= set(said)
    assert "authenticationmethods publickey" in said
    hashes = [line.split(":")[1] for line in inside("cat /etc/shadow").splitlines()]
    assert all(word.startswith(("!", "*")) for word in hashes)


def test_the_engines_numbers_belong_to_nobody_else() -> None:
    said = inside("getent passwd 999 998; getent group 999 998")
    assert [line.split(":")[0] for line in said.split()] == ["coffer-engine", "coffer-storage"] * 2


def test_nothing_of_the_builds_host_and_of_no_machine_is_in_it() -> None:
    certificates, own, mirrors, rest = inside(
        "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt; echo ---; ls /usr/share/ca-certificates/mozilla | wc -l;"
        "echo ---; grep -rhE '^(deb|URIs:)' /etc/apt/sources.list* || :; echo ---;"
        "find /usr/local/share/ca-certificates /etc/ssh/ssh_host_* /root/.cache /etc/pip.conf /root/.config"
        "  /etc/apt/apt.conf.d/99coffer /usr/sbin/policy-rc.d /etc/coffer /var/lib/coffer"
        "  /var/lib/apt/lists /var/lib/cloud /var/log -type f 2>/dev/null || :; cat /etc/machine-id"
    ).split("---\n")
    assert int(certificates) == int(own) > 50
    assert {line.split("/")[2] for line in mirrors.splitlines()} == {"deb.debian.org"}
    assert rest.split() == []


def test_cloud_init_brings_files_and_nothing_more() -> None:
    script = (
        "from cloudinit import util, settings; c = util.read_conf_with_confd(settings.CLOUD_CONFIG);"
        "import json; print(json.dumps(c))"
    )
    found = json.loads(inside(f'python3 -c "{script}"'))
    assert found["datasource_list"] == ["ConfigDrive", "OpenStack"]
    assert found["network"] == {"config": "disabled"}
    assert found["cloud_init_modules"] == ["seed_random", "write_files", "set_hostname", "users_groups", "ssh"]
    assert found["cloud_config_modules"] == found["cloud_final_modules"] == []
    assert found["ssh_pwauth"] is False
