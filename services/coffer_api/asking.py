"""Asking guests: sealed queries over NATS, with the keys that they enrolled with."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any

import msgspec

from coffer_api.metrics import Metrics
from coffer_api.reads import Reads
from coffer_shared import subjects
from coffer_shared.bus import Link, ask_sealed
from coffer_shared.commands import QUERIES
from coffer_shared.errors import GuestSilent, Refused, Unavailable
from coffer_shared.messages import Answer, Query, decode_command_answer, encode
from coffer_shared.messages import Refused as RefusedAnswer
from coffer_shared.seal import BadEnvelope, KeyPair, Kind, Peer

_KEY = "SELECT xpub FROM guests WHERE instance_id = $1 AND xpub IS NOT NULL AND revoked_at IS NULL"
_MOST_PEERS = 10_000


class GuestQueries:
    """`Guests` for handlers (see `reach`)."""

    def __init__(self, link: Link, keys: KeyPair, reads: Reads, metrics: Metrics, *, within: float) -> None:
        self._link = link
        self._keys = keys
        self._reads = reads
        self._metrics = metrics
        self._within = within
        self._peers: OrderedDict[str, tuple[bytes, Peer]] = OrderedDict()

    async def query(self, instance: str, name: str, args: Any = None) -> Any:
        """The result, as the type that `QUERIES` names. GuestSilent, Unavailable, or Refused with the guest's code."""
        outcome = "failed"
        try:
            result = await self._twice(instance, name, args)
            outcome = "answered"
        except GuestSilent:
            outcome = "silent"
            raise
        except Refused:
            outcome = "refused"
            raise
        finally:
            self._metrics.guest_queries.labels(name, outcome).inc()
        return result

    async def _twice(self, instance: str, name: str, args: Any) -> Any:
        """A guest that changed its keys does not hear what is sealed for the old ones: then, once more."""
        known = self._peers.get(instance)
        if known is None:
            return await self._ask(instance, await self._peer(instance), name, args)
        try:
            return await self._ask(instance, known[1], name, args)
        except GuestSilent:
            fresh = await self._peer(instance)
            if fresh is known[1]:
                raise
            return await self._ask(instance, fresh, name, args)

    async def _peer(self, instance: str) -> Peer:
        row = await self._reads.one(_KEY, instance)
        if row is None:
            self._peers.pop(instance, None)
            raise GuestSilent("the guest has not enrolled")
        public = bytes(row["xpub"])
        known = self._peers.get(instance)
        if known is not None and known[0] == public:
            return known[1]
        peer = Peer("server", self._keys, public)
        self._peers[instance] = (public, peer)
        self._peers.move_to_end(instance)
        if len(self._peers) > _MOST_PEERS:
            self._peers.popitem(last=False)
        return peer

    async def _ask(self, instance: str, peer: Peer, name: str, args: Any) -> Any:
        plain = {} if args is None else msgspec.to_builtins(args)
        question = Query(name=name, args=plain, deadline=time.time() + self._within)
        try:
            body = await ask_sealed(
                self._link, peer, Kind.CMD, subjects.command(instance), encode(question),
                answer=Kind.CMD_ANSWER, timeout=self._within,
            )
            answer = decode_command_answer(body)
            if isinstance(answer, RefusedAnswer):
                raise Refused(answer.code, answer.text)
            if not isinstance(answer, Answer):
                raise GuestSilent("the guest answered something else")
            return msgspec.convert(answer.result, QUERIES[name][1])
        except (BadEnvelope, msgspec.DecodeError) as error:
            raise GuestSilent("the guest's answer cannot be understood") from error


class NoGuests:
    """Where there is no NATS."""

    async def query(self, instance: str, name: str, args: Any = None) -> Any:  # noqa: ARG002 - part of the interface
        raise Unavailable("This service is not connected to the guests.")
