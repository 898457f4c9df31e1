"""The life of a process: run until a signal asks for its end."""

from __future__ import annotations

import asyncio
import signal


async def until_signalled() -> str:
    """Return the name of the first SIGTERM or SIGINT; later ones have their usual effect again."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    name = ""

    def tell(number: signal.Signals) -> None:
        nonlocal name
        name = number.name
        told.set()

    ends = (signal.SIGTERM, signal.SIGINT)
    for number in ends:
        loop.add_signal_handler(number, tell, number)
    await told.wait()
    for number in ends:
        loop.remove_signal_handler(number)
    return name
