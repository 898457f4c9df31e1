"""The parts of the OpenStack driver that need no cloud: marks, user data, rules, states, errors."""

from __future__ import annotations

import base64
import itertools
import random
import re
from dataclasses import replace
from uuid import uuid4

import msgspec
import pytest
import yaml

from coffer_provisioner.cloud.interface import (
    CloudBusy,
    CloudRefused,
    MachineSpec,
    MachineState,
    Port,
    Size,
    Tags,
    Volume,
)
from coffer_provisioner.cloud.openstack_access import ANYBODY, Rule, compared, rules_for
from coffer_provisioner.cloud.openstack_calls import Answer, error_of, said
from coffer_provisioner.cloud.openstack_labels import (
    HELD,
    Kind,
    Marks,
    OpenStackSettings,
    nova_tag,
    ranked,
    server_name,
    snapshot_name,
    word,
)
from coffer_provisioner.cloud.openstack_machines import refusal
from coffer_provisioner.cloud.openstack_states import summary
from coffer_provisioner.cloud.openstack_user_data import LIMIT, cloud_config, machine_file
from coffer_provisioner.cloud.openstack_volumes import refusal as volume_refusal
from coffer_shared.machine_file import MachineFile, decode_machine_file

MARKS = Marks("one")

TAGS = Tags(str(uuid4()), str(uuid4()), "a project/with, odd ../ id " + "x" * 300)
SPEC = MachineSpec(
    tags=TAGS, name="my db", size=Size("1", 1, 1), port=Port("10.0.0.1", "n"), volume=Volume("v", 1, ready=True),
    user_data=b"{}", manager="postgresql", user="u,1/" + "y" * 100,
)
SETTINGS = OpenStackSettings(image="guest", management_networks=("management",), registry="192.0.2.1:5000")


# --- marks ---


def test_every_kind_of_mark_is_read_back() -> None:
    things = [
        {"metadata": MARKS.server_metadata(SPEC)},
        {"metadata": MARKS.metadata(TAGS) | {HELD: "true"}},
        {"metadata": MARKS.snapshot_metadata(TAGS, str(uuid4()))},
        {"description": MARKS.description(TAGS, Kind.ADDRESS), "tags": []},
        {"description": "the tenant's own words", "tags": MARKS.network_tags(TAGS, Kind.PUBLIC)},
        {"name": MARKS.group_name(TAGS), "members": []},
    ]
    for thing in things:
        mark = MARKS.of(thing)
        assert mark is not None
        assert (mark.instance, mark.operation) == (TAGS.instance, TAGS.operation)
        assert Marks("two").of(thing) is None, "another stack's"
        assert Marks("on").of(thing) is None
        assert Marks("one.two").of(thing) is None
    assert MARKS.mine(things, TAGS.instance) == things
    assert MARKS.mine(things, str(uuid4())) == []
    assert MARKS.mine(things, kind=Kind.ADDRESS) == [things[3]]


@pytest.mark.parametrize("thing", [
    {}, {"description": None, "tags": None}, {"metadata": {}}, {"metadata": {"coffer_stack": "one"}},
    {"name": f"trove-{TAGS.instance}"}, {"description": "coffer-stack=one"},
    {"name": MARKS.group_name(TAGS)},
])
def test_a_name_alone_is_no_mark(thing: dict[str, object]) -> None:
    assert MARKS.of(thing) is None


def test_nothing_is_longer_than_the_cloud_takes() -> None:
    for stack in ("s", "s" * 40):
        marks = Marks(stack)
        tags = marks.server_tags(SPEC)
        assert all(len(tag) <= 60 and not re.search(r"[,/]", tag) for tag in tags)
        assert {f"trove_instance_id_{TAGS.instance}", f"coffer-stack={stack}"} <= set(tags), "the ones it is found by"
        assert set(marks.server_filter(TAGS.instance).split(",")) <= set(tags)
        assert all(len(text) <= 255 for text in marks.server_metadata(SPEC).values())
        for kind in Kind:
            assert len(marks.description(TAGS, kind)) <= 255
            assert all(len(tag) <= 60 and "," not in tag for tag in marks.network_tags(TAGS, kind))
        assert len(marks.group_name(TAGS)) <= 255
    assert nova_tag("a,b/c" + "d" * 100) == "a-b-c" + "d" * 55


