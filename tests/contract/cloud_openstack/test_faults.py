"""What goes wrong between the driver and the cloud: nothing is made twice, nothing stays, and the error says which."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, MachineState, Size
from support.faulty_proxy import Asked, Fault
from support.openstack_stage import Stage, reached, with_password


def once(wanted: Callable[[Asked], bool], fault: Fault) -> Callable[[Asked], Fault | None]:
    """The first request that is wanted fails."""
    seen: list[Asked] = []

    def decide(asked: Asked) -> Fault | None:
        if seen or not wanted(asked):
            return None
        seen.append(asked)
        return fault

    return decide


def making(path: str) -> Callable[[Asked], bool]:
    return lambda asked: asked.method == "POST" and asked.path.split("/")[-1] == path


@pytest.mark.parametrize("fault", [
    Fault(status=500), Fault(status=502), Fault(status=503), Fault(status=504), Fault(status=429), Fault(status=408),
    Fault(status=409, body={"conflictingRequest": {"message": "it is busy", "code": 409}}),
    Fault(status=413, body={"overLimit": {"message": "slow down", "code": 413, "retryAfter": "1"}}),
    Fault(status=200, body=["not", "what", "was", "expected"]), Fault(broken=True), Fault(lost=True), Fault(after=1e9),
])
async def test_whatever_passes_is_busy(stage: Stage, fault: Fault) -> None:
    cloud, one = stage.door(call_seconds=stage.ground.patience), stage.instance()
    fault = replace(fault, after=stage.ground.patience + 1) if fault.after else fault
    await reached(lambda: cloud.find_machine(one.instance))
    for call in (
        lambda: cloud.find_machine(one.instance), lambda: cloud.volume_is_marked(one.instance),
        lambda: cloud.ensure_port(one.tags, network=one.network, address=None),
        cloud.resources,  # last, since it asks for several things at once
    ):
        stage.proxy.decide = once(lambda _asked: True, fault)
        with pytest.raises(CloudBusy) as busy:
            await call()
        assert "OpenStack" in str(busy.value)
        stage.proxy.clear()
    await reached(lambda: cloud.drop_port(one.instance))
    assert stage.left_over() == []


async def test_a_quota_is_told_from_what_passes(stage: Stage) -> None:
    cloud, one = stage.door(), stage.instance()
    for path, fault in (
        ("ports", Fault(status=409, body={"NeutronError": {
            "type": "OverQuota", "message": "Quota exceeded for resources: ['port'].", "detail": ""}})),
        ("volumes", Fault(status=413, body={"overLimit": {"message": "VolumeLimitExceeded: quota", "code": 413}})),
        ("servers", Fault(status=403, body={"forbidden": {"message": "Quota exceeded for ram", "code": 403}})),
        ("floatingips", Fault(status=409, body={"NeutronError": {
            "type": "OverQuota", "message": "Quota exceeded for resources: ['floatingip'].", "detail": ""}})),
    ):
        stage.proxy.decide = once(making(path), fault)
        with pytest.raises(CloudRefused) as refused:
            await one.everything(cloud)
        assert refused.value.code == "quota", path
        stage.proxy.clear()
    await one.nothing(cloud)
    assert stage.left_over() == []


@pytest.mark.parametrize("hidden", [0.0, 1.5])
async def test_a_lost_answer_makes_nothing_twice(stage: Stage, hidden: float) -> None:
    """The thing is made, and the caller never learns; then listings do not show it yet."""
    cloud, one = stage.door(), stage.instance()
    lost: set[str] = set()

    def decide(asked: Asked) -> Fault | None:
        kind = asked.path.split("/")[-1]
        if asked.method != "POST" or kind in lost or len(asked.path.split("/")) > 1:
            return None
        lost.add(kind)
        return Fault(lost=True)

    stage.proxy.decide, stage.proxy.hidden_for = decide, hidden
    await one.everything(cloud)
    assert lost == {
        "ports", "security-groups", "security-group-rules", "volumes", "servers", "floatingips", "os-server-groups",
    }
    stage.proxy.clear()
    await one.everything(cloud)
    await asyncio.sleep(hidden)
    await one.everything(cloud)
    assert len(stage.ground.servers(stage.stack)) == 1
    assert len(stage.ground.volumes(stage.stack)) == 1
    assert len(stage.ground.neutron("floatingips", stage.stack)) == 1
    assert len(stage.ground.neutron("ports", stage.stack)) == 2, "the tenant's and the management network's"
    assert len(stage.ground.neutron("security_groups", stage.stack)) == 1
    assert len(stage.ground.groups(stage.stack)) == 1
    await one.nothing(cloud)
    assert stage.left_over() == []


async def test_two_provisioners_that_see_nothing_of_each_other(stage: Stage) -> None:
    """Listings lag behind for longer than anybody waits; when they are right again, one of each is left."""
    one, doors = stage.instance(), [stage.door(settle_seconds=0.0), stage.door(settle_seconds=0.0)]
    stage.proxy.hidden_for = 5.0
    for _ in range(3):
        await asyncio.gather(*(
            door.ensure_volume(one.tags, gib=1, volume_type=None) for door in doors
        ), return_exceptions=True)
        await asyncio.gather(*(
            door.ensure_port(one.tags, network=one.network, address=None) for door in doors
        ), return_exceptions=True)
    assert len(stage.ground.volumes(stage.stack)) > 1
    assert len(stage.ground.neutron("ports", stage.stack)) == 1, "the network has the hardware address once"
    stage.proxy.clear()
    specs = await asyncio.gather(*(one.everything(door) for door in doors))
    assert specs[0] == specs[1]
    await one.everything(doors[0])
    assert len([volume for volume in stage.ground.volumes(stage.stack) if volume["status"] != "deleting"]) == 1
    assert len(stage.ground.servers(stage.stack)) == 1
    assert len(stage.ground.neutron("security_groups", stage.stack)) == 1
    await one.nothing(doors[1])
    assert stage.left_over() == []


async def test_two_volumes_made_at_once_are_seen_in_time(stage: Stage) -> None:
    one, doors = stage.instance(), [stage.door(settle_seconds=3.0) for _ in range(3)]
    for door in doors:
        await reached(lambda door=door: door.volume_is_marked(one.instance))  # type: ignore[misc]
    stage.proxy.hidden_for = 1.5
    made = await asyncio.gather(*(door.ensure_volume(one.tags, gib=1, volume_type=None) for door in doors))
    assert len({volume.id for volume in made}) == 1, "all keep the same one, from the start"
    assert await one.volume(doors[0])
    left = [volume for volume in stage.ground.volumes(stage.stack) if volume["status"] != "deleting"]
    assert [volume["id"] for volume in left] == [made[0].id], "the others go, however long the cloud takes for it"
    await one.nothing(doors[0])
    assert stage.left_over() == []


async def test_the_first_to_give_the_port_its_security_group_has_decided(stage: Stage) -> None:
    one, doors = stage.instance(), [stage.door(), stage.door()]
    stage.proxy.decide = once(
        lambda asked: asked.method == "PUT" and re.fullmatch(r"ports/[^/]+", asked.path) is not None, Fault(after=2.0),
    )

    def group() -> list[str]:
        port = stage.ground.neutron("ports", stage.stack)[0]
        found: list[str] = port["security_group_ids" if "security_group_ids" in port else "security_groups"]
        return found

    working = [asyncio.create_task(door.ensure_port(one.tags, network=one.network, address=None)) for door in doors]
    done, _ = await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
    assert all(task.exception() is None for task in done)
    decided = group()
    await asyncio.gather(*working, return_exceptions=True)
    assert group() == decided
    await reached(lambda: doors[0].ensure_port(one.tags, network=one.network, address=None))
    assert [found["id"] for found in stage.ground.neutron("security_groups", stage.stack)] == group() == decided
    await one.nothing(doors[0])
    assert stage.left_over() == []


async def test_a_token_that_expires_in_the_middle(stage: Stage) -> None:
    cloud, one = stage.door(), stage.instance()
    expired: set[int] = set()

    def decide(asked: Asked) -> Fault | None:
        if asked.number % 4 or asked.number in expired:
            return None
        expired.add(asked.number)
        return Fault(status=401, body={"error": {"message": "The request you have made requires authentication."}})

    stage.proxy.decide = decide
    await one.everything(cloud)
    assert stage.proxy.signed_in > 5
    await one.nothing(cloud)
    assert stage.left_over() == []


async def test_keystone_is_away_or_does_not_know_us(stage: Stage) -> None:
    cloud = stage.door()
    real = stage.proxy.bases["identity"]
    stage.proxy.bases["identity"] = "http://127.0.0.1:9"
    with pytest.raises(CloudBusy):
        await cloud.machines()
    stage.proxy.bases["identity"] = real
    assert await cloud.machines() == {}
    wrong = stage.door(clouds_file=with_password(stage.clouds, "not-the-password"))
    with pytest.raises(CloudBusy) as busy:
        await wrong.machines()
    assert "credentials" in str(busy.value)
    assert "not-the-password" not in str(busy.value)
    before = stage.proxy.signed_in
    for _ in range(5):
        with pytest.raises(CloudBusy):
            await wrong.machines()
    assert stage.proxy.signed_in == before, "a wrong password is not tried again at once: accounts get locked"


async def test_a_slow_cloud_never_blocks_the_loop(stage: Stage) -> None:
    patience = stage.ground.patience
    cloud = stage.door(call_seconds=patience, threads=2)
    await cloud.machines()
    stage.proxy.decide = lambda _asked: Fault(after=patience + 1)
    longest, going = 0.0, True

    async def beat() -> None:
        nonlocal longest
        loop = asyncio.get_running_loop()
        while going:
            began = loop.time()
            await asyncio.sleep(0.01)
            longest = max(longest, loop.time() - began)

    beating = asyncio.create_task(beat())
    began = asyncio.get_running_loop().time()
    said = await asyncio.gather(*(cloud.machines() for _ in range(12)), return_exceptions=True)
    took = asyncio.get_running_loop().time() - began
    going = False
    await beating
    assert {type(one) for one in said} == {CloudBusy}
    assert took < patience + 1, "the deadline counts from the call, also for those that wait for a thread"
    assert longest < 1.0
    stage.proxy.clear()
    await reached(cloud.machines)


async def test_no_secret_in_errors(stage: Stage) -> None:
    cloud, one = stage.door(), stage.instance()
    echoed: list[str] = []

    def decide(asked: Asked) -> Fault | None:
        if asked.method == "POST" and asked.path == "servers":
            echoed.append("c2VjcmV0")
            return Fault(status=400, body={"badRequest": {"code": 400, "message": (
                "Invalid input for field/attribute user_data. Value: c2VjcmV0. 'c2VjcmV0' is too long"
            )}})
        return None

    stage.proxy.decide = decide
    with pytest.raises(CloudRefused) as refused:
        await one.everything(cloud)
    assert echoed
    assert "c2VjcmV0" not in str(refused.value)
    assert "user_data" in str(refused.value)
    stage.proxy.clear()
    await one.nothing(cloud)
    assert stage.left_over() == []


async def test_a_size_that_no_host_has(stage: Stage) -> None:
    stage.ground.add_flavor(stage.stack)
    cloud, one, size = stage.door(), stage.instance(), Size(stage.stack, 0, 0)
    await one.everything(cloud)
    with pytest.raises(CloudRefused) as refused:
        await reached(lambda: cloud.resize_machine(one.tags, size), lambda m: m.unconfirmed)
    assert refused.value.code == "no_capacity"
    before = len(stage.proxy.asked)
    with pytest.raises(CloudRefused):
        await cloud.resize_machine(one.tags, size)
    again = [asked.path for asked in stage.proxy.asked[before:] if asked.change]
    assert again == [], "asked for once in an operation"
    machine = await cloud.find_machine(one.instance)
    assert machine is not None
    assert machine.state is MachineState.ACTIVE, "it runs as before"
    with pytest.raises(CloudRefused) as refused:
        await cloud.resize_machine(one.tags, Size("no-such-flavor", 0, 0))
    assert refused.value.code == "no_flavor"
    await one.nothing(cloud)

    other = stage.instance()
    port = await reached(lambda: cloud.ensure_port(other.tags, network=other.network, address=None))
    spec = other.spec(port, await other.volume(cloud), flavor=stage.stack)
    failed = await reached(lambda: cloud.ensure_machine(spec), lambda m: m.state is MachineState.ERROR)
    assert "No valid host" in failed.fault
    assert await cloud.ensure_machine(spec) == failed, "reported, not made anew"
    await other.nothing(cloud)
    assert stage.left_over() == []
