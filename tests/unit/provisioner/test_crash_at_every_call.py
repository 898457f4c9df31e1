"""Kill the provisioner before and after every outside call of a plan; it must end done or cleanly undone.

The world outlives the kill, as the cloud, the guest and the rows do; the operation is then taken up from what was last
saved. Nothing here waits: a pause is skipped, and the guest does its part between two turns.
"""

from __future__ import annotations

from typing import Any

import pytest

from coffer_db.operations import Claimed, Saved
from coffer_db.tables import OPEN_STATES, OperationState
from coffer_provisioner.cloud.fake import FakeCloud
from coffer_provisioner.cloud.interface import CloudRefused
from coffer_provisioner.plans import PLANS
from coffer_provisioner.reach import Reach
from coffer_provisioner.turn import job_of, turn
from coffer_shared.errors import GuestSilent
from coffer_shared.messages import Accepted, Refused

INSTANCE = "11111111-1111-4111-8111-111111111111"
MOST_TURNS = 200


class Killed(BaseException):
    """The process is gone: nothing may catch this."""


class Fuse:
    """Kills at the nth outside call, before or after its effect."""

    def __init__(self, at: int | None, *, after: bool) -> None:
        self.at, self.after, self.calls = at, after, 0

    def wrap(self, thing: Any) -> Any:
        fuse = self

        class Fused:
            def __getattr__(self, name: str) -> Any:
                method = getattr(thing, name)

                async def call(*args: Any, **kwargs: Any) -> Any:
                    fuse.calls += 1
                    mine = fuse.calls
                    if mine == fuse.at and not fuse.after:
                        raise Killed
                    result = await method(*args, **kwargs)
                    if mine == fuse.at:
                        raise Killed
                    return result

                return call

        return Fused()


class World:
    """Rows and a guest in memory; the cloud is the fake that passes the cloud's contract suite."""

    def __init__(self, *, doomed: str = "", silent: bool = False) -> None:
        self.cloud = FakeCloud()
        self.doomed, self.silent = doomed, silent
        self.row: dict[str, Any] = {
            "name": "db", "ram_mb": 512, "vcpus": 1.0, "manager": "postgresql", "version": "17", "port": 5432,
            "image": "coffer/postgres:17", "image_digest": "sha256:" + "0" * 64, "volume_gib": 1, "volume_type": None,
            "fs_uuid": INSTANCE, "formatted": False, "started_once": False, "nics": [], "is_public": True,
            "allowed_cidrs": [], "addresses": [], "enrolled": False, "deleted": False, "revoked": False,
        }
        self.operation_row = {"guest_state": "", "guest_code": "", "guest_text": "", "guest_result": {}, "state": ""}
        self.bootstrap = 0
        self.healthy = False
        self.runs = 0

    async def instance(self, instance: str) -> dict[str, Any]:
        return dict(self.row)

    async def set_instance(self, instance: str, **columns: Any) -> None:
        self.row |= columns

    async def heartbeat(self, instance: str) -> dict[str, Any] | None:
        return {"engine": "healthy", "facts": {"boot": "b"}} if self.healthy else None

    async def operation(self, operation: str) -> dict[str, Any]:
        return dict(self.operation_row)

    async def set_guest_state(self, operation: str, state: str) -> None:
        if self.operation_row["guest_state"] not in {"done", "failed", "cancelled"}:
            self.operation_row["guest_state"] = state

    async def revoke_guest(self, instance: str, reason: str) -> None:
        self.row["enrolled"], self.row["revoked"] = False, True

    async def user_data(self, instance: str) -> bytes:
        self.bootstrap += 1
        return b"user data %d" % self.bootstrap

    async def send(self, instance: str, command: Any, *, within: float) -> Any:
        machine = await self.cloud.find_machine(instance)
        if self.silent or machine is None or not self.row["enrolled"]:
            raise GuestSilent("no guest")
        if self.doomed == "prepare":
            return Refused(code="volume", text="the volume is not what was recorded")
        if self.operation_row["guest_state"] != "done":
            self.runs += 1
            self.operation_row["guest_state"] = "done"
            self.healthy = True
        return Accepted()

    async def settle(self) -> None:
        """What happens outside between two turns: a machine that runs enrols its agent."""
        machine = await self.cloud.find_machine(INSTANCE)
        if machine is not None and machine.state == "active" and not self.silent and not self.row["revoked"]:
            self.row["enrolled"] = True


def reach(world: World, fuse: Fuse) -> Reach:
    fused = fuse.wrap(world)
    return Reach(cloud=fuse.wrap(world.cloud), guests=fused, records=fused, identities=fused, registry="registry:5000")


