"""Notifications on one connection that is made again whenever it is lost. What they mean is the callback's affair."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from coffer_shared import log

_log = log.get(__name__)

PROBE_EVERY = 20.0
FIRST_WITHIN = 5.0


class Listener:
    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection[Any]]]) -> None:
        self._connect = connect
        self._callbacks: dict[str, list[Callable[[str], None]]] = {}
        self._connection: asyncpg.Connection[Any] | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def add(self, channel: str, callback: Callable[[str], None]) -> None:
        """Returns when the channel is listened on, or, if the database is away, when that has been tried."""
        first = channel not in self._callbacks
        self._callbacks.setdefault(channel, []).append(callback)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="listen")
        elif first and self._connection is not None:
            with contextlib.suppress(*LOST):  # the next connection listens on every channel
                await self._connection.add_listener(channel, self._heard)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_WITHIN):
                await self._up.wait()

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        missed = False
        pause = 0.1
        while True:
            try:
                connection = await self._connect()
            except LOST as why:
                _log.warning("cannot listen for notifications", why=type(why).__name__, again_in=pause)
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
                missed = True
                continue
            pause = 0.1
            try:
                await self._hold(connection, missed)
            except LOST as why:
                _log.warning("the connection for notifications was lost", why=type(why).__name__)
            finally:
                self._connection = None
                self._up.clear()
                connection.terminate()
            missed = True
            await asyncio.sleep(pause)

    async def _hold(self, connection: asyncpg.Connection[Any], missed: bool) -> None:
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        for channel in list(self._callbacks):
            await connection.add_listener(channel, self._heard)
        self._connection = connection
        self._up.set()
        if missed:
            for callback in [c for some in self._callbacks.values() for c in some]:
                callback("")
        while not gone.is_set():
            try:
                async with asyncio.timeout(PROBE_EVERY):
                    await gone.wait()
            except TimeoutError:
                await connection.execute("SELECT 1")

    def _heard(self, _connection: Any, _pid: int, channel: str, payload: Any) -> None:
        for callback in self._callbacks.get(channel, ()):
            callback(str(payload))


LOST = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
