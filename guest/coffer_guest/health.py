"""Is the database well? Asked with a query every few seconds, and at once when Docker reports a change.

A frozen server accepts connections, so only an answer within the time limit counts. One connection is kept and used
again; it is thrown away after any failure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

import aiohttp
from aiodocker.exceptions import DockerError

from coffer_guest.container import Seen
from coffer_guest.containers import Containers
from coffer_shared import log
from coffer_shared.datastore import Driver, EngineError, Health, Order, Session
from coffer_shared.messages import Engine

_log = log.get(__name__)

_QUERY_SECONDS = 5.0
_START_SECONDS = 60.0
"""A running server that has not answered for so long since its start is unhealthy, not starting."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What was last seen."""

    engine: Engine = Engine.ABSENT
    detail: str = ""
    checked_at: float = 0.0
    version: str = ""
    started_at: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)


class Monitor:
    """`facts` is always the newest."""

    def __init__(self, containers: Containers, *, every: float) -> None:
        self.facts = Facts()
        self.changed: Callable[[], None] = lambda: None
        """Called when the engine's state is another than before."""
        self.on_purpose = True
        """Whether a container that does not run was stopped by a command."""
        self.starting = False
        """A command is bringing the engine up."""
        self._containers = containers
        self._every = every
        self._watched: tuple[Driver, Order] | None = None
        self._stack: AsyncExitStack | None = None
        self._session: Session | None = None
        self._failures = 0
        self._answered_since = 0.0
        self._now = asyncio.Event()
        self._lock = asyncio.Lock()

    async def watch(self, driver: Driver, order: Order) -> None:
        async with self._lock:
            await self._hang_up()
            self._watched = (driver, order)
        self._now.set()

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            while True:
                self._now.clear()
                try:
                    await self.check()
                except Exception:  # noqa: BLE001 - the next look may go better, and nobody else looks
                    _log.exception("health check failed")
                try:
                    async with asyncio.timeout(self._every):
                        await self._now.wait()
                except TimeoutError:
                    pass

    async def check(self) -> Facts:
        """Look now. Never raises for what the engine or Docker does."""
        async with self._lock:
            if self._watched is None:
                return self.facts
            self._set(await self._look())
            return self.facts

    async def close(self) -> None:
        await self._hang_up()

    async def _look(self) -> Facts:
        try:
            seen = await self._containers.look()
        except (DockerError, aiohttp.ClientError, OSError) as error:
            # dockerd may be down while the engine runs on: then the query alone says how it is.
            _log.warning("docker does not answer", reason=str(error))
            seen = Seen(exists=True, running=True, started_at=self.facts.started_at)
        if not seen.exists:
            return Facts(Engine.ABSENT)
        if not seen.running:
            await self._hang_up()
            if self.starting and seen.status == "created":
                return Facts(Engine.STARTING)
            if self.on_purpose:
                return Facts(Engine.STOPPED, started_at=seen.started_at)
            why = "it ran out of memory" if seen.out_of_memory else f"exit code {seen.exit_code}"
            return Facts(Engine.CRASHED, f"the database container ended: {why}", started_at=seen.started_at)
        return await self._ask(seen)

    async def _ask(self, seen: Seen) -> Facts:
        health = await self._query()
        now = time.time()
        if health.ok:
            self._failures = 0
            self._answered_since = seen.started_at
            return Facts(Engine.HEALTHY, "", now, health.version, seen.started_at, dict(health.metrics))
        self._failures += 1
        known = replace(self.facts, started_at=seen.started_at, detail=health.detail, metrics={})
        if self._answered_since != seen.started_at and now - seen.started_at < _START_SECONDS:
            return replace(known, engine=Engine.STARTING if self.starting else Engine.RUNNING)
        if self._failures == 1 and self.facts.engine is Engine.HEALTHY:
            # One broken connection says little; the second look follows at once.
            self._now.set()
            return self.facts
        return replace(known, engine=Engine.UNHEALTHY)

    async def _query(self) -> Health:
        assert self._watched is not None
        driver, order = self._watched
        try:
            async with asyncio.timeout(_QUERY_SECONDS):
                if self._session is None:
                    self._stack = AsyncExitStack()
                    self._session = await self._stack.enter_async_context(driver.session(order))
                health = await driver.health(self._session)
        except TimeoutError:
            health = Health(ok=False, detail=f"no answer to a query within {_QUERY_SECONDS:g} s")
        except EngineError as error:
            health = Health(ok=False, detail=error.text)
        except BaseException:
            await self._hang_up()
            raise
        if not health.ok:
            await self._hang_up()
        return health

    async def _hang_up(self) -> None:
        stack, self._stack, self._session = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def _listen(self) -> None:
        while True:
            try:
                async for action in self._containers.changes():
                    _log.debug("container event", action=action)
                    if not action.startswith("exec"):
                        self._now.set()
            except (DockerError, aiohttp.ClientError, OSError):
                pass
            # Nothing is replayed after a gap: look, then listen again.
            self._now.set()
            await asyncio.sleep(1)

    def _set(self, facts: Facts) -> None:
        before, self.facts = self.facts, facts
        if before.engine is not facts.engine:
            _log.info("engine state", was=before.engine.value, now=facts.engine.value, why=facts.detail)
            self.changed()
