"""What the agent tells by itself: events of commands, each until acknowledged, and heartbeats, the newest only."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress

import msgspec

from coffer_guest import __version__
from coffer_guest.clock import Clock
from coffer_guest.journal import Journal, Spooled
from coffer_guest.machine import Machine
from coffer_guest.trust import COLLECTOR, Trust
from coffer_shared import log, subjects
from coffer_shared.bus import Backoff, Link, ask_sealed
from coffer_shared.errors import CofferError, GuestSilent, Unavailable
from coffer_shared.messages import Heartbeat, VolumeFacts, decode_noted, encode
from coffer_shared.seal import BadEnvelope, Kind

_log = log.get(__name__)

_ACK_SECONDS = 3.0
_VOLUME_SECONDS = 2.0
_RETRY = Backoff(first=0.5, ceiling=15.0)


class Events:
    """The spool, emptied towards the status-collector. Those of one operation go one after the other."""

    def __init__(self, instance: str, journal: Journal, trust: Trust) -> None:
        self._subject = subjects.event(instance)
        self._journal = journal
        self._trust = trust

    async def send_all(self, link: Link) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            self._journal.pending.clear()
            left = await self._round(link)
            failures = failures + 1 if left else 0
            pause = asyncio.timeout(_RETRY.delay(failures) if left else None)
            with suppress(TimeoutError):
                async with pause:
                    await self._journal.pending.wait()

    async def _round(self, link: Link) -> bool:
        """Send what can be sent. An operation whose event is not taken does not hold up the others."""
        stuck: set[str] = set()
        while waiting := [event for event in await self._journal.unsent() if event.op not in stuck]:
            for event in waiting:
                try:
                    await self._send(link, event)
                except Unavailable:
                    return True
                except (GuestSilent, BadEnvelope, msgspec.DecodeError) as error:
                    stuck.add(event.op)
                    _log.warning("event not acknowledged", operation=event.op, n=event.n, reason=str(error))
        return bool(stuck)

    async def _send(self, link: Link, event: Spooled) -> None:
        raw = await ask_sealed(
            link,
            self._trust.peer(COLLECTOR),
            Kind.EVENT,
            self._subject,
            event.body,
            answer=Kind.RESPONSE,
            timeout=_ACK_SECONDS,
        )
        decode_noted(raw)
        await self._journal.acknowledged(event.op, event.n)


class Heartbeats:
    """Every few seconds, and at once when `beat_soon` says that something changed."""

    def __init__(
        self,
        instance: str,
        machine: Machine,
        trust: Trust,
        clock: Clock,
        running: Callable[[], list[str]],
        *,
        every: float,
    ) -> None:
        self.boot = secrets.token_hex(8)
        self.trouble = ""
        """Why the machine could not be brought up; told instead of the engine's own detail."""
        self._subject = subjects.heartbeat(instance)
        self._machine = machine
        self._trust = trust
        self._clock = clock
        self._running = running
        self._every = every
        self._now = asyncio.Event()

    def beat_soon(self) -> None:
        self._now.set()

    async def send_all(self, link: Link) -> None:
        """Until cancelled."""
        while True:
            self._now.clear()
            try:
                await self.send(link)
            except CofferError as error:
                # The next one tells more than this one would have.
                _log.debug("heartbeat not sent", reason=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every):
                    await self._now.wait()

    async def send(self, link: Link) -> None:
        beat = encode(await self._beat())
        await link.publish(self._subject, self._trust.peer(COLLECTOR).seal(Kind.HEARTBEAT, self._subject, beat))

    async def _beat(self) -> Heartbeat:
        facts = self._machine.monitor.facts
        offset = self._clock.offset
        return Heartbeat(
            at=self._clock.now(),
            version=__version__,
            engine=facts.engine,
            checked_at=facts.checked_at + offset if facts.checked_at else 0.0,
            detail=self.trouble or facts.detail,
            engine_version=facts.version,
            started_at=facts.started_at + offset if facts.started_at else 0.0,
            running=self._running(),
            volume=await self._volume(),
            restart_required=self._machine.waiting,
            metrics=facts.metrics,
            boot=self.boot,
        )

    async def _volume(self) -> VolumeFacts:
        try:
            async with asyncio.timeout(_VOLUME_SECONDS):
                return await self._machine.volume.facts()
        except (TimeoutError, OSError) as error:
            _log.warning("the volume does not answer", reason=str(error))
            return VolumeFacts()
