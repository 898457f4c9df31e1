"""What a new machine is told: cloud-config that writes two files. Plain values, no calls.

    /etc/coffer/user-data.json   root only: the agent's identity, with a one-time credential
    /etc/coffer/machine.json     where its registry is, and by what it knows its volume and its network cards
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence

from coffer_provisioner.cloud.interface import CloudRefused
from coffer_provisioner.cloud.openstack_labels import OpenStackSettings
from coffer_shared.machine_file import PATH, MachineFile, encode_machine_file

LIMIT = 65535
"""Characters that Nova takes, after base64."""


def machine_file(
    settings: OpenStackSettings, *, volume: str, mac: str, address: str, management_macs: Sequence[str],
) -> bytes:
    """`volume` is Cinder's id, of which the guest sees the first 20 characters as the disk's serial number.

    CloudRefused `bad_settings` for what no machine would take."""
    told = MachineFile(
        registry=settings.registry, registry_insecure=settings.registry_insecure, registry_ca=settings.registry_ca,
        data_volume=volume, tenant_mac=mac, tenant_address=address, management_macs=tuple(management_macs),
        ssh_cidrs=settings.ssh_cidrs,
    )
    try:
        return encode_machine_file(told)
    except ValueError as error:
        raise CloudRefused("bad_settings", f"a machine cannot be told where it is: {error}") from None


def cloud_config(user_data: bytes, machine: bytes) -> str:
    """As Nova takes it. JSON is YAML too, so nothing in it needs quoting of another kind."""
    config = {"write_files": [
        _file("/etc/coffer/user-data.json", user_data, "0600"),
        _file(PATH, machine, "0644"),
    ]}
    text = base64.b64encode(b"#cloud-config\n" + json.dumps(config, indent=1).encode() + b"\n").decode()
    if len(text) > LIMIT:
        raise CloudRefused("user_data_too_long", f"what the machine must be told has {len(text)} characters of {LIMIT}")
    return text


def _file(path: str, content: bytes, permissions: str) -> dict[str, str]:
    return {
        "path": path,
        "owner": "root:root",
        "permissions": permissions,
        "encoding": "b64",
        "content": base64.b64encode(content).decode(),
    }