@pytest.mark.parametrize("stack", ["", " ", "a b", "a,b", "a=b", "s" * 41, "../x", "-x", "é"])
def test_a_stack_needs_a_name(stack: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        Marks(stack)


@pytest.mark.parametrize("text", ["", "../servers", "a/b", "a b", "a?b", "a,b", "x" * 65, "é", "a\n"])
def test_what_is_no_id_goes_into_no_request(text: str) -> None:
    for marking in (
        word, MARKS.server_filter, MARKS.volume_filter, MARKS.network_filter, MARKS.snapshot_filter, snapshot_name,
        lambda one: MARKS.snapshot_metadata(TAGS, one),
        lambda one: MARKS.description(Tags(one, "o", "p"), Kind.ADDRESS),
        lambda one: MARKS.metadata(Tags("i", one, "p")),
    ):
        with pytest.raises(ValueError, match="not an id"):
            marking(text)


def test_an_instance_has_one_hardware_address_on_a_network_and_no_other_has_it() -> None:
    first = MARKS.mac("i-1", "n-1")
    assert re.fullmatch(r"06(:[0-9a-f]{2}){5}", first), "local, and no multicast"
    assert first == MARKS.mac("i-1", "n-1")
    others = {MARKS.mac("i-2", "n-1"), MARKS.mac("i-1", "n-2"), Marks("two").mac("i-1", "n-1")}
    assert len(others | {first}) == 4


@pytest.mark.parametrize(("name", "shown"), [
    ("my db", "my db"), ("  my db\t", "my db"), ("a\x00b\nc", "a b c"), ("", "instance"), (" \n ", "instance"),
    ("数据库 é", "数据库 é"), ("x" * 400, "x" * 255), ("x" * 254 + "  y", "x" * 254),
])
def test_odd_names_of_instances(name: str, shown: str) -> None:
    assert server_name(name) == shown


def test_whoever_looks_keeps_the_same_one() -> None:
    things = [
        {"id": "c", "created_at": "2026-01-01T00:00:02"}, {"id": "b", "created_at": "2026-01-01T00:00:01"},
        {"id": "a", "created_at": "2026-01-01T00:00:02"},
        {"id": "d", "created_at": "2026-01-01T00:00:09", "used": True},
    ]
    for order in itertools.permutations(things):
        assert [one["id"] for one in ranked(order)] == ["b", "a", "c", "d"]
        assert [one["id"] for one in ranked(order, lambda one: bool(one.get("used")))] == ["d", "b", "a", "c"]


# --- user data ---


def test_user_data_writes_two_files() -> None:
    secret = b'{"secret": "\xc3\xa9 \'quoted\' \\" #not-a-comment"}\n'
    volume, macs = str(uuid4()), ("06:00:00:00:00:01", "06:00:00:00:00:02", "06:00:00:00:00:03")
    settings = msgspec.structs.replace(SETTINGS, registry_insecure=True, ssh_cidrs=("192.0.2.0/24",))
    machine = machine_file(settings, volume=volume, mac=macs[0], address="10.0.0.5", management_macs=macs[1:])
    text = base64.b64decode(cloud_config(secret, machine)).decode()
    assert text.startswith("#cloud-config\n")
    files = {one["path"]: one for one in yaml.safe_load(text)["write_files"]}
    assert set(files) == {"/etc/coffer/user-data.json", "/etc/coffer/machine.json"}
    assert base64.b64decode(files["/etc/coffer/user-data.json"]["content"]) == secret
    assert {(one["owner"], one["encoding"]) for one in files.values()} == {("root:root", "b64")}
    assert files["/etc/coffer/user-data.json"]["permissions"] == "0600"
    assert files["/etc/coffer/machine.json"]["permissions"] == "0644"
    assert decode_machine_file(base64.b64decode(files["/etc/coffer/machine.json"]["content"])) == MachineFile(
        registry="192.0.2.1:5000", registry_insecure=True, data_volume=volume, tenant_mac=macs[0],
        tenant_address="10.0.0.5", management_macs=macs[1:], ssh_cidrs=("192.0.2.0/24",),
    )
    assert b"secret" not in machine


def test_a_machine_that_cannot_be_told_where_it_is_is_not_made() -> None:
    told = {"volume": str(uuid4()), "mac": "06:00:00:00:00:01", "address": "10.0.0.5"}
    for settings, macs in (
        (msgspec.structs.replace(SETTINGS, registry="a b"), ["06:00:00:00:00:02"]), (SETTINGS, []),
    ):
        with pytest.raises(CloudRefused) as refused:
            machine_file(settings, management_macs=macs, **told)
        assert refused.value.code == "bad_settings"


def test_user_data_that_nova_would_not_take() -> None:
    assert len(cloud_config(b"x" * 30_000, b"{}")) <= LIMIT
    with pytest.raises(CloudRefused) as refused:
        cloud_config(b"x" * 40_000, b"{}")
    assert "xxx" not in str(refused.value)


# --- rules ---


def as_neutron(rule: Rule, identity: str = "r") -> dict[str, object]:
    return {
        "id": identity, "direction": "ingress", "ethertype": rule.ethertype, "protocol": rule.protocol,
        "port_range_min": rule.first, "port_range_max": rule.last, "remote_ip_prefix": rule.cidr,
        "remote_group_id": None,
    }


def test_nobody_named_is_everybody() -> None:
    assert rules_for(5432, (), icmp=False) == {Rule(cidr, "tcp", 5432, 5432) for cidr in ANYBODY}
    assert {rule.protocol for rule in rules_for(5432, (), icmp=True)} == {"tcp", "icmp", "ipv6-icmp"}
    assert rules_for(1, ("10.1.2.3/8", "10.0.0.0/8", "192.0.2.7"), icmp=False) == {
        Rule("10.0.0.0/8", "tcp", 1, 1), Rule("192.0.2.7/32", "tcp", 1, 1),
    }


def test_rules_are_set_exactly() -> None:
    ranges = ("10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "::/0")
    chance = random.Random(7)
    for _ in range(300):
        wanted, had = (
            rules_for(
                chance.choice([1, 2]), tuple(chance.sample(ranges, chance.randint(0, 4))), icmp=chance.random() < 0.5,
            )
            for _ in range(2)
        )
        listed = [as_neutron(rule, str(n)) for n, rule in enumerate([*had, *chance.sample(sorted(had), 1)])]
        missing, superfluous = compared(wanted, listed)
        left = {rule for rule, thing in zip([*had], listed, strict=False) if thing["id"] not in superfluous}
        kept = [thing for thing in listed if thing["id"] not in superfluous]
        assert missing | (had & wanted) == wanted
        assert left <= wanted
        assert len(kept) == len(had & wanted), "no rule is there twice"
        assert compared(wanted, kept)[1] == []


def test_what_neutron_shows_in_another_way_is_the_same_rule() -> None:
    everybody = rules_for(5432, (), icmp=True)
    listed = [
        as_neutron(rule, str(n)) | {
            "remote_ip_prefix": None, "protocol": "58" if "6-" in rule.protocol else rule.protocol,
        }
        for n, rule in enumerate(everybody)
    ]
    assert compared(everybody, listed) == (frozenset(), [])
    by_group = {**as_neutron(Rule("0.0.0.0/0", "tcp", 5432, 5432), "by-group"), "remote_group_id": "g"}
    assert compared(everybody, [*listed, by_group]) == (frozenset(), ["by-group"])
    whole = {**as_neutron(Rule("0.0.0.0/0", "tcp"), "all-ports")}
    assert compared(everybody, [*listed, whole])[1] == ["all-ports"]


@pytest.mark.parametrize("cidr", ["", "all", "10.0.0.0/33", "10.0.0", "::/129", "10.0.0.0/8,::/0", "fe80::1%eth0/64"])
def test_what_is_no_range_is_refused(cidr: str) -> None:
    with pytest.raises(CloudRefused) as refused:
        rules_for(5432, ("10.0.0.0/8", cidr), icmp=False)
    assert refused.value.code == "bad_cidr"


# --- states ---


@pytest.mark.parametrize(("server", "state"), [
    ({"status": "BUILD"}, MachineState.BUILDING), ({"status": "ACTIVE"}, MachineState.ACTIVE),
    ({"status": "ACTIVE", "OS-EXT-STS:task_state": "image_snapshot"}, MachineState.ACTIVE),
    ({"status": "ACTIVE", "OS-EXT-STS:power_state": 4}, MachineState.STOPPED),
    ({"status": "ACTIVE", "OS-EXT-STS:power_state": 4, "OS-EXT-STS:task_state": "powering-off"}, MachineState.ACTIVE),
    ({"status": "ACTIVE", "host_status": "DOWN"}, MachineState.STOPPED),
    ({"status": "ACTIVE", "host_status": "UNKNOWN"}, MachineState.ACTIVE),
    ({"status": "ACTIVE", "OS-EXT-STS:task_state": "deleting"}, MachineState.STOPPED),
    ({"status": "SHUTOFF"}, MachineState.STOPPED), ({"status": "PAUSED"}, MachineState.STOPPED),
    ({"status": "SHUTOFF", "OS-EXT-STS:task_state": "powering-on"}, MachineState.BUILDING),
    ({"status": "SHELVED_OFFLOADED"}, MachineState.STOPPED), ({"status": "REBUILD"}, MachineState.BUILDING),
    ({"status": "RESIZE"}, MachineState.BUILDING), ({"status": "VERIFY_RESIZE"}, MachineState.ACTIVE),
    ({"status": "REVERT_RESIZE"}, MachineState.BUILDING), ({"status": "ERROR"}, MachineState.ERROR),
    ({"status": "ERROR", "fault": {"message": "No valid host was found. "}}, MachineState.ERROR),
])
def test_states(server: dict[str, object], state: MachineState) -> None:
    found = summary({"id": "s", **server})
    assert found.state is state
    assert bool(found.fault) == (state in {MachineState.STOPPED, MachineState.ERROR})
    assert found.unconfirmed == (server["status"] == "VERIFY_RESIZE")
    if "fault" in server:
        assert found.fault == "No valid host was found."


# --- errors ---


@pytest.mark.parametrize(("status", "body", "code"), [
    (400, {"badRequest": {"message": "no"}}, "cloud_refused"), (401, {}, None), (404, {}, None), (409, {}, None),
    (403, {"forbidden": {"message": "Quota exceeded for cores"}}, "quota"),
    (403, {"forbidden": {"message": "Policy doesn't allow it"}}, "forbidden"),
    (413, {"overLimit": {"message": "exceeds allowed gigabytes quota"}}, "quota"), (413, {"overLimit": {}}, None),
    (413, {"overLimit": {"message": "Maximum number of snapshots allowed (10) exceeded"}}, "quota"),
    (413, {"overLimit": {"message": "Only 10 POST request(s) can be made every minute."}}, None),
    (409, {"NeutronError": {"type": "OverQuota", "message": "Quota exceeded"}}, "quota"),
    (409, {"NeutronError": {"type": "IpAddressInUse", "message": "x"}}, None),
    (412, {}, None), (429, {}, None), (500, {}, None), (502, {}, None), (503, {"message": "down"}, None),
    (504, {}, None),
])
def test_what_an_answer_means(status: int, body: dict[str, object], code: str | None) -> None:
    found = error_of("making a thing", Answer(status, body))
    if code is None:
        assert isinstance(found, CloudBusy)
        assert "making a thing" in str(found)
    else:
        assert isinstance(found, CloudRefused)
        assert found.code == code


@pytest.mark.parametrize(("status", "text", "code"), [
    (400, "No valid host was found.", "no_capacity"), (400, "Image x could not be found.", "no_image"),
    (400, "Flavor's disk is too small for requested image.", "no_flavor"), (400, "Invalid flavorRef", "no_flavor"),
    (400, "The requested availability zone is not available", "no_zone"), (409, "Port x is still in use.", None),
    (400, "Instance group g could not be found.", None), (403, "Quota exceeded for ram", "quota"),
])
def test_what_nova_means(status: int, text: str, code: str | None) -> None:
    found = refusal("making a machine", Answer(status, {"badRequest": {"message": text}}))
    assert getattr(found, "code", None) == code
    assert isinstance(found, CloudBusy if code is None else CloudRefused)


@pytest.mark.parametrize(("text", "snapshot", "code"), [
    ("Invalid snapshot: Originating snapshot status must be one of 'available' values", "s", "no_snapshot"),
    ("Snapshot s could not be found.", "s", "no_snapshot"),
    ("Volume must be in the same availability zone as the snapshot", "s", "no_zone"),
    ("Invalid volume_type provided: fast (requested type is not compatible)", "s", "no_volume_type"),
    ("Volume type with name fast could not be found.", "s", "no_volume_type"),
    ("Volume type with name fast could not be found.", None, "no_volume_type"),
    ("Availability zone 'z' is invalid.", None, "no_zone"), ("Invalid input received: no", "s", "cloud_refused"),
])
def test_what_cinder_means(text: str, snapshot: str | None, code: str) -> None:
    found = volume_refusal("making a volume", Answer(400, {"badRequest": {"message": text}}), "fast", snapshot)
    assert isinstance(found, CloudRefused)
    assert found.code == code
    assert code == "no_volume_type" or text in str(found)


def test_what_a_service_quotes_from_a_request_is_left_out() -> None:
    text = "Invalid input for field/attribute user_data. Value: c2VjcmV0. 'c2VjcmV0' is too long"
    assert said({"badRequest": {"message": text, "code": 400}}) == "Invalid input for field/attribute user_data."
    assert len(said({"x": {"message": "y" * 5000}})) == 300
    assert said({"message": "a\n b"}) == "a b"
    assert said({}) == said({"x": [1], "message": 7}) == ""


def test_no_secret_where_things_are_printed() -> None:
    assert "once only" not in repr(replace(SPEC, user_data=b"once only"))
