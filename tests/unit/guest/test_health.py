"""From what Docker and the query say to the engine's state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coffer_guest.container import Seen
from coffer_guest.health import Monitor
from coffer_shared.datastore import EngineError, Health
from coffer_shared.messages import Engine


class Docker:
    def __init__(self) -> None:
        self.seen: Any = Seen()

    async def look(self) -> Seen:
        if isinstance(self.seen, Exception):
            raise self.seen
        found: Seen = self.seen
        return found


class Server:
    def __init__(self) -> None:
        self.health: Any = Health(ok=True, version="1", metrics={"up": 1.0})
        self.connections = 0
        self.closed = 0

    @asynccontextmanager
    async def session(self, order: Any, *, database: str | None = None) -> AsyncIterator[Any]:
        self.connections += 1
        try:
            yield object()
        finally:
            self.closed += 1

    async def health_of(self) -> Health:
        if isinstance(self.health, Exception):
            raise self.health
        if self.health is None:
            await asyncio.sleep(60)
        found: Health = self.health
        return found


class Driver:
    def __init__(self, server: Server) -> None:
        self.session = server.session
        self._server = server

    async def health(self, session: Any) -> Health:
        return await self._server.health_of()


class Bench:
    def __init__(self) -> None:
        self.docker, self.server = Docker(), Server()
        self.monitor = Monitor(self.docker, every=60)  # type: ignore[arg-type]
        self.monitor.on_purpose = False
        self.told: list[Engine] = []
        self.monitor.changed = lambda: self.told.append(self.monitor.facts.engine)

    async def look(self) -> Engine:
        return (await self.monitor.check()).engine


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.monitor.watch(Driver(made.server), None)  # type: ignore[arg-type]
    return made


def running(seconds: float = 600.0) -> Seen:
    return Seen(exists=True, running=True, status="running", started_at=time.time() - seconds)


async def test_without_a_container_it_is_absent(bench: Bench) -> None:
    assert await bench.look() is Engine.ABSENT


async def test_an_answered_query_is_healthy_and_the_connection_is_kept(bench: Bench) -> None:
    bench.docker.seen = running()
    for _ in range(3):
        assert await bench.look() is Engine.HEALTHY
    assert bench.server.connections == 1
    assert bench.monitor.facts.metrics == {"up": 1.0}
    assert bench.told == [Engine.HEALTHY]


async def test_a_young_server_that_does_not_answer_yet_is_running(bench: Bench) -> None:
    bench.docker.seen = running(2.0)
    bench.server.health = EngineError("not_ready", "starting up")
    assert await bench.look() is Engine.RUNNING
    bench.monitor.starting = True
    assert await bench.look() is Engine.STARTING
    assert bench.monitor.facts.detail == "starting up"


async def test_an_old_server_that_does_not_answer_is_unhealthy(bench: Bench) -> None:
    bench.docker.seen = running()
    bench.server.health = EngineError("not_ready", "refused")
    assert await bench.look() is Engine.UNHEALTHY


async def test_one_broken_connection_is_looked_at_twice_and_thrown_away(bench: Bench) -> None:
    bench.docker.seen = running()
    assert await bench.look() is Engine.HEALTHY
    bench.server.health = EngineError("not_ready", "connection lost")
    assert await bench.look() is Engine.HEALTHY
    assert bench.monitor._now.is_set()
    assert await bench.look() is Engine.UNHEALTHY
    assert bench.server.closed == bench.server.connections == 2
    bench.server.health = Health(ok=True)
    assert await bench.look() is Engine.HEALTHY


async def test_a_frozen_server_is_unhealthy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coffer_guest.health._QUERY_SECONDS", 0.02)
    bench.docker.seen = running()
    bench.server.health = None
    assert await bench.look() is Engine.UNHEALTHY
    assert "no answer" in bench.monitor.facts.detail


async def test_an_unhealthy_answer_counts_as_one(bench: Bench) -> None:
    bench.docker.seen = running()
    bench.server.health = Health(ok=False, detail="does not listen on 10.0.0.5")
    assert await bench.look() is Engine.UNHEALTHY
    assert bench.monitor.facts.detail == "does not listen on 10.0.0.5"


@pytest.mark.parametrize(
    ("on_purpose", "seen", "engine", "detail"),
    [
        (True, Seen(exists=True, status="exited"), Engine.STOPPED, ""),
        (False, Seen(exists=True, status="exited", exit_code=3), Engine.CRASHED, "exit code 3"),
        (False, Seen(exists=True, status="restarting", out_of_memory=True), Engine.CRASHED, "memory"),
    ],
)
async def test_who_stopped_it_tells_stopped_from_crashed(
    bench: Bench, on_purpose: bool, seen: Seen, engine: Engine, detail: str
) -> None:
    bench.monitor.on_purpose = on_purpose
    bench.docker.seen = seen
    assert await bench.look() is engine
    assert detail in bench.monitor.facts.detail


async def test_while_docker_is_away_the_query_alone_decides(bench: Bench) -> None:
    bench.docker.seen = running()
    assert await bench.look() is Engine.HEALTHY
    bench.docker.seen = OSError("no socket")
    assert await bench.look() is Engine.HEALTHY
    bench.server.health = EngineError("not_ready", "gone")
    await bench.look()
    assert await bench.look() is Engine.UNHEALTHY
