"""How long, and how often, an object store is asked again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    seconds: float = 600.0
    """Without any success, until the job fails."""
    refused_seconds: float = 60.0
    """How long another grant is waited for where the refused one has not expired by this machine's clock, which may
    be wrong."""
    stall_seconds: float = 60.0
    """Without one piece moving, until a connection is given up."""
    first_pause: float = 0.5
    longest_pause: float = 15.0
    poll_seconds: float = 0.5
    """Between two looks for another grant."""
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def pause(self, attempt: int) -> float:
        """Before the next attempt, `attempt` (from 0) having failed. Random, so that a store that comes back is not
        asked by everybody at once."""
        limit = min(self.longest_pause, self.first_pause * 2 ** min(attempt, 30))
        return random.uniform(limit / 2, limit)  # noqa: S311 - no secret
