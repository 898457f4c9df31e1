"""Wakes are sent off the path of messages, once for what came twice, and are never worth an error."""

from __future__ import annotations

import asyncio
import contextlib

from coffer_shared.errors import Unavailable
from coffer_status_collector.wakes import Wakes


class Told:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.away = False
        self.wakes = Wakes(self.mark, self.send, clock=lambda: 0.0)

    async def mark(self, operation: str) -> None:
        if self.away:
            raise Unavailable("away")
        self.calls.append(f"mark {operation}")

    async def send(self, instance: str, operation: str) -> None:
        self.calls.append(f"send {instance} {operation}")

    async def run(self) -> list[str]:
        task = asyncio.create_task(self.wakes.run())
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        return self.calls


async def test_due_is_marked_before_it_is_told() -> None:
    told = Told()
    told.wakes.due("i", "o")
    assert await told.run() == ["mark o", "send i o"]


async def test_the_same_twice_is_once_and_keeps_the_mark() -> None:
    told = Told()
    told.wakes.due("i", "o")
    told.wakes.ended("i", "o")
    assert await told.run() == ["mark o", "send i o"]


async def test_an_end_is_marked_by_whoever_stored_it() -> None:
    told = Told()
    told.wakes.ended("i", "o")
    assert await told.run() == ["send i o"]


async def test_a_wake_that_fails_does_not_stop_the_next() -> None:
    told = Told()
    told.away = True
    told.wakes.due("i", "o")
    told.wakes.ended("j", "p")
    assert await told.run() == ["send j p"]
