"""Heartbeats: opened, decoded, the newest kept for up to a second, written a thousand at a time.

A first heartbeat and one that tells of another engine state are written at once, because operations wait for them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import islice

import msgspec

from coffer_shared import log
from coffer_shared.bus import Delivery
from coffer_shared.errors import Unavailable
from coffer_shared.messages import decode_heartbeat, encode
from coffer_shared.seal import Kind, Peer, Sealed
from coffer_status_collector.opening import Opener
from coffer_status_collector.peers import Peers
from coffer_status_collector.store import BadRow, Beat, Turn, Written

_log = log.get(__name__)

BATCH = 1_000
EVERY = 1.0
FULL = 5_000
"""Waiting heartbeats that are written before the second is over."""
SOON = 0.01
"""How long a heartbeat that cannot wait may still wait for others like it."""
AHEAD = 120.0
"""Seconds that a guest's clock may be ahead. What says it is from later is refused: it would block all that follow."""
LARGEST = 32 * 1024
_LONGEST_PAUSE = 5.0

Write = Callable[[Sequence[Beat]], Awaitable[Written]]
OUTCOMES = (
    "received", "subject", "short", "header", "key", "kind", "tag", "malformed", "large", "ahead", "coalesced",
    "stored", "stale", "gone", "unstorable",
)


class Heartbeats:
    """`take` on every message; `run` until cancelled; `flush` at the end."""

    def __init__(
        self,
        peers: Peers,
        write: Write,
        write_urgent: Write,
        turned: Callable[[Sequence[Turn]], None],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Two ways to write, so that what is urgent does not wait for a batch. `turned` must not block."""
        self.counts: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self.failing = False
        """The last attempt to write failed."""
        self.flush_seconds = 0.0
        """How long the last batches took to write."""
        self._peers = peers
        self._clock = clock
        self._turned = turned
        self._engines: dict[str, str] = {}
        self._waiting = _Waiting(self, write)
        self._urgent = _Waiting(self, write_urgent)
        self._full = asyncio.Event()
        self._hurry = asyncio.Event()
        self._quiet_until = 0.0
        self._loop_time = asyncio.get_running_loop().time
        self._opener = Opener(peers, Kind.HEARTBEAT, self.counts, self._opened)

    def take(self, message: Delivery) -> None:
        self._opener.take(message)

    def remember(self, engines: dict[str, str]) -> None:
        """What the stored heartbeats say, so that a start does not take everything for news."""
        self._engines = engines | self._engines

    @property
    def waiting(self) -> int:
        return len(self._waiting.beats) + len(self._urgent.beats)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_often())
            tasks.create_task(self._write_urgent())

    async def flush(self) -> None:
        """Write all that waits; Unavailable if that is not possible."""
        await self._urgent.write()
        await self._waiting.write()

    def _opened(self, instance: str, _message: Delivery, _peer: Peer, envelope: Sealed) -> None:
        if envelope.seq > (self._clock() + AHEAD) * 1_000_000:
            self.counts["ahead"] += 1
            self._tell_ahead(instance)
            return
        if len(envelope.body) > LARGEST:
            self.counts["large"] += 1
            return
        try:
            heartbeat = decode_heartbeat(_without_nul(envelope.body))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.counts["malformed"] += 1
            return
        # Encoded again, so that nothing is stored which was not decoded: the sender may be hostile.
        facts = encode(heartbeat).decode()
        beat = Beat(instance, envelope.seq, self._loop_time(), heartbeat.engine.value, facts)
        if self._engines.get(instance) != beat.engine:
            self._engines[instance] = beat.engine
            self._urgent.add(beat)
            self._hurry.set()
        elif self._waiting.add(beat) >= FULL:
            self._full.set()

    def _tell_ahead(self, instance: str) -> None:
        """Not more often than every ten seconds, whoever it is."""
        now = self._clock()
        if now >= self._quiet_until:
            self._quiet_until = now + 10.0
            _log.warning("a guest's clock is ahead: its heartbeats are refused", instance=instance)

    def note(self, beats: Sequence[Beat], written: Written) -> None:
        self.counts["stored"] += written.stored
        self.counts["gone"] += written.gone
        self.counts["stale"] += len(beats) - written.stored - written.gone
        if written.turns:
            self._turned(written.turns)

    async def _write_often(self) -> None:
        loop = asyncio.get_running_loop()
        pause, forget_at = EVERY, loop.time() + 300
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._full.wait()
            self._full.clear()
            began = loop.time()
            pause = await self._try(self._waiting, pause, EVERY)
            self.flush_seconds = loop.time() - began
            if loop.time() >= forget_at:
                forget_at = loop.time() + 300
                self._engines = {i: engine for i, engine in self._engines.items() if i in self._peers}

    async def _write_urgent(self) -> None:
        pause = SOON
        while True:
            await self._hurry.wait()
            await asyncio.sleep(pause)
            self._hurry.clear()
            pause = await self._try(self._urgent, pause, SOON)
            if self._urgent.beats:
                self._hurry.set()

    async def _try(self, waiting: _Waiting, pause: float, usual: float) -> float:
        """The pause before the next attempt."""
        try:
            await waiting.write()
        except Unavailable as error:
            self.failing = True
            _log.warning("heartbeats not written", reason=str(error), waiting=len(waiting.beats))
            return min(max(pause * 2, 0.2), _LONGEST_PAUSE)
        self.failing = False
        return usual


class _Waiting:
    """The newest heartbeat of each instance, so as many as there are instances at most."""

    def __init__(self, owner: Heartbeats, write: Write) -> None:
        self.beats: dict[str, Beat] = {}
        self._owner = owner
        self._write = write

    def add(self, beat: Beat) -> int:
        other = self.beats.get(beat.instance)
        if other is not None:
            self._owner.counts["coalesced"] += 1
        if other is None or other.seq < beat.seq:
            self.beats[beat.instance] = beat
        return len(self.beats)

    async def write(self) -> None:
        """What could not be written waits on, unless a newer one has come meanwhile."""
        while self.beats:
            some = list(islice(self.beats.values(), BATCH))
            for beat in some:
                del self.beats[beat.instance]
            try:
                await self._write_some(some)
            except BaseException:
                for beat in some:
                    newer = self.beats.get(beat.instance)
                    if newer is None or newer.seq < beat.seq:
                        self.beats[beat.instance] = beat
                raise

    async def _write_some(self, beats: Sequence[Beat]) -> None:
        """One bad row must not hold up the rest: its batch is halved until it stands alone."""
        try:
            written = await self._write(beats)
        except BadRow:
            if len(beats) == 1:
                self._owner.counts["unstorable"] += 1
                _log.warning("a heartbeat cannot be stored", instance=beats[0].instance)
                return
            half = len(beats) // 2
            await self._write_some(beats[:half])
            await self._write_some(beats[half:])
        else:
            self._owner.note(beats, written)


def _without_nul(body: bytes) -> bytes:
    """PostgreSQL holds no NUL in text; the escape, wherever it is not itself escaped, becomes a replacement mark."""
    return _NUL.sub(rb"\1\\ufffd", body) if b"\\u0000" in body else body


_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
