"""Where a tenant wants an instance's address: the network, its subnet, the address itself."""

from __future__ import annotations

import ipaddress
import uuid

import pytest

from support.stack import address, eventually, psql


def test_an_address_of_the_tenants_choice(api, shop):
    private = next(a for a in shop.shown["addresses"] if a["type"] == "private")
    network = private["network"]
    assert str(uuid.UUID(network)) == network
    wanted = str(ipaddress.ip_address(private["address"]) + 40)
    nic = {"net-id": network, "subnet_id": network, "ip_address": wanted}
    made = api.create("chosen", nics=[nic], databases=[{"name": "d"}], users=[
        {"name": "app", "password": "a-long-word-1", "databases": [{"name": "d"}]},
    ])
    try:
        shown = api.until_ready(made)
        assert address(shown, "private") == wanted
        assert psql(wanted, "app", "a-long-word-1", "d", "SELECT session_user") == "app"
    finally:
        api.delete(made)


@pytest.mark.parametrize(("nic", "why"), [
    ({"net-id": str(uuid.UUID(int=7))}, "no_network"),
    ({"subnet_id": str(uuid.UUID(int=7))}, "no_network"),
    ({"net-id": "NETWORK", "subnet_id": str(uuid.UUID(int=7))}, "no_subnet"),
    ({"net-id": "NETWORK", "subnet_id": "NETWORK", "ip_address": "192.0.2.1"}, "no_subnet"),
    ({"net-id": "NETWORK", "subnet_id": "NETWORK", "ip_address": "ADDRESS"}, "address_taken"),
])
def test_what_cannot_be_had_is_told_and_nothing_is_left(api, stack, shop, nic, why):
    private = next(a for a in shop.shown["addresses"] if a["type"] == "private")
    known = {"NETWORK": private["network"], "ADDRESS": private["address"]}
    made = api.create("lost", nics=[{key: known.get(value, value) for key, value in nic.items()}])
    eventually(lambda: api.states(made)[0] == "ERROR", within=60, what="the creation failed")
    assert f"({why})" in api.instance(made)["fault"]["message"]
    api.delete(made)
    assert stack.leftovers(made, shared=False) == []
