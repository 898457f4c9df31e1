"""The rules as text; what the kernel makes of them is tested in a machine."""

from __future__ import annotations

import pytest

from coffer_guest.firewall import CONTAINER, Interface, Rules, Site, render, valid_cidrs

EVERYWHERE = [Interface("lo", "127.0.0.1", 8), Interface("eth1", "10.8.0.2", 24), Interface("eth0", "10.9.0.5", 24)]
RULES = Rules(("10.9.0.5",), 5432)


def chain(text: str, name: str) -> list[str]:
    body = text.split(f"chain {name} {{", 1)[1].split("}\n    ", 1)[0]
    return [line.strip() for line in body.splitlines() if line.strip()]


def test_interfaces_are_found_by_address() -> None:
    swapped = [Interface("eth0", "10.8.0.2", 24), Interface("eth1", "10.9.0.5", 24)]
    assert 'iifname { "eth1" } tcp dport 5432' in render(RULES, swapped, [])
    assert 'iifname { "eth0" } tcp dport 5432' in render(RULES, EVERYWHERE, [])


def test_only_our_table_is_replaced_and_nothing_is_flushed() -> None:
    text = render(RULES, EVERYWHERE, [])
    assert text.startswith("add table inet coffer\ndelete table inet coffer\ntable inet coffer {")
    assert "flush" not in text


def test_before_prepare_nothing_comes_in() -> None:
    text = render(Rules(), EVERYWHERE, [])
    assert "dport" not in text
    assert "policy drop" in chain(text, "inward")[0]


@pytest.mark.parametrize(
    ("gateway", "routes", "expected"),
    [
        ("", [("eth0", "10.9.0.254")], "10.9.0.254"),
        ("", [("eth1", "10.8.0.1")], "10.9.0.1"),
        ("", [], "10.9.0.1"),
        ("10.9.0.3", [("eth0", "10.9.0.254")], "10.9.0.3"),
    ],
)
def test_the_tenant_networks_gateway_is_always_let_in(
    gateway: str, routes: list[tuple[str, str]], expected: str
) -> None:
    text = render(Rules(("10.9.0.5",), 5432, ("192.0.2.0/24",), gateway=gateway), EVERYWHERE, routes)
    assert f"ip saddr {{ {expected}, 192.0.2.0/24 }} accept" in text