def filed(kind: str) -> Claimed:
    return Claimed(
        id="22222222-2222-4222-8222-222222222222", token="t", instance_id=INSTANCE, project_id="p", user_id="u",
        request_id="", trace="", kind=kind, args={}, secret_args=None, state=OperationState.RUNNING, step="",
        progress=0, attempts=0, context={}, failure_code=None, failure_text=None, failure_step=None,
        cancel_requested=False, seconds_left=1000.0,
    )


async def drive(kind: str, world: World, fuse: Fuse, *, deadline_after: int = MOST_TURNS) -> Claimed:
    """Turn to the end, taking up again after the one kill."""
    plan, claimed = PLANS[kind], filed(kind)
    for number in range(MOST_TURNS):
        left = 1000.0 if number < deadline_after or claimed.undoing else -1.0
        claimed = claimed.after(_same(claimed), Saved(cancel_requested=False, seconds_left=left))
        try:
            turned = await turn(claimed, job_of(claimed, {}), plan, reach(world, fuse))
        except Killed:
            continue
        claimed = claimed.after(turned, Saved(cancel_requested=False, seconds_left=left))
        await world.settle()
        if turned.state not in OPEN_STATES:
            return claimed
    raise AssertionError(f"stuck at {claimed.step} in {claimed.state}")


def _same(claimed: Claimed) -> Any:
    from coffer_db.operations import Turned

    return Turned(state=claimed.state, step=claimed.step, context=claimed.context, attempts=claimed.attempts)


async def calls_of(kind: str, **world: Any) -> int:
    fuse = Fuse(None, after=False)
    made = World(**world)
    if kind == "delete_instance":
        await drive("create_instance", made, Fuse(None, after=False))
        made.operation_row["guest_state"] = ""
    await drive(kind, made, fuse, deadline_after=40)
    return fuse.calls


async def leftovers(world: World) -> list[str]:
    return [r.kind for r in await world.cloud.resources()]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_create_survives_a_kill_at_every_call(after):
    total = await calls_of("create_instance")
    assert total > 20
    for at in range(1, total + 1):
        world = World()
        claimed = await drive("create_instance", world, Fuse(at, after=after))
        assert claimed.state is OperationState.SUCCEEDED, at
        assert world.row["started_once"], at
        assert sorted(a["type"] for a in world.row["addresses"]) == ["private", "public"], at
        assert world.runs == 1, at


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_delete_survives_a_kill_at_every_call(after):
    total = await calls_of("delete_instance")
    assert total > 5
    for at in range(1, total + 1):
        world = World()
        await drive("create_instance", world, Fuse(None, after=False))
        claimed = await drive("delete_instance", world, Fuse(at, after=after))
        assert claimed.state is OperationState.SUCCEEDED, at
        assert await leftovers(world) == [], at
        assert world.row["revoked"], at


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("how", ["prepare", "silent", "volume", "machine"])
async def test_a_doomed_create_is_undone_wherever_it_is_killed(how, after):
    def doomed() -> World:
        world = World(doomed=how, silent=how == "silent")
        if how in {"volume", "machine"}:
            world.cloud.fail_at(f"ensure_{how}", 1000, CloudRefused("quota", "no room"))
        return world

    probe, fuse = doomed(), Fuse(None, after=False)
    claimed = await drive("create_instance", probe, fuse, deadline_after=40)
    assert claimed.state is OperationState.FAILED
    for at in range(1, fuse.calls + 1):
        world = doomed()
        claimed = await drive("create_instance", world, Fuse(at, after=after), deadline_after=40)
        assert claimed.state is OperationState.FAILED, at
        assert await leftovers(world) == [], at
        assert world.row["addresses"] == [], at


async def test_a_volume_that_held_a_database_outlives_a_failed_create():
    world = World()
    world.cloud.fail_at("ensure_public_address", 1000, CloudRefused("no_address", "the pool is empty"))
    claimed = await drive("create_instance", world, Fuse(None, after=False))
    assert claimed.state is OperationState.FAILED
    assert "volume" in await leftovers(world)


async def test_a_create_that_is_still_open_in_a_restored_database_deletes_no_data():
    """The rows are yesterday's: they know nothing of what came of the create. The volume itself does."""
    world = World()
    await drive("create_instance", world, Fuse(None, after=False))
    yesterday = World()
    yesterday.cloud = world.cloud
    yesterday.silent = True
    claimed = await drive("create_instance", yesterday, Fuse(None, after=False), deadline_after=0)
    assert claimed.state is OperationState.FAILED
    assert "volume" in await leftovers(yesterday)
