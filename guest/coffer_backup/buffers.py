"""The few large buffers that a job works with, used again and again: what bounds its memory."""

from __future__ import annotations

import asyncio
import mmap


class Buffers:
    """At most `count` of `size` bytes each. A page costs memory from the first byte that is written to it."""

    def __init__(self, count: int, size: int) -> None:
        self._turns = asyncio.Semaphore(count)
        self._size = size
        self._free: list[memoryview] = []
        self.made = 0

    async def take(self) -> memoryview:
        """Waits until one is free; those who wait are served in order."""
        await self._turns.acquire()
        return self._free.pop() if self._free else self._new()

    def give(self, buffer: memoryview) -> None:
        self._free.append(buffer)
        self._turns.release()

    def _new(self) -> memoryview:
        self.made += 1
        return anonymous(self._size)


def anonymous(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
