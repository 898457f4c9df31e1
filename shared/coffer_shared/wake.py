"""Wakes between services: "look at the database now". Lossy by design; the provisioner also looks by itself."""

from __future__ import annotations

from collections.abc import Callable

from coffer_shared import log, subjects
from coffer_shared.bus import Delivery, Link
from coffer_shared.errors import Unavailable
from coffer_shared.keyset import KeySet
from coffer_shared.messages import Wake, decode_wake, encode
from coffer_shared.seal import BadEnvelope, KeyPair, Kind, Peer, Ring

_log = log.get(__name__)
RECEIVER = "provisioner"


class Waker:
    """A service's means to wake the provisioner."""

    def __init__(self, link: Link, keys: KeyPair, provisioner: bytes) -> None:
        self._link = link
        self._peer = Peer("client", keys, provisioner)

    async def wake(self, instance: str, operation: str = "") -> None:
        """Never raises for a broker that is away: the sweep finds the operation a second later."""
        subject = subjects.wake(instance)
        try:
            await self._link.publish(subject, self._peer.seal(Kind.WAKE, subject, encode(Wake(op=operation))))
        except Unavailable as error:
            _log.warning("wake not sent", instance=instance, reason=str(error))


async def receive_wakes(link: Link, keys: KeyPair, trusted: KeySet, woken: Callable[[str], None]) -> None:
    """Call `woken` with the instance id for each wake that a service of the key set sealed; `link.counters` has both
    `wakes` and `wakes_refused`."""
    senders = Ring(*(Peer("server", keys, key.raw) for key in trusted.keys if key.service != RECEIVER))

    def receive(message: Delivery) -> None:
        try:
            _, opened = senders.open(message.subject, message.data, message.reply, (Kind.WAKE,))
            decode_wake(opened.body)
            instance = subjects.instance_of(message.subject)
        except (BadEnvelope, ValueError) as error:
            link.counters["wakes_refused"] += 1
            _log.warning("wake refused", subject=message.subject, reason=str(error))
            return
        link.counters["wakes"] += 1
        woken(instance)

    await link.subscribe_fast(subjects.WAKES, RECEIVER, receive)
