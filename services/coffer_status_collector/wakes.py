"""Waking operations and the provisioner, off the path of heartbeats and events."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from coffer_shared import log
from coffer_shared.errors import Unavailable

_log = log.get(__name__)

PROGRESS_EVERY = 1.0
_MOST_WAITING = 20_000
_MOST_TOLD = 10_000


class Wakes:
    """A lost wake costs a delay only: the provisioner looks by itself, later."""

    def __init__(
        self,
        mark_due: Callable[[str], Awaitable[None]],
        send: Callable[[str, str], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`mark_due(operation)` has it looked at; `send(instance, operation)` tells the provisioner to do so now."""
        self._mark_due = mark_due
        self._send = send
        self._clock = clock
        self._waiting: dict[tuple[str, str], bool] = {}
        self._some = asyncio.Event()
        self._told: dict[str, float] = {}

    def due(self, instance: str, operation: str) -> None:
        """The operation waits for something that has happened."""
        self._add(instance, operation, mark=True)

    def ended(self, instance: str, operation: str) -> None:
        """The guest's last word on the operation is stored, and the operation is marked as due."""
        self._told.pop(operation, None)
        self._add(instance, operation, mark=False)

    def progress(self, instance: str, operation: str) -> None:
        """At most once a second for one operation."""
        now = self._clock()
        if now < self._told.get(operation, 0.0) + PROGRESS_EVERY:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told = {op: at for op, at in self._told.items() if now < at + PROGRESS_EVERY}
        self._told[operation] = now
        self._add(instance, operation, mark=False)

    async def run(self) -> None:
        while True:
            await self._some.wait()
            self._some.clear()
            while self._waiting:
                (instance, operation), mark = next(iter(self._waiting.items()))
                del self._waiting[instance, operation]
                try:
                    if mark:
                        await self._mark_due(operation)
                    await self._send(instance, operation)
                except Unavailable as error:
                    _log.warning("operation not woken", instance=instance, operation=operation, reason=str(error))

    def _add(self, instance: str, operation: str, *, mark: bool) -> None:
        key = (instance, operation)
        if key in self._waiting or len(self._waiting) < _MOST_WAITING:
            self._waiting[key] = mark or self._waiting.get(key, False)
            self._some.set()
