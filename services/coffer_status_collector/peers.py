"""The keys that guests are heard under, kept per instance so that a heartbeat costs no look-up in the database.

They come in bulk, and singly for an instance whose message names a key that is not known here: it has just enrolled
or changed its keys, or sends junk. A flood of junk is held off the database: few asked for at once, each with growing
pauses, one query for all of them together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from coffer_shared import log
from coffer_shared.errors import Unavailable
from coffer_shared.seal import KeyPair, Peer, Ring
from coffer_status_collector.store import OwnConnection

_log = log.get(__name__)

RELOAD_EVERY = 60.0
ASK_EVERY = 0.02
"""Least pause between two queries for instances asked for."""
_ASK_AT_ONCE = 500
_MOST_ASKED = 2_000
_MOST_WAITING = 8
"""Messages of one instance that wait for its keys."""
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_MOST_PAUSES = 20_000
_PAGE = 2_000

Again = Callable[[], None]


class Keys(Protocol):
    """Public keys of guests that are neither revoked nor of a deleted instance: (instance, present, former)."""

    async def page(self, after: str, limit: int) -> Sequence[tuple[str, bytes, bytes | None]]: ...

    async def some(self, instances: Sequence[str]) -> Sequence[tuple[str, bytes, bytes | None]]: ...


class StoredKeys:
    """`Keys` from the database."""

    def __init__(self, connection: OwnConnection) -> None:
        self._connection = connection

    async def page(self, after: str, limit: int) -> Sequence[tuple[str, bytes, bytes | None]]:
        statement = f"{_KEYS} AND guests.instance_id > $1 ORDER BY guests.instance_id LIMIT $2"
        return [(row[0], row[1], row[2]) for row in await self._connection.fetch(statement, after, limit)]

    async def some(self, instances: Sequence[str]) -> Sequence[tuple[str, bytes, bytes | None]]:
        statement = f"{_KEYS} AND guests.instance_id = ANY($1::text[])"
        return [(row[0], row[1], row[2]) for row in await self._connection.fetch(statement, list(instances))]


class Peers:
    def __init__(self, mine: KeyPair, keys: Keys, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._mine = mine
        self._stored = keys
        self._clock = clock
        self._keys: dict[str, tuple[bytes, bytes | None]] = {}
        self._rings: dict[str, Ring] = {}
        """Made when first needed: an agreement costs as much as ten heartbeats."""
        self._asked: dict[str, list[Again]] = {}
        self._pauses: dict[str, tuple[float, float]] = {}
        """Instance to (not before, next pause)."""
        self._wanted = asyncio.Event()
        self._fresh: set[str] = set()
        self.queries = 0

    def __contains__(self, instance: str) -> bool:
        return instance in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def ring(self, instance: str) -> Ring | None:
        ring = self._rings.get(instance)
        if ring is None and (keys := self._keys.get(instance)) is not None:
            ring = self._rings[instance] = self._make_ring(instance, keys)
        return ring

    def ask(self, instance: str, again: Again) -> bool:
        """Have the instance's keys read, then call `again`. False when it was asked for too often."""
        waiting = self._asked.get(instance)
        if waiting is not None:
            if len(waiting) >= _MOST_WAITING:
                return False
            waiting.append(again)
            return True
        not_before, _ = self._pauses.get(instance, (0.0, 0.0))
        if self._clock() < not_before or len(self._asked) >= _MOST_ASKED:
            return False
        self._asked[instance] = [again]
        self._wanted.set()
        return True

    async def load(self) -> None:
        """All of them, anew."""
        found: dict[str, tuple[bytes, bytes | None]] = {}
        self._fresh.clear()
        after = ""
        while True:
            page = await self._stored.page(after, _PAGE)
            found.update((instance, (key, former)) for instance, key, former in page)
            if len(page) < _PAGE:
                break
            after = page[-1][0]
        for instance in self._fresh:  # read by itself meanwhile, so newer than its page
            found.pop(instance, None)
            if instance in self._keys:
                found[instance] = self._keys[instance]
        for instance, keys in self._keys.items():
            if found.get(instance) != keys:
                self._rings.pop(instance, None)
        self._keys = found
        now = self._clock()
        self._pauses = {i: pause for i, pause in self._pauses.items() if now < pause[0] + _LONGEST_PAUSE}

    async def run(self) -> None:
        """Until cancelled: read what is asked for, and everything from time to time."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reload())
            tasks.create_task(self._read_asked())

    async def _reload(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_EVERY)
            try:
                await self.load()
            except Unavailable as error:
                _log.warning("guest keys not read", reason=str(error))

    async def _read_asked(self) -> None:
        while True:
            await self._wanted.wait()
            some = list(self._asked)[:_ASK_AT_ONCE]
            try:
                await self._read(some)
            except Unavailable as error:
                _log.warning("guest keys not read", reason=str(error))
                await asyncio.sleep(1.0)
            if not self._asked:
                self._wanted.clear()
            await asyncio.sleep(ASK_EVERY)

    async def _read(self, instances: list[str]) -> None:
        self.queries += 1
        found = {instance: (key, former) for instance, key, former in await self._stored.some(instances)}
        for instance in instances:
            keys = found.get(instance)
            if keys != self._keys.get(instance):
                self._rings.pop(instance, None)
            if keys is None:
                self._keys.pop(instance, None)
            else:
                self._keys[instance] = keys
            self._fresh.add(instance)
            self._hold_off(instance)
            for again in self._asked.pop(instance, ()):
                again()

    def _hold_off(self, instance: str) -> None:
        now = self._clock()
        not_before, pause = self._pauses.pop(instance, (0.0, _FIRST_PAUSE))
        if now > not_before + _LONGEST_PAUSE:
            pause = _FIRST_PAUSE
        if len(self._pauses) >= _MOST_PAUSES:
            del self._pauses[next(iter(self._pauses))]
        self._pauses[instance] = (now + pause, min(pause * 2, _LONGEST_PAUSE))

    def _make_ring(self, instance: str, keys: tuple[bytes, bytes | None]) -> Ring:
        ring = Ring()
        for key in keys:
            if key is None:
                continue
            try:
                ring.add(Peer("server", self._mine, key))
            except ValueError:
                _log.warning("unusable key of a guest", instance=instance)
        return ring


_KEYS = (
    "SELECT guests.instance_id, guests.xpub, guests.xpub_old FROM guests "
    "JOIN instances ON instances.id = guests.instance_id "
    "WHERE instances.deleted_at IS NULL AND guests.revoked_at IS NULL AND guests.xpub IS NOT NULL"
)
