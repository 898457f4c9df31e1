"""Refusing commands that were sent before: the guest's side of the sequence numbers in sealed envelopes.

The services' side keeps nothing in memory; there the database makes repeats harmless.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_MICRO = 1_000_000


class Window:
    """Accepts each (sender, sequence) once, if it was sent within `skew` seconds of now and after the floor.

    The caller writes `floor` to disk with its journal, before it answers, and gives it back at the next start. A
    message refused wrongly, because it lost a race with a restart, is sent again by its sender with a new sequence.
    """

    def __init__(
        self,
        floor: int = 0,
        *,
        clock: Callable[[], float] = time.time,
        skew: float = 120.0,
        per_sender: int = 256,
        senders: int = 64,
    ) -> None:
        """`clock` gives unix seconds as the services count them, so after any correction of the guest's own clock."""
        self.floor = floor
        self._barrier = floor
        self._clock = clock
        self._skew = skew
        self._per_sender = per_sender
        self._senders = senders
        self._seen: dict[int, _Seen] = {}

    def accept(self, sender: int, seq: int, *, not_before: float | None = None) -> bool:
        """Whether to act on the message; a second call with the same arguments says no.

        `not_before` (unix seconds) is given for what is not journaled, with the time the process started: no floor on
        disk protects that from being sent again after a restart. It does not raise the floor.
        """
        now = self._clock()
        if seq <= self._barrier or abs(now * _MICRO - seq) > self._skew * _MICRO:
            return False
        if not_before is not None and seq < not_before * _MICRO:
            return False
        seen = self._seen.get(sender)
        if seen is None:
            self._forget_idle(int((now - self._skew) * _MICRO))
            seen = self._seen[sender] = _Seen()
        if not seen.add(seq, self._per_sender):
            return False
        if not_before is None:
            self.floor = max(self.floor, seq)
        return True

    def _forget_idle(self, horizon: int) -> None:
        """Make room for one sender. What is forgotten stays refused, by its age and by the raised barrier."""
        for sender in [sender for sender, seen in self._seen.items() if seen.newest < horizon]:
            self._drop(sender)
        while len(self._seen) >= self._senders:
            self._drop(min(self._seen, key=lambda sender: self._seen[sender].newest))

    def _drop(self, sender: int) -> None:
        self._barrier = max(self._barrier, self._seen.pop(sender).newest)


class _Seen:
    """The latest sequences of one sender; everything up to `_barrier` counts as seen."""

    __slots__ = ("_barrier", "_recent", "newest")

    def __init__(self) -> None:
        self._barrier = 0
        self._recent: set[int] = set()
        self.newest = 0

    def add(self, seq: int, room: int) -> bool:
        if seq <= self._barrier or seq in self._recent:
            return False
        self._recent.add(seq)
        self.newest = max(self.newest, seq)
        if len(self._recent) > room:
            self._barrier = sorted(self._recent)[room // 4]
            self._recent = {kept for kept in self._recent if kept > self._barrier}
        return True
