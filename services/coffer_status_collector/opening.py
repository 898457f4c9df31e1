"""Opening what guests send: the keys of the instance in the subject, and a count of what is refused and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from coffer_shared import subjects
from coffer_shared.bus import Delivery
from coffer_shared.seal import BadEnvelope, Kind, Peer, Ring, Sealed
from coffer_status_collector.peers import Peers

Opened = Callable[[str, Delivery, Peer, Sealed], None]
_NO_KEYS = Ring()


class Opener:
    def __init__(self, peers: Peers, kind: Kind, counts: Counter[str], opened: Opened) -> None:
        """`opened(instance, message, peer, envelope)` is called for what was sealed by the instance it says."""
        self._peers = peers
        self._kinds = (kind,)
        self._counts = counts
        self._opened = opened

    def take(self, message: Delivery) -> None:
        self._counts["received"] += 1
        try:
            instance = subjects.instance_of(message.subject)
        except ValueError:
            self._counts["subject"] += 1
            return
        self._open(instance, message, again=True)

    def _open(self, instance: str, message: Delivery, *, again: bool) -> None:
        ring = self._peers.ring(instance) or _NO_KEYS
        try:
            peer, envelope = ring.open(message.subject, message.data, message.reply, self._kinds)
        except BadEnvelope as error:
            if error.reason != "key":
                self._counts[error.reason] += 1
            elif not (again and self._peers.ask(instance, lambda: self._open(instance, message, again=False))):
                self._counts["key"] += 1
            return
        self._opened(instance, message, peer, envelope)
