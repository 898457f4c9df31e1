"""What a virtual machine is told of itself: every field is checked before it becomes configuration."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from coffer_shared.machine_file import decode_machine_file, encode_machine_file

PEM = "-----BEGIN CERTIFICATE-----\nMIIB+/=\n-----END CERTIFICATE-----\n"
GOOD: dict[str, Any] = {
    "registry": "registry.example:5000",
    "registry_insecure": False,
    "registry_ca": PEM,
    "data_volume": "0b1e6f7a-3c55-4b1e-9d2a-0f4b5c6d7e8f",
    "tenant_mac": "FA:16:3E:00:00:02",
    "tenant_address": "10.9.0.77",
    "management_macs": ["fa:16:3e:00:00:01"],
}


def test_it_comes_in_canonical_form_and_survives_the_way() -> None:
    machine = decode_machine_file(json.dumps({**GOOD, "ssh_cidrs": ["10.8.0.9/24"], "of a later release": 1}))
    assert machine.tenant_mac == "fa:16:3e:00:00:02"
    assert machine.ssh_cidrs == ("10.8.0.0/24",)
    assert decode_machine_file(encode_machine_file(machine)) == machine


def test_ipv6_is_an_address_too() -> None:
    machine = decode_machine_file(json.dumps({**GOOD, "tenant_address": "FD00::5", "registry": "[fd00::1]:5000"}))
    assert (machine.tenant_address, machine.registry) == ("fd00::5", "[fd00::1]:5000")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("registry", ""),
        ("registry", "../../etc/passwd"),
        ("registry", "host:5000/x"),
        ("registry", "host:123456"),
        ("registry_ca", "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"),
        ("registry_insecure", True),
        ("data_volume", "0b1e6f7a"),
        ("data_volume", "0b1e6f7a-3c55-4b1e-9d2a-0f4b5c6d7e8f\nCOFFER_X=1"),
        ("tenant_mac", "fa:16:3e:00:00:02\n[Network]"),
        ("tenant_mac", "fa:16:3e:00:00:01"),
        ("tenant_address", "10.9.0.77/24"),
        ("tenant_address", "10.9.0.77\nTable=254"),
        ("management_macs", []),
        ("management_macs", ["*"]),
        ("ssh_cidrs", ["10.8.0.0/33"]),
        ("ssh_cidrs", ["10.8.0.0/24 accept"]),
    ],
)
def test_what_is_not_what_it_should_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match="machine file"):
        decode_machine_file(json.dumps({**GOOD, field: value}))


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b'{"registry": 5}'])
def test_what_is_no_machine_file_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not a machine file"):
        decode_machine_file(raw)


def test_nothing_is_sent_that_no_machine_would_take() -> None:
    machine = msgspec.structs.replace(decode_machine_file(json.dumps(GOOD)), tenant_address="nowhere")
    with pytest.raises(ValueError, match="tenant_address"):
        encode_machine_file(machine)
