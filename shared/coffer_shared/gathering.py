"""Reading many small messages in fewer, larger pieces.

At a thousand messages a second most of a receiver's processor time is being woken for each of them. While that many
come in, the kernel is asked to report the connection readable only when a good deal waits (SO_RCVLOWAT), and a timer
takes what waits every few milliseconds, so nothing waits longer than that. At low rates nothing is changed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

PAUSE = 0.02
"""Seconds a message may wait while there are many."""
MANY = 300.0
"""Messages a second from which on it is worth it."""
_ENOUGH = 64 * 1024
_MEASURE = 0.5


class HasOptions(Protocol):
    """What is used of a socket; event loops give a stand-in for theirs."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


async def gather(connection: HasOptions, received: Callable[[], int]) -> None:
    """Until cancelled, or until the socket is closed. `received` counts the messages so far.

    However it ends, the socket reports single messages again: who retires a connection still waits for its answers.
    """
    with suppress(OSError):  # it is closed
        try:
            await _gather(connection, received)
        finally:
            _report_from(connection, 1)


async def _gather(connection: HasOptions, received: Callable[[], int]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        before = received()
        await asyncio.sleep(_MEASURE)
        while (received() - before) >= MANY * _MEASURE:
            before, until = received(), loop.time() + _MEASURE
            while loop.time() < until:
                _report_from(connection, _ENOUGH)
                await asyncio.sleep(PAUSE)
                _report_from(connection, 1)
                await asyncio.sleep(0)


def _report_from(connection: HasOptions, size: int) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
