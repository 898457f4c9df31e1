"""Events of running commands: opened, stored a few milliseconds' worth at a time, acknowledged when stored.

A guest sends an event until it is acknowledged, so whatever goes wrong here is put right by doing nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import msgspec

from coffer_db.guest_events import GuestEvent
from coffer_shared import log, subjects
from coffer_shared.bus import Delivery
from coffer_shared.errors import CofferError, Unavailable
from coffer_shared.messages import Event, Finished, Noted, decode_event, encode
from coffer_shared.seal import Kind, Peer, Sealed
from coffer_status_collector.opening import Opener
from coffer_status_collector.peers import Peers
from coffer_status_collector.wakes import Wakes

_log = log.get(__name__)

BATCH = 500
GATHER = 0.005
MOST_WAITING = 10_000
MOST_OF_ONE = 256
"""Waiting events of one instance, so that none can crowd out the others."""
_LONGEST_PAUSE = 5.0
_NOTED = encode(Noted())
OUTCOMES = (
    "received", "subject", "short", "header", "key", "kind", "tag", "reply", "malformed", "full", "noted", "refused",
    "forgotten", "unstorable", "unanswered",
)

Note = Callable[[Sequence[GuestEvent]], Awaitable[set[tuple[str, int]]]]
Existing = Callable[[Sequence[str]], Awaitable[set[str]]]


@dataclass(frozen=True, slots=True)
class _Received:
    event: GuestEvent
    message: Delivery
    peer: Peer
    message_id: bytes


class Events:
    """`take` on every message; `run` until cancelled; `flush` at the end."""

    def __init__(self, peers: Peers, note: Note, existing: Existing, wakes: Wakes) -> None:
        """`note` stores a batch and says what is stored; `existing` says which of some operations have a row."""
        self.counts: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))
        self._note = note
        self._existing = existing
        self._wakes = wakes
        self._waiting: list[_Received] = []
        self._of: Counter[str] = Counter()
        self._some = asyncio.Event()
        self._opener = Opener(peers, Kind.EVENT, self.counts, self._opened)

    def take(self, message: Delivery) -> None:
        self._opener.take(message)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def run(self) -> None:
        pause = GATHER
        while True:
            await self._some.wait()
            await asyncio.sleep(pause)
            self._some.clear()
            try:
                await self.flush()
            except Unavailable as error:
                pause = min(max(pause * 2, 0.2), _LONGEST_PAUSE)
                _log.warning("events not stored", reason=str(error), waiting=len(self._waiting))
                self._some.set()
            else:
                pause = GATHER

    async def flush(self) -> None:
        """Unavailable if the database is away; what waits then waits on."""
        while self._waiting:
            some, self._waiting = _split(self._waiting)
            try:
                await self._store(some)
            except BaseException:
                self._waiting = some + self._waiting
                raise
            finally:
                self._of = Counter(received.event.instance for received in self._waiting)

    def _opened(self, instance: str, message: Delivery, peer: Peer, envelope: Sealed) -> None:
        if not subjects.reply_allowed(message.subject, message.reply):
            self.counts["reply"] += 1
            return
        try:
            event = _event(instance, decode_event(envelope.body))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.counts["malformed"] += 1
            return
        if len(self._waiting) >= MOST_WAITING or self._of[instance] >= MOST_OF_ONE:
            self.counts["full"] += 1
            return
        self._of[instance] += 1
        self._waiting.append(_Received(event, message, peer, envelope.message_id))
        self._some.set()

    async def _store(self, some: list[_Received]) -> None:
        try:
            noted = await self._note([received.event for received in some])
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001  one bad event must not stop those of other guests: it is found by halving
            if len(some) == 1:
                self.counts["unstorable"] += 1
                _log.exception("an event cannot be stored", instance=some[0].event.instance)
                return
            await self._store(some[: len(some) // 2])
            await self._store(some[len(some) // 2 :])
            return
        left = sorted({r.event.op for r in some if (r.event.op, r.event.n) not in noted})
        known = await self._existing(left) if left else set()
        for received in some:
            if self._settled(received.event, noted, known):
                await self._acknowledge(received)

    def _settled(self, event: GuestEvent, noted: set[tuple[str, int]], known: set[str]) -> bool:
        """Whether the guest may forget the event."""
        if (event.op, event.n) in noted:
            self.counts["noted"] += 1
            if event.kind == "progress":
                self._wakes.progress(event.instance, event.op)
            else:
                self._wakes.ended(event.instance, event.op)
            return True
        if event.op not in known:
            # The operation's row is gone for good, so nobody will ever want this.
            self.counts["forgotten"] += 1
            return True
        self.counts["refused"] += 1
        _log.warning("event refused", instance=event.instance, operation=event.op, n=event.n)
        return False

    async def _acknowledge(self, received: _Received) -> None:
        message = received.message
        try:
            await message.answer(
                received.peer.seal(Kind.RESPONSE, message.reply, _NOTED, message_id=received.message_id),
            )
        except CofferError:
            self.counts["unanswered"] += 1


def _split(waiting: list[_Received]) -> tuple[list[_Received], list[_Received]]:
    """A batch in which an operation is named by one instance only: what is stored is told by operation and number."""
    owner: dict[str, str] = {}
    some: list[_Received] = []
    rest: list[_Received] = []
    for received in waiting:
        event = received.event
        if len(some) < BATCH and owner.setdefault(event.op, event.instance) == event.instance:
            some.append(received)
        else:
            rest.append(received)
    return some, rest


def _event(instance: str, event: Event) -> GuestEvent:
    """ValueError if the operation's id is none."""
    op = subjects.instance_id(event.op)
    if isinstance(event, Finished):
        return GuestEvent(
            instance=instance, op=op, n=event.n, kind=event.state, at=event.at,
            percent=100 if event.state == "done" else 0, text=event.text, code=event.code, result=event.result,
        )
    return GuestEvent(
        instance=instance, op=op, n=event.n, kind="progress", at=event.at, percent=event.percent, text=event.text,
    )
