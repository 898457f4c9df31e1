"""The whole agent against a control plane on a real nats-server; only the machine under it is in memory."""

from __future__ import annotations

import base64
import ssl
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from coffer_shared import nkeys
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Accepted, Answer, Cancel, Engine, Probe, Query, Refused
from integration.guest.conftest import Guest
from integration.guest.control_plane import ControlPlane, eventually
from support.nats_server import NatsServer
from unit.guest.fakes import World
from unit.guest.orders import UUID, prepare_args

USERS = [{"name": "ann", "password": "pw1"}]


async def up(plane: ControlPlane, guest: Guest) -> None:
    await guest.start()
    await eventually(lambda: plane.heartbeats)


async def prepared(plane: ControlPlane, guest: Guest) -> None:
    await up(plane, guest)
    assert await plane.start_command("prepare", "prepare", prepare_args(users=USERS)) == Accepted()
    await eventually(lambda: plane.ending("prepare"))


async def test_it_enrols_destroys_the_user_data_and_beats(plane: ControlPlane, guest: Guest, tmp_path: Path) -> None:
    await up(plane, guest)
    assert plane.enrolments == ["new"]
    assert not (tmp_path / "user-data.json").exists()
    assert plane.heartbeats[0].engine is Engine.ABSENT
    await eventually(lambda: "Sync" in plane.requests)


async def test_a_lost_answer_and_a_crash_while_enrolling_lead_to_the_same_keys(
    plane: ControlPlane, guest: Guest
) -> None:
    plane.deaf.add("enrol")
    await guest.start()
    await eventually(lambda: plane.enrolments)
    await guest.kill()
    plane.deaf.clear()
    await up(plane, guest)
    assert plane.enrolments[0] == "new"
    assert set(plane.enrolments[1:]) == {"again"}
    assert len(plane.guest_keys) == 1


async def test_the_user_data_are_destroyed_also_when_the_crash_came_just_before(
    plane: ControlPlane, guest: Guest, tmp_path: Path
) -> None:
    path = tmp_path / "user-data.json"
    kept = path.read_bytes()
    await up(plane, guest)
    await guest.kill()
    path.write_bytes(kept)
    await guest.start()
    await eventually(lambda: not path.exists())
    assert plane.enrolments == ["new"]


