"""The collector as a whole, against a real PostgreSQL and a real nats-server."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any
from uuid import uuid4

import pytest

from coffer_shared import subjects
from coffer_shared.errors import GuestSilent
from coffer_shared.messages import Engine, Finished, Progress, VolumeFacts
from coffer_status_collector import instance_metrics
from coffer_status_collector.main import Collector, running
from integration.collector.scene import Scene, until


async def test_heartbeats_are_stored_and_the_newest_wins(scene: Scene) -> None:
    collector = await scene.collector()
    guest = await scene.guest()
    volume = VolumeFacts(total_bytes=1000, used_bytes=7)
    old = guest.sealed(Engine.CRASHED)
    await guest.beat(volume=volume)
    await until(lambda: scene.engine(guest.instance))
    await guest.link.publish(subjects.heartbeat(guest.instance), old)
    await until(lambda: collector.heartbeats.counts["stale"])
    ((engine, facts),) = await scene.rows("SELECT engine, facts FROM heartbeats")
    assert engine == "healthy"
    assert facts["volume"] == {"total_bytes": 1000, "used_bytes": 7}


async def test_the_same_heartbeat_again_changes_nothing(scene: Scene) -> None:
    """Somebody at the broker sends what a guest sent before."""
    collector = await scene.collector()
    guest = await scene.guest()
    starting = await guest.beat(Engine.STARTING)
    await until(lambda: scene.engine(guest.instance))
    await guest.beat(Engine.HEALTHY)
    await until(lambda: _is(scene, guest.instance, "healthy"))
    for _ in range(5):
        await guest.link.publish(subjects.heartbeat(guest.instance), starting)
    await until(lambda: collector.heartbeats.counts["stale"])
    assert await scene.engine(guest.instance) == "healthy"


async def test_a_change_is_stored_and_wakes_the_operation_at_once(scene: Scene) -> None:
    await scene.collector()
    await scene.listen_as_provisioner()
    guest = await scene.guest()
    operation = await scene.operation(guest.instance)
    await guest.beat(Engine.STARTING)
    await until(lambda: scene.engine(guest.instance))
    await until(lambda: scene.woken)
    await scene.run("UPDATE operations SET wake_at = now() + interval '1 hour'")
    scene.woken.clear()
    took: list[float] = []
    for engine in (Engine.HEALTHY, Engine.CRASHED, Engine.HEALTHY, Engine.UNHEALTHY, Engine.HEALTHY):
        began = time.monotonic()
        await guest.beat(engine)
        await until(lambda: scene.woken)
        took.append(time.monotonic() - began)
        scene.woken.clear()
    ((due,),) = await scene.rows("SELECT wake_at <= now() FROM operations WHERE id = :id", id=operation)
    assert due
    assert sorted(took)[2] < 0.3  # far below the second for which others wait


async def test_without_an_open_operation_nobody_is_woken(scene: Scene) -> None:
    await scene.collector()
    await scene.listen_as_provisioner()
    quiet, waiting = await scene.guest(), await scene.guest()
    await scene.operation(waiting.instance)
    await quiet.beat()
    await until(lambda: scene.engine(quiet.instance))
    await waiting.beat()
    await until(lambda: scene.woken)
    assert scene.woken == [waiting.instance]


async def test_a_guest_that_enrols_while_the_collector_runs_is_heard_with_its_first_heartbeat(scene: Scene) -> None:
    await scene.collector()
    guest = await scene.guest()
    await guest.beat()
    await until(lambda: scene.engine(guest.instance), within=1.0)


async def test_changed_keys_are_heard_at_once_and_the_old_ones_until_they_are_retired(scene: Scene) -> None:
    collector = await scene.collector()
    guest = await scene.guest()
    await guest.beat(detail="first")
    await until(lambda: scene.engine(guest.instance))
    old = guest.peer
    await scene.run("UPDATE guests SET xpub_old = xpub, xpub = :key", key=guest.change_keys())
    await asyncio.sleep(1.0)  # keys are asked for once a second at most
    await guest.beat(Engine.STARTING)
    await until(lambda: _is(scene, guest.instance, "starting"))
    guest.peer = old
    await guest.beat(Engine.CRASHED)
    await until(lambda: _is(scene, guest.instance, "crashed"))
    await scene.run("UPDATE guests SET xpub_old = NULL")
    await collector.peers.load()
    await guest.beat()
    await until(lambda: collector.heartbeats.counts["received"] == 4 and collector.peers.queries >= 2)
    assert await scene.engine(guest.instance) == "crashed"


@pytest.mark.parametrize("how", ["deleted", "revoked", "never enrolled"])
async def test_who_is_not_a_guest_is_not_stored(scene: Scene, how: str) -> None:
    guest = await scene.guest(enrolled=how != "never enrolled")
    collector = await scene.collector()
    if how == "deleted":  # after its keys were read
        await scene.run("UPDATE instances SET deleted_at = now()")
    elif how == "revoked":
        await scene.run("UPDATE guests SET revoked_at = now()")
        await collector.peers.load()
    for _ in range(10):
        await guest.beat()
    counts = collector.heartbeats.counts
    await until(lambda: counts["gone"] if how == "deleted" else counts["key"])
    assert await scene.rows("SELECT * FROM heartbeats") == []


async def test_events_are_stored_acknowledged_and_wake(scene: Scene) -> None:
    await scene.collector()
    await scene.listen_as_provisioner()
    guest = await scene.guest()
    operation = await scene.operation(guest.instance)
    await scene.run("UPDATE operations SET wake_at = now() + interval '1 hour'")
    await guest.report(Progress(op=operation, n=0, percent=30, text="formatting", at=time.time()))
    await guest.report(Progress(op=operation, n=0, percent=30, text="formatting", at=time.time()))
    await guest.report(Finished(op=operation, n=1, state="done", result={"a": 1}, at=time.time()))
    ((state, result, due),) = await scene.rows(
        "SELECT guest_state, guest_result, wake_at <= now() FROM operations WHERE id = :id", id=operation,
    )
    assert (state, result, due) == ("done", {"a": 1}, True)
    assert len(await scene.rows("SELECT * FROM operation_events")) == 2
    await until(lambda: len(scene.woken) == 2)


async def test_an_event_for_another_instances_operation_is_never_acknowledged(scene: Scene) -> None:
    collector = await scene.collector()
    guest, other = await scene.guest(), await scene.guest()
    operation = await scene.operation(other.instance)
    with pytest.raises(GuestSilent):
        await guest.report(Finished(op=operation, n=0, state="done", at=1.0), timeout=0.3)
    assert collector.events.counts["refused"] == 1
    assert await scene.rows("SELECT * FROM operation_events") == []


async def test_an_event_of_an_operation_that_nobody_knows_is_acknowledged(scene: Scene) -> None:
    await scene.collector()
    guest = await scene.guest()
    await guest.report(Progress(op=str(uuid4()), n=0, at=1.0))


async def test_many_events_at_once_are_few_statements(scene: Scene) -> None:
    collector = await scene.collector()
    guests = [await scene.guest() for _ in range(3)]
    for guest in guests:
        await guest.beat()
    await until(lambda: collector.heartbeats.counts["stored"] == 3)
    filed = [(guest, await scene.operation(guest.instance)) for guest in guests]
    await asyncio.gather(
        *(guest.report(Progress(op=op, n=n, percent=n, at=1.0)) for guest, op in filed for n in range(50)),
    )
    assert len(await scene.rows("SELECT * FROM operation_events")) == 150
    assert collector.events.counts["noted"] == 150
    assert collector.statements < 60


async def test_a_restart_of_the_database_loses_nothing(scene: Scene, postgres: Any) -> None:
    await scene.collector()
    guest = await scene.guest()
    operation = await scene.operation(guest.instance)
    await guest.beat()
    await until(lambda: scene.engine(guest.instance))
    postgres.restart()  # blocks the loop, which the collector must survive too
    await guest.beat(Engine.CRASHED)
    event = Finished(op=operation, n=0, state="failed", code="engine", at=1.0)
    await until(lambda: _reported(guest, event), within=15)
    await until(lambda: _is(scene, guest.instance, "crashed"), within=15)


async def test_a_restart_of_the_broker_is_survived(scene: Scene) -> None:
    collector = await scene.collector()
    guest = await scene.guest()
    await guest.beat()
    await until(lambda: scene.engine(guest.instance))
    scene.nats.kill()
    assert (await scene.get(collector, "/readyz"))[0] in {200, 503}
    await until(lambda: _status(scene, collector, "/readyz", 503), within=15)
    scene.nats.start_again()
    await until(lambda: guest.link.connected and all(link.connected for link in collector.links.values()), within=30)
    await guest.beat(Engine.CRASHED)
    await until(lambda: _is(scene, guest.instance, "crashed"))
    assert await _status(scene, collector, "/readyz", 200)


async def test_what_was_taken_is_written_before_the_end(scene: Scene) -> None:
    guest = await scene.guest()
    async with running(scene.settings) as collector:
        await collector.links["heartbeats"].ready(10)
        await guest.beat(detail="one")
        await until(lambda: scene.engine(guest.instance))
        await guest.beat(detail="two")
        await until(lambda: collector.heartbeats.waiting)
    ((facts,),) = await scene.rows("SELECT facts FROM heartbeats")
    assert facts["detail"] == "two"


async def test_two_collectors_share_the_work_and_show_each_instance_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(instance_metrics, "_PAGE", 2)
    both = [await scene.collector(), await scene.collector()]
    guests = [await scene.guest() for _ in range(8)]
    for guest in guests:
        for _ in range(10):
            await guest.beat(metrics={"pg_up": 1.0})
    await until(lambda: sum(c.heartbeats.counts["received"] for c in both) == 80)
    assert all(c.heartbeats.counts["received"] for c in both)
    await until(lambda: _count(scene, "heartbeats", len(guests)))  # the first ones waited for their keys to be read
    operation = await scene.operation(guests[0].instance)
    await scene.run(
        "UPDATE operations SET state = 'succeeded', created_at = now() - interval '7 s', finished_at = now()"
        " WHERE id = :id", id=operation,
    )
    await scene.operation(guests[0].instance, "restart_instance")
    shards = [await scene.get(c, f"/metrics/instances?shard={n}/2") for n, c in enumerate(both)]
    assert [status for status, _ in shards] == [200, 200]
    text = shards[0][1] + shards[1][1]
    for series in ("coffer_instance_up", "pg_up", "coffer_instance_heartbeat_age_seconds"):
        shown = re.findall(rf'^{series}{{instance="([^"]*)"', text, re.MULTILINE)
        assert sorted(shown) == sorted(guest.instance for guest in guests)
    assert text.count("coffer_operation_duration_seconds_count") == 1
    durations = {'_bucket{kind="create_instance",state="succeeded",le="5.0"} 0', 'le="10.0"} 1', "_count{"}
    assert all(part in text for part in durations)
    assert text.count('coffer_operations_open{kind="restart_instance",state="pending"} 1') == 1


async def test_operations_are_counted_once_however_often_it_is_asked(scene: Scene) -> None:
    collector = await scene.collector()
    guest = await scene.guest()
    for minutes in (30, 0):
        operation = await scene.operation(guest.instance)
        await scene.run(
            "UPDATE operations SET state = 'failed', created_at = now() - make_interval(mins => :m, secs => 2),"
            " finished_at = now() - make_interval(mins => :m) WHERE id = :id", id=operation, m=minutes,
        )
        for _ in range(3):
            _, text = await scene.get(collector, "/metrics/instances")
        assert f'_count{{kind="create_instance",state="failed"}} {2 if minutes == 0 else 1}' in text


async def test_a_shard_that_is_none_is_the_askers_fault(scene: Scene) -> None:
    collector = await scene.collector()
    assert (await scene.get(collector, "/metrics/instances?shard=2/2"))[0] == 400


async def test_the_collectors_own_metrics(scene: Scene) -> None:
    collector = await scene.collector()
    guest = await scene.guest()
    await guest.beat()
    await until(lambda: scene.engine(guest.instance))
    status, text = await scene.get(collector, "/metrics")
    assert status == 200
    assert 'coffer_collector_heartbeats_total{outcome="stored"} 1.0' in text
    assert 'coffer_nats_total{link="heartbeats",what="connects"} 1.0' in text
    assert "coffer_event_loop_lag_seconds" in text
    assert "process_resident_memory_bytes" in text
    assert (await scene.get(collector, "/healthz"))[0] == 200


async def test_silence_is_told_by_one_of_two_and_taken_over(scene: Scene) -> None:
    first, second = await scene.collector(), await scene.collector()
    guest = await scene.guest()
    await guest.beat()
    await until(lambda: scene.engine(guest.instance))
    await first.watch.look()
    await second.watch.look()
    watching = [c for c in (first, second) if c.watch.levels()]
    assert len(watching) == 1
    await scene.run("UPDATE heartbeats SET received_at = now() - interval '100 s'")
    facts = await watching[0].watch.look()
    assert len(facts) == 1
    other = second if watching[0] is first else first
    assert await other.watch.look() == []
    await watching[0].watch_connection.close()
    await until(lambda: _takes_over(other))


async def _count(scene: Scene, table: str, wanted: int) -> bool:
    return len(await scene.rows(f"SELECT 1 FROM {table}")) == wanted


async def _takes_over(collector: Collector) -> bool:
    await collector.watch.look()
    return bool(collector.watch.levels())


async def _is(scene: Scene, instance: str, engine: str) -> bool:
    return await scene.engine(instance) == engine


async def _status(scene: Scene, collector: Collector, path: str, wanted: int) -> bool:
    return (await scene.get(collector, path))[0] == wanted


async def _reported(guest: Any, event: Any) -> bool:
    try:
        await guest.report(event, timeout=1.0)
    except GuestSilent:
        return False
    return True