def test_overlapping_ranges_become_one() -> None:
    assert valid_cidrs(["10.0.0.0/8", "10.1.2.3/32", "::/0", "2001:db8::/32"]) == ("10.0.0.0/8", "::/0")


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "nowhere", "10.0.0.1; accept", "}"])
def test_what_is_no_network_never_gets_into_the_rules(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be|Address cannot be empty"):
        render(Rules(("10.9.0.5",), 5432, (text,)), EVERYWHERE, [])


def test_the_engine_is_judged_before_its_established_connections() -> None:
    lines = chain(render(RULES, EVERYWHERE, []), "engine")
    assert lines[0].startswith("ip daddr { 127.0.0.11, 169.254.0.0/16 } reject")
    assert lines[1] == "ct state established,related accept"
    assert [line for line in lines if line != "}"][-1] == "reject"


def test_ipv6_only_where_the_tenant_has_it() -> None:
    both = [*EVERYWHERE, Interface("eth0", "fd00::5", 64)]
    assert "icmpv6" not in render(RULES, EVERYWHERE, [])
    text = render(Rules(("10.9.0.5", "fd00::5"), 5432), both, [])
    assert "icmpv6" in text
    assert 'oifname { "eth0" } ip6 daddr { fd00::/64 } accept' in text


# --- the way to the object store ---


def rules_of(text: str, name: str) -> list[str]:
    return [line for line in chain(text, name) if line != "}"]


def test_without_a_job_its_group_reaches_nothing() -> None:
    for rules in (Rules(), RULES):
        text = render(rules, EVERYWHERE, [])
        assert rules_of(text, "storage") == ["reject"]
        outward = rules_of(text, "outward")
        assert outward[-2:] == ["meta skuid 999 meta skgid 998 jump storage", "meta skuid 999 jump engine"]


def test_with_a_job_its_group_reaches_names_and_that_port_and_nothing_near() -> None:
    text = render(Rules(("10.9.0.5",), 5432, storage_port=8080), EVERYWHERE, [("eth0", "10.9.0.254")])
    assert rules_of(text, "storage") == [
        "ct state established,related accept",
        "ip daddr 127.0.0.11 meta l4proto { tcp, udp } ct original proto-dst 53 accept",
        "ip daddr { 10.8.0.2, 10.9.0.0/24, 127.0.0.0/8, 169.254.0.0/16 } reject",
        "ip6 daddr { ::1, fe80::/10 } reject",
        "tcp dport 8080 accept",
        "reject",
    ]


def test_a_gateway_that_was_named_is_near_too() -> None:
    text = render(Rules(("10.9.0.5",), 5432, gateway="172.16.0.1", storage_port=443), EVERYWHERE, [])
    assert "172.16.0.1" in next(line for line in rules_of(text, "storage") if line.startswith("ip daddr {"))


def test_what_the_engine_reaches_is_the_same_with_and_without() -> None:
    closed = render(RULES, EVERYWHERE, [])
    opened = render(Rules(("10.9.0.5",), 5432, storage_port=8080), EVERYWHERE, [])
    for name in ("inward", "through", "outward", "engine"):
        assert chain(closed, name) == chain(opened, name)


# --- a virtual machine ---

VM = Site(gateway_forwards=False, leases=True, resolver="127.0.0.53")


def test_a_routers_address_is_not_let_in_for_being_the_gateway() -> None:
    allowed = Rules(("10.9.0.5",), 5432, ("192.0.2.0/24",), gateway="10.9.0.3")
    text = render(allowed, EVERYWHERE, [("eth0", "10.9.0.254")], VM)
    assert "ip saddr { 192.0.2.0/24 } accept" in text
    assert "10.9.0.3" not in "".join(chain(text, "inward"))


def test_a_router_that_is_not_known_is_not_guessed() -> None:
    assert "10.9.0.1 " not in render(RULES, EVERYWHERE, [], VM)


def test_leases_and_neighbours_are_heard_at_every_interface_also_before_prepare() -> None:
    for rules in (Rules(), RULES, Rules(("fd00::5",), 5432)):
        inward = chain(render(rules, [*EVERYWHERE, Interface("eth0", "fd00::5", 64)], [], VM), "inward")
        assert "udp sport 67 udp dport 68 accept" in inward
        assert "ip6 saddr fe80::/10 udp sport 547 udp dport 546 accept" in inward
        assert sum("icmpv6" in line for line in inward) == 2
    assert "udp" not in "".join(chain(render(RULES, EVERYWHERE, []), "inward"))


def test_a_backup_asks_the_machines_own_resolver() -> None:
    storage = rules_of(render(Rules(("10.9.0.5",), 5432, storage_port=443), EVERYWHERE, [], VM), "storage")
    assert storage[1].startswith("ip daddr 127.0.0.53 ")


def test_the_metadata_service_is_for_root_alone_whatever_is_prepared() -> None:
    for site in (VM, CONTAINER):
        outward = rules_of(render(Rules(), EVERYWHERE, [], site), "outward")
        assert outward[1:3] == [
            "ip daddr 169.254.169.254 meta skuid != 0 reject",
            "ip6 daddr fe80::a9fe:a9fe meta skuid != 0 reject",
        ]


def test_ssh_is_open_to_whom_it_was_opened_at_the_management_ports() -> None:
    macs = ("fa:16:3e:00:00:03", "fa:16:3e:00:00:01")
    opened = Site(leases=True, management_macs=macs, ssh=("10.8.0.9/32", "fd00::/8"))
    text = render(Rules(), EVERYWHERE, [], opened)
    both = "{ fa:16:3e:00:00:01, fa:16:3e:00:00:03 }"
    assert f"ether daddr {both} tcp dport 22 ip saddr {{ 10.8.0.9 }} accept" in text
    assert f"ether daddr {both} tcp dport 22 ip6 saddr {{ fd00::/8 }} accept" in text
    for closed in (Site(management_macs=macs), Site(ssh=("10.8.0.9/32",))):
        assert "dport 22" not in "".join(chain(render(Rules(), EVERYWHERE, [], closed), "inward"))


def test_the_engine_does_not_reach_the_machines_own_ssh_server() -> None:
    lines = chain(render(RULES, EVERYWHERE, [], Site(ssh=("10.8.0.9/32",))), "engine")
    assert lines.index("tcp dport 22 reject") < next(n for n, line in enumerate(lines) if line.startswith("oifname"))
