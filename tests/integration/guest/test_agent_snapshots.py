"""The whole agent and its snapshots: what crosses the bus, and what an agent's death does to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from coffer_shared.messages import Accepted, Cancel, Denied, Engine
from integration.guest.conftest import Guest
from integration.guest.control_plane import ControlPlane, eventually
from unit.guest.fakes import World
from unit.guest.orders import prepare_args

ARGS = {"seconds": 30}


async def begun(plane: ControlPlane, guest: Guest, world: World) -> None:
    """A snapshot, up to where the agent asks."""
    await guest.start()
    await eventually(lambda: plane.heartbeats)
    assert await plane.start_command("prepare", "prepare", prepare_args()) == Accepted()
    await eventually(lambda: plane.ending("prepare"))
    await eventually(lambda: plane.heartbeats[-1].engine is Engine.HEALTHY)
    assert await plane.start_command("one", "snapshot", ARGS) == Accepted()
    await eventually(lambda: plane.requests.count("Frozen") > 1)
    assert world.frozen


async def test_it_asks_until_the_copy_is_made(plane: ControlPlane, guest: Guest, world: World) -> None:
    await begun(plane, guest, world)
    assert plane.heartbeats[-1].running == ["one"]
    plane.copied.add("one")
    ending = await eventually(lambda: plane.ending("one"))
    assert (ending.state, ending.result) == ("done", {"used_bytes": 100})
    assert not world.frozen


async def test_a_question_without_an_answer_is_asked_again(
    plane: ControlPlane, guest: Guest, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coffer_guest.copies._ANSWER_SECONDS", 0.1)
    await begun(plane, guest, world)
    plane.deaf.add("Frozen")
    asked = plane.requests.count("Frozen")
    await eventually(lambda: plane.requests.count("Frozen") > asked + 2)
    plane.copied.add("one")
    plane.deaf.clear()
    assert (await eventually(lambda: plane.ending("one"))).state == "done"


async def test_a_denial_ends_it(plane: ControlPlane, guest: Guest, world: World) -> None:
    await begun(plane, guest, world)
    plane.denied["one"] = Denied(code="not_found", text="no such operation")
    ending = await eventually(lambda: plane.ending("one"))
    assert (ending.state, ending.code, ending.text) == ("failed", "not_found", "no such operation")
    assert not world.frozen


async def test_cancelled_the_volume_goes_on(plane: ControlPlane, guest: Guest, world: World) -> None:
    await begun(plane, guest, world)
    assert await plane.send(Cancel(op="one")) == Accepted()
    assert (await eventually(lambda: plane.ending("one"))).state == "cancelled"
    assert not world.frozen


async def test_an_agent_that_starts_lets_the_volume_go_before_anything_else(
    plane: ControlPlane, guest: Guest, world: World
) -> None:
    await begun(plane, guest, world)
    await guest.stop()
    assert not world.frozen
    world.frozen = True
    world.calls.clear()
    await guest.start()
    ending = await eventually(lambda: plane.ending("one"))
    assert (ending.state, ending.code) == ("failed", "interrupted")
    assert world.calls[0] == "thaw"
    assert not world.frozen


async def test_a_copied_volume_is_adopted(plane: ControlPlane, guest: Guest, world: World) -> None:
    data = Path(guest.options.engine_data)
    data.mkdir(parents=True)
    (data / "cluster").write_text("precious")
    await guest.start()
    await eventually(lambda: plane.heartbeats)
    assert await plane.start_command("one", "adopt", prepare_args(format=False)) == Accepted()
    ending = await eventually(lambda: plane.ending("one"))
    assert ending.state == "done", ending
    assert world.adoptions == 1
    assert (data / "cluster").read_text() == "precious"
