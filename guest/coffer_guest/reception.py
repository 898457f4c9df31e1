"""Commands coming in: whether a message is believed, and what is answered.

In this order: it opens under a key pair of this agent and a service of the key set; that service's key is valid and
may send this kind of message; it was not seen before. Whoever fails the first or the last gets no answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

import aiohttp
import msgspec
from aiodocker.exceptions import DockerError

from coffer_guest.clock import Clock
from coffer_guest.commands import Query as Known
from coffer_guest.keeping import Keeper
from coffer_guest.machine import Machine
from coffer_guest.trust import Trust
from coffer_guest.work import Work
from coffer_shared import log
from coffer_shared.bus import Delivery
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp
from coffer_shared.messages import (
    Accepted,
    Answer,
    Cancel,
    Command,
    CommandAnswer,
    Failure,
    Probe,
    Query,
    Refused,
    Start,
    decode_command,
    encode,
)
from coffer_shared.replay import Window
from coffer_shared.seal import BadEnvelope, Kind, Sealed

_log = log.get(__name__)

_MOST_QUERY_SECONDS = 30.0


class Reception:
    def __init__(
        self,
        trust: Trust,
        work: Work,
        machine: Machine,
        keeper: Keeper,
        queries: Mapping[str, Known],
        clock: Clock,
        *,
        floor: int,
    ) -> None:
        self.dropped: Counter[str] = Counter()
        """Messages that got no answer, by reason."""
        self._trust = trust
        self._work = work
        self._machine = machine
        self._keeper = keeper
        self._queries = queries
        self._clock = clock
        self._window = Window(floor, clock=clock.now)
        self._started = time.monotonic()

    async def receive(self, delivery: Delivery) -> None:
        try:
            peer, sealed = self._trust.ring.open(delivery.subject, delivery.data, delivery.reply, (Kind.CMD,))
        except BadEnvelope as error:
            self.dropped[error.reason] += 1
            return
        answer = await self._answer(sealed)
        if answer is not None and delivery.reply:
            await delivery.answer(
                peer.seal(Kind.CMD_ANSWER, delivery.reply, encode(answer), message_id=sealed.message_id)
            )

    async def _answer(self, sealed: Sealed) -> CommandAnswer | None:
        key = self._trust.sender(sealed.control_key)
        if key is None:
            self.dropped["expired key"] += 1
            return None
        try:
            command = decode_command(sealed.body)
        except msgspec.DecodeError as error:
            return Refused(code=Failure.INVALID, text=str(error))
        tag = str(type(command).__struct_config__.tag)
        if not self._is_new(command, sealed):
            self.dropped["replay"] += 1
            return None
        if tag not in key.kinds:
            _log.warning("forbidden command", service=key.service, kind=tag)
            return Refused(code=Failure.FORBIDDEN, text=f"{key.service} may not send {tag}")
        return await self._act(command)

    def _is_new(self, command: Command, sealed: Sealed) -> bool:
        # What is not journaled has no floor on disk: nothing sent before this process started is believed.
        if isinstance(command, Start | Cancel):
            return self._window.accept(sealed.sender, sealed.seq)
        started = self._clock.now() - (time.monotonic() - self._started)
        return self._window.accept(sealed.sender, sealed.seq, not_before=started)

    async def _act(self, command: Command) -> CommandAnswer:
        match command:
            case Start():
                return await self._work.start(command, self._window.floor)
            case Cancel():
                return await self._work.cancel(command, self._window.floor)
            case Probe():
                self._keeper.sync_soon()
                return Accepted()
            case Query():
                return await self._look(command)

    async def _look(self, query: Query) -> CommandAnswer:
        known = self._queries.get(query.name)
        if known is None:
            return Refused(code=Failure.UNKNOWN_KIND, text=f"this agent does not know {query.name!r}")
        left = min(query.deadline - self._clock.now(), _MOST_QUERY_SECONDS)
        if left <= 0:
            return Refused(code=Failure.DEADLINE, text="the deadline has passed")
        began = time.monotonic()
        try:
            args: object = msgspec.convert(query.args, known.form)
            async with asyncio.timeout(left):
                return Answer(result=await known.look(self._machine, args))
        except msgspec.ValidationError as error:
            return Refused(code=Failure.INVALID, text=str(error))
        except (GiveUp, EngineError) as error:
            return Refused(code=error.code, text=error.text)
        except TimeoutError:
            return Refused(code=Failure.DEADLINE, text=f"no result after {time.monotonic() - began:.1f} s")
        except (DockerError, aiohttp.ClientError, OSError) as error:
            return Refused(code=Failure.INTERNAL, text=str(error))
