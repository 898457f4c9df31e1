"""Whom the agent believes: the newest key set, and the directional keys made from it and the agent's own."""

from __future__ import annotations

import msgspec

from coffer_guest.clock import Clock
from coffer_guest.state import Home, Identity, State
from coffer_shared import log
from coffer_shared.errors import Unavailable
from coffer_shared.keyset import KeySet, ServiceKey, verify
from coffer_shared.seal import KeyPair, Peer, Ring

_log = log.get(__name__)

PROVISIONER = "provisioner"
COLLECTOR = "status-collector"


class Trust:
    def __init__(self, state: State, home: Home, identity: Identity, clock: Clock) -> None:
        """ValueError if the key set at home was not signed by the root at home."""
        self._state = state
        self._home = home
        self._clock = clock
        self._keyset = verify(home.keyset, home.root)
        self._keys: KeyPair = identity.keys
        self._old: KeyPair | None = None
        self.ring = Ring()
        self._fill_ring()

    def sender(self, key_id: int) -> ServiceKey | None:
        """The service whose key an envelope names, if that key is valid now."""
        return self._keyset.find(key_id, self._clock.now())

    def peer(self, service: str) -> Peer:
        """To seal to that service with. Unavailable if the key set names no valid key of it."""
        key = self._keyset.of(service, self._clock.now())
        if key is None:
            raise Unavailable(f"the key set has no valid key of the {service}")
        return Peer("client", self._keys, key.raw)

    async def learn(self, text: str) -> None:
        """Take a newer key set, if it is signed by the pinned root; anything else is ignored."""
        if not text or text == self._home.keyset:
            return
        try:
            newer = verify(text, self._home.root)
        except ValueError as error:
            _log.warning("key set refused", reason=str(error))
            return
        if newer.issued_at <= self._keyset.issued_at:
            return
        self._keyset = newer
        self._home = msgspec.structs.replace(self._home, keyset=text)
        await self._state.set_home(self._home)
        self._fill_ring()
        _log.info("new key set", issued_at=newer.issued_at, keys=len(newer.keys))

    def use(self, identity: Identity) -> None:
        """New keys of the agent's own; what was sealed to the old ones still opens until `forget_old`."""
        self._old, self._keys = self._keys, identity.keys
        self._fill_ring()

    def forget_old(self) -> None:
        self._old = None
        self._fill_ring()

    def _fill_ring(self) -> None:
        own = [self._keys, *([self._old] if self._old else [])]
        self.ring = Ring(*(Peer("client", mine, key.raw) for mine in own for key in self._keyset.keys))


def enrolment_key(keyset: KeySet, now: float) -> ServiceKey:
    """The provisioner's, even if the machine's clock, which nobody has corrected yet, calls it invalid."""
    valid = keyset.of(PROVISIONER, now)
    own = [key for key in keyset.keys if key.service == PROVISIONER]
    if valid is None and not own:
        raise Unavailable("the key set has no key of the provisioner")
    return valid or max(own, key=lambda key: key.not_before)
