"""Runs what is due. There is no leader: whoever finds a chore due tries its lock, and who does not get it moves on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import asyncpg

from coffer_backup_scheduler.chores import Chore
from coffer_backup_scheduler.due import after, due, pause
from coffer_db.database import Database
from coffer_shared import log
from coffer_shared.errors import Unavailable

_log = log.get(__name__)

LONGEST_PAUSE = 60.0


class Rounds:
    """`run` until cancelled. Nothing is lost with the process: a chore begun elsewhere finds what is left."""

    def __init__(self, db: Database, chores: Sequence[Chore], *, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._chores = {chore.name: chore for chore in chores}
        self._clock = clock
        self._next: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._runs: Counter[tuple[str, str]] = Counter()
        self._removed: Counter[str] = Counter(dict.fromkeys(self._chores, 0))

    async def run(self) -> None:
        while True:
            await self.turn()
            rhythms = [chore.rhythm for chore in self._chores.values()]
            await asyncio.sleep(pause(rhythms, self._next, self._clock(), LONGEST_PAUSE))

    async def turn(self) -> list[str]:
        """Run everything that is due now, one after the other; their names."""
        names = self._due()
        for name in names:
            chore = self._chores[name]
            outcome = await self._try(chore)
            now = self._clock()
            self._next[name] = after(chore.rhythm, now, worked=outcome != "failed")
            self._runs[name, outcome] += 1
            if outcome == "done":
                self._last[name] = now
        return names

    def due_count(self) -> Mapping[tuple[str, ...], float]:
        return {(): len(self._due())}

    def last_runs(self) -> Mapping[tuple[str, ...], float]:
        return {(name,): at for name, at in self._last.items()}

    def runs(self) -> Mapping[tuple[str, ...], float]:
        return {(name, outcome): count for (name, outcome), count in self._runs.items()}

    def removed(self) -> Mapping[tuple[str, ...], float]:
        return {(name,): count for name, count in self._removed.items()}

    def _due(self) -> list[str]:
        return due([chore.rhythm for chore in self._chores.values()], self._next, self._clock())

    async def _try(self, chore: Chore) -> str:
        try:
            return await self._hold_and_run(chore)
        except (Unavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            _log.warning("chore failed", chore=chore.name, reason=f"{type(error).__name__}: {error}")
            return "failed"

    async def _hold_and_run(self, chore: Chore) -> str:
        """done, or elsewhere when another scheduler is at it. The lock ends with the connection."""
        connection = await self._db.connect_alone()
        try:
            if not await connection.fetchval(_LOCK, chore.name):
                return "elsewhere"
            total = 0
            while count := await chore.batch(connection):
                total += count
                self._removed[chore.name] += count
            _log.info("chore done", chore=chore.name, removed=total)
            return "done"
        finally:
            connection.terminate()


_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('coffer chore ' || $1::text, 0))"