async def test_cloud_inits_copies_are_destroyed_after_the_enrolment_and_at_every_start(
    plane: ControlPlane, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrubs: list[int] = []

    async def scrub() -> None:
        scrubs.append(len(plane.enrolments))
        raise OSError("a dying disk")

    monkeypatch.setattr("coffer_guest.agent.scrub_cloud_init", scrub)
    guest.options = msgspec.structs.replace(guest.options, cloud_init=True)
    plane.deaf.add("enrol")
    await guest.start()
    await eventually(lambda: plane.enrolments)
    assert scrubs == []
    plane.deaf.clear()
    await eventually(lambda: plane.heartbeats)
    assert len(scrubs) == 1
    await guest.kill()
    await guest.start()
    await eventually(lambda: len(scrubs) == 2)
    assert not guest.ended


async def test_a_database_is_prepared_and_everything_is_reported(
    plane: ControlPlane, guest: Guest, world: World
) -> None:
    await prepared(plane, guest)
    ending = plane.ending("prepare")
    assert ending is not None
    assert ending.state == "done"
    assert ending.result == {"engine_version": "1.0", "fs_uuid": UUID}
    assert plane.numbers("prepare") == list(range(ending.n + 1))
    assert ending.n >= 2
    beat = await eventually(lambda: next((b for b in plane.heartbeats if b.engine is Engine.HEALTHY), None))
    assert beat.volume.fs_uuid == UUID
    assert beat.metrics == {"memory_up": 1.0}
    assert beat.engine_version == "1.0"
    answer = await plane.send(Query(name="users", deadline=time.time() + 5), "api")
    assert answer == Answer(result=[{"name": "ann", "host": "%", "databases": []}])


async def test_the_end_of_a_command_and_a_change_of_the_engine_are_told_at_once(
    plane: ControlPlane, guest: Guest, world: World
) -> None:
    guest.options = guest.options.__class__(
        **{name: getattr(guest.options, name) for name in guest.options.__struct_fields__} | {"heartbeat_seconds": 60.0}
    )
    await prepared(plane, guest)
    await eventually(lambda: plane.heartbeats[-1].engine is Engine.HEALTHY and not plane.heartbeats[-1].running, 5)
    world.container = world.container.__class__(exists=True, status="exited", exit_code=137)
    await eventually(lambda: plane.heartbeats[-1].engine is Engine.CRASHED, 5)


async def test_one_operation_sent_many_times_runs_once(plane: ControlPlane, guest: Guest, world: World) -> None:
    await prepared(plane, guest)
    world.calls.clear()
    for _ in range(4):
        assert await plane.start_command("again", "restart") == Accepted()
    await eventually(lambda: plane.ending("again"))
    assert await plane.start_command("again", "restart") == Accepted()
    assert world.calls.count("stop") == 1


async def test_busy_cancel_and_deadline(plane: ControlPlane, guest: Guest, world: World) -> None:
    await prepared(plane, guest)
    world.slow["ensure"] = 60
    await plane.start_command("slow", "restart")
    refused = await plane.start_command("other", "stop")
    assert isinstance(refused, Refused)
    assert refused.code == "busy"
    assert await plane.send(Cancel(op="slow")) == Accepted()
    assert (await eventually(lambda: plane.ending("slow"))).state == "cancelled"
    await plane.start_command("late", "restart", left=0.3)
    assert (await eventually(lambda: plane.ending("late"))).code == "deadline"


async def test_killed_in_the_middle_it_resumes_and_events_have_no_gap(
    plane: ControlPlane, guest: Guest, world: World
) -> None:
    await up(plane, guest)
    world.slow["pull"] = 60
    await plane.start_command("prepare", "prepare", prepare_args(users=USERS))
    await eventually(lambda: "pull" in world.calls)
    await guest.kill()
    world.slow.clear()
    await guest.start()
    ending = await eventually(lambda: plane.ending("prepare"))
    assert ending.state == "done"
    assert plane.numbers("prepare") == list(range(ending.n + 1))
    assert world.secured == 1


async def test_events_wait_for_the_collector_and_come_in_order(plane: ControlPlane, guest: Guest, world: World) -> None:
    await up(plane, guest)
    plane.deaf.add("event")
    await plane.start_command("prepare", "prepare", prepare_args())
    await eventually(lambda: world.secured)
    assert plane.ending("prepare") is None
    plane.deaf.clear()
    await eventually(lambda: plane.ending("prepare"))
    first_seen = list(dict.fromkeys(plane.order))
    assert first_seen == sorted(first_seen)


async def test_the_brokers_death_loses_nothing(
    plane: ControlPlane, guest: Guest, server: NatsServer, world: World
) -> None:
    await up(plane, guest)
    world.slow["pull"] = 0.5
    await plane.start_command("prepare", "prepare", prepare_args())
    server.kill()
    await eventually(lambda: world.secured)
    server.start_again()
    ending = await eventually(lambda: plane.ending("prepare"), 20)
    assert ending.state == "done"
    assert plane.numbers("prepare") == list(range(ending.n + 1))
    seen = len(plane.heartbeats)
    await eventually(lambda: len(plane.heartbeats) > seen)


async def test_a_probe_brings_the_desired_access_to_the_firewall(
    plane: ControlPlane, guest: Guest, world: World
) -> None:
    await prepared(plane, guest)
    plane.allowed = ["192.0.2.0/24"]
    assert await plane.send(Probe()) == Accepted()
    await eventually(lambda: world.rules[-1].allowed == ("192.0.2.0/24",))
    await guest.kill()
    world.rules.clear()
    plane.deaf.add("Sync")
    await guest.start()
    await eventually(lambda: world.rules)
    assert world.rules[0].allowed == ("192.0.2.0/24",)


async def test_an_answer_from_before_a_command_does_not_undo_it(
    plane: ControlPlane, guest: Guest, world: World
) -> None:
    await prepared(plane, guest)
    plane.allowed, plane.slow["Sync"] = ["10.1.0.0/16"], 1.0
    before = plane.requests.count("Sync")
    assert await plane.send(Probe()) == Accepted()
    await eventually(lambda: plane.requests.count("Sync") > before)
    plane.allowed = ["10.2.0.0/16"]
    await plane.start_command("open", "set_access", {"allowed_cidrs": ["10.2.0.0/16"]})
    await eventually(lambda: plane.ending("open"))
    assert world.rules[-1].allowed == ("10.2.0.0/16",)
    await eventually(lambda: plane.requests.count("Sync") > before + 1)
    assert "10.1.0.0/16" not in {cidr for rules in world.rules for cidr in rules.allowed}


async def test_a_short_lived_jwt_is_renewed_in_time_and_the_guest_stays(plane: ControlPlane, guest: Guest) -> None:
    plane.life = 4
    await up(plane, guest)
    boot = plane.heartbeats[0].boot
    await eventually(lambda: plane.requests.count("Renew") >= 3)
    seen = len(plane.heartbeats)
    await eventually(lambda: len(plane.heartbeats) > seen + 2)
    assert plane.heartbeats[-1].boot == boot
    assert isinstance(await plane.send(Query(name="ping", deadline=time.time() + 5)), Answer)


async def test_keys_are_rotated_and_a_rotation_that_was_cut_short_is_repeated_with_the_same_keys(
    plane: ControlPlane, guest: Guest, monkeypatch: Any
) -> None:
    await up(plane, guest)
    monkeypatch.setattr("coffer_guest.keeping._ROTATE_DAYS", 0.0)
    monkeypatch.setattr("coffer_guest.keeping._LOOK_SECONDS", 0.1)
    plane.deaf.add("Rotate")
    await guest.kill()
    await guest.start()
    await eventually(lambda: plane.requests.count("Rotate") >= 1)
    await guest.kill()
    plane.deaf.clear()
    await guest.start()
    await eventually(lambda: len(plane.guest_keys) == 2)
    monkeypatch.setattr("coffer_guest.keeping._ROTATE_DAYS", 30.0)
    seen = len(plane.heartbeats)
    await eventually(lambda: len(plane.heartbeats) > seen + 2)
    assert await plane.send(Query(name="ping", deadline=time.time() + 5)) == Answer(result=True)
    keys = len(plane.guest_keys)
    await guest.kill()
    await guest.start()
    seen = len(plane.heartbeats)
    await eventually(lambda: len(plane.heartbeats) > seen)
    assert len(plane.guest_keys) == keys


async def test_an_expired_jwt_is_issued_anew_at_the_door(
    plane: ControlPlane, guest: Guest, server: NatsServer, tmp_path: Path
) -> None:
    asked: list[dict[str, Any]] = []

    async def renew(request: web.Request) -> web.Response:
        body = await request.json()
        asked.append(body)
        signed = f"coffer-renew:{body['instance']}:{body['at']}".encode()
        nkeys.verify(body["nkey"], signed, base64.b64decode(body["signature"]))
        return web.json_response({"jwt": server.issuer.guest(body["instance"], body["nkey"], 3600)})

    app = web.Application()
    app.router.add_post("/renew", renew)
    runner = web.AppRunner(app)
    await runner.setup()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(server.directory / "cert.pem", server.directory / "key.pem")
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    plane.write_user_data(tmp_path / "user-data.json", renewal_url=f"https://127.0.0.1:{port}/renew")
    plane.life = 1
    try:
        plane.deaf.add("Renew")
        await up(plane, guest)
        await guest.kill()
        end = time.monotonic() + 2
        await eventually(lambda: time.monotonic() > end)
        seen = len(plane.heartbeats)
        await guest.start()
        await eventually(lambda: len(plane.heartbeats) > seen)
        assert asked[0]["instance"] == plane.instance
        assert asked[0]["nkey"] == plane.nkeys[-1]
    finally:
        await runner.cleanup()


async def test_a_wrong_clock_is_corrected(plane: ControlPlane, guest: Guest) -> None:
    plane.clock_offset = 5000.0
    await up(plane, guest)
    await eventually(lambda: abs(plane.heartbeats[-1].at - time.time() - 5000.0) < 5)


async def test_sigterm_stops_the_database_says_so_and_the_next_start_brings_it_back(
    plane: ControlPlane, guest: Guest, world: World
) -> None:
    await prepared(plane, guest)
    await eventually(lambda: plane.heartbeats[-1].engine is Engine.HEALTHY)
    await guest.stop()
    assert not world.container.running
    await eventually(lambda: plane.heartbeats[-1].engine is Engine.STOPPED)
    await guest.start()
    await eventually(lambda: plane.heartbeats[-1].engine is Engine.HEALTHY)
    assert world.container.running


async def test_what_keeps_the_machine_down_is_told(plane: ControlPlane, guest: Guest, world: World) -> None:
    await prepared(plane, guest)
    await guest.stop()
    world.calls.clear()
    world.broken["mount"] = GiveUp("volume", "the volume holds something else")
    await guest.start()
    beat = await eventually(lambda: next((b for b in plane.heartbeats if "something else" in b.detail), None))
    assert beat.engine is not Engine.HEALTHY
    assert "start" not in world.calls


async def test_a_stolen_user_data_file_is_of_no_use(
    plane: ControlPlane, guest: Guest, tmp_path: Path, world: World
) -> None:
    stolen = (tmp_path / "user-data.json").read_bytes()
    await up(plane, guest)
    thief_home = tmp_path / "thief"
    thief_home.mkdir()
    (thief_home / "user-data.json").write_bytes(stolen)
    thief = Guest(thief_home, world)
    await thief.start()
    try:
        await eventually(lambda: "refused" in plane.enrolments)
    finally:
        await thief.kill()
    assert len(plane.guest_keys) == 1
