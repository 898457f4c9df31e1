"""The whole agent, its backups and restores: what crosses the bus, and what an agent's death does to them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from coffer_shared import backups
from coffer_shared.backups import BackedUp
from coffer_shared.messages import Accepted, Cancel, Denied, Engine, Progress, Refused
from integration.guest.conftest import Guest
from integration.guest.control_plane import ControlPlane, eventually
from unit.guest.fakes import World
from unit.guest.orders import BACKED_UP, backup_args, prepare_args, restore_args
from unit.guest.shots import Shot, all_done, half_done


async def prepared(plane: ControlPlane, guest: Guest) -> None:
    await guest.start()
    await eventually(lambda: plane.heartbeats)
    assert await plane.start_command("prepare", "prepare", prepare_args()) == Accepted()
    await eventually(lambda: plane.ending("prepare"))
    await eventually(lambda: plane.heartbeats[-1].engine is Engine.HEALTHY)


def held(world: World, then: Callable[[Shot], None] = all_done) -> list[bool]:
    """The program waits until something is put into the list."""
    released: list[bool] = []

    def look(shot: Shot) -> None:
        if released:
            then(shot)
        else:
            shot.steps.append(look)

    world.program = (half_done, look)
    return released


def order(plane: ControlPlane, life: float = 30.0) -> dict[str, Any]:
    return backup_args(grant=msgspec.to_builtins(plane.grant(life)))


async def test_a_backup_runs_beside_a_command_and_both_are_told(
    plane: ControlPlane, guest: Guest, world: World
) -> None:
    await prepared(plane, guest)
    released = held(world)
    assert await plane.start_command("one", "backup", order(plane)) == Accepted()
    await eventually(lambda: world.ran)
    world.slow["created_users"] = 0.5
    users = [{"name": "ann", "password": "pw"}]
    assert await plane.start_command("users", "create_users", {"users": users}) == Accepted()
    await eventually(lambda: plane.heartbeats[-1].running == ["users", "one"])
    refused = await plane.start_command("two", "backup", order(plane))
    assert isinstance(refused, Refused)
    assert refused.code == "busy"
    assert "operation one" in refused.text
    assert (await eventually(lambda: plane.ending("users"))).state == "done"
    assert plane.ending("one") is None
    released.append(True)
    ending = await eventually(lambda: plane.ending("one"))
    assert ending.state == "done"
    assert msgspec.convert(ending.result, BackedUp) == BACKED_UP
    assert plane.numbers("one") == list(range(ending.n + 1))
    texts = [event.text for event in plane.events.values() if isinstance(event, Progress) and event.op == "one"]
    assert "reading: 1 of 3 MB" in texts
    await eventually(lambda: plane.heartbeats[-1].running == [])


async def test_the_grant_is_renewed_over_the_bus(plane: ControlPlane, guest: Guest, world: World) -> None:
    await prepared(plane, guest)
    released = held(world)
    given = order(plane, life=2.0)
    await plane.start_command("one", "backup", given)
    await eventually(lambda: plane.requests.count("RenewGrant") == 1)
    (shot,) = world.shots.values()
    newer = await eventually(lambda: shot.read_grant() if shot.read_grant().query != given["grant"]["query"] else None)
    assert 20 < newer.expires_at - time.time() <= 30
    released.append(True)
    assert (await eventually(lambda: plane.ending("one"))).state == "done"
    assert plane.requests.count("RenewGrant") == 1


async def test_a_denied_renewal_and_a_silent_control_plane(
    plane: ControlPlane, guest: Guest, world: World, monkeypatch: Any
) -> None:
    monkeypatch.setattr("coffer_guest.grants._ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("coffer_guest.grants._AGAIN_SECONDS", 0.1)
    await prepared(plane, guest)
    held(world)
    plane.deaf.add("RenewGrant")
    await plane.start_command("one", "backup", order(plane, life=1.0))
    await eventually(lambda: plane.requests.count("RenewGrant") >= 3)
    assert plane.ending("one") is None
    plane.denied["one"] = Denied(code="forbidden", text="no grant for this operation")
    plane.deaf.clear()
    ending = await eventually(lambda: plane.ending("one"))
    assert (ending.state, ending.code, ending.text) == ("failed", "forbidden", "no grant for this operation")
    assert world.shots == {}
    assert world.ready_for == []


async def test_a_killed_agent_takes_its_backup_over_and_a_cancel_ends_it(
    plane: ControlPlane, guest: Guest, world: World
) -> None:
    await prepared(plane, guest)
    held(world)
    await plane.start_command("one", "backup", order(plane))
    await eventually(lambda: world.ran)
    await guest.kill()
    assert [shot.seen.running for shot in world.shots.values()] == [True]
    world.rules.clear()
    seen = len(plane.heartbeats)
    await guest.start()
    await eventually(lambda: any(beat.running == ["one"] for beat in plane.heartbeats[seen:]))
    await eventually(lambda: world.rules)
    assert {rules.storage_port for rules in world.rules} == {8080}
    assert await plane.send(Cancel(op="one")) == Accepted()
    assert (await eventually(lambda: plane.ending("one"))).state == "cancelled"
    assert len(world.ran) == 1
    assert world.shots == {}
    assert world.ready_for == []
    assert world.rules[-1].storage_port == 0


async def test_a_restarted_machine_interrupts_a_backup_and_leaves_nothing(
    plane: ControlPlane, guest: Guest, world: World, monkeypatch: Any
) -> None:
    monkeypatch.setattr("coffer_guest.agent._KEEP_UP_SECONDS", 0.05)
    await prepared(plane, guest)
    held(world)
    await plane.start_command("one", "backup", order(plane))
    await eventually(lambda: world.ran)
    await guest.stop()
    assert world.shots, "the database is stopped, the container is left to its end"
    world.restart_machine(guest.options)
    await guest.start()
    ending = await eventually(lambda: plane.ending("one"))
    assert (ending.state, ending.code) == ("failed", "interrupted")
    await eventually(lambda: not world.ready_for)
    assert world.shots == {}


async def test_a_restore_survives_the_agent(plane: ControlPlane, guest: Guest, world: World) -> None:
    await guest.start()
    await eventually(lambda: plane.heartbeats)
    released = held(world)
    await plane.start_command("one", "restore", restore_args())
    await eventually(lambda: world.ran)
    await guest.kill()
    released.append(True)
    await guest.start()
    assert (await eventually(lambda: plane.ending("one"))).state == "done"
    assert world.started_on == [["part", "whole"]]
    assert not Path(guest.options.restoring).exists()
    raw = b"".join(path.read_bytes() for path in Path(guest.options.state_dir).rglob("*") if path.is_file())
    assert restore_args()["restore"]["key"].encode() not in raw
    assert not (Path(guest.options.jobs_dir) / "one" / backups.JOB).exists()
