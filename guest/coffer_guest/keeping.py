"""Keeping the agent's place: its JWT and keys fresh, its clock right, the desired state known."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import SystemRandom

import msgspec

from coffer_guest import __version__
from coffer_guest.asking import ask_provisioner
from coffer_guest.clock import Clock
from coffer_guest.enrolment import new_identity
from coffer_guest.renewal import re_issue
from coffer_guest.state import Home, Identity, State
from coffer_guest.trust import Trust
from coffer_shared import jwt, log
from coffer_shared.bus import Backoff, Link
from coffer_shared.errors import CofferError, GiveUp, TryAgain
from coffer_shared.messages import (
    Credential,
    Denied,
    Desired,
    Renew,
    Request,
    RequestAnswer,
    Rotate,
    Sync,
)
from coffer_shared.nkeys import NKey

_log = log.get(__name__)
_random = SystemRandom()

_DAY = 86400.0
_ROTATE_DAYS = 30.0
_LOOK_SECONDS = 60.0
"""The longest pause before the clock is looked at again: a machine may be suspended."""
_OFFLINE_LOOK_SECONDS = 2.0
_RETRY = Backoff(first=2.0, ceiling=300.0)


class Keeper:
    """`desired` is awaited with every answer to a `Sync`, and when it was asked for, on the monotonic clock."""

    def __init__(
        self,
        state: State,
        home: Home,
        identity: Identity,
        trust: Trust,
        clock: Clock,
        desired: Callable[[Desired, float], Awaitable[None]],
        *,
        sync_seconds: float,
    ) -> None:
        self.identity = identity
        self._state = state
        self._home = home
        self._trust = trust
        self._clock = clock
        self._desired = desired
        self._sync_seconds = sync_seconds
        self._sync_now = asyncio.Event()
        self._look_now = asyncio.Event()
        self._life = _random.uniform(0.5, 0.75)

    def sync_soon(self) -> None:
        self._sync_now.set()

    def look_soon(self) -> None:
        self._look_now.set()

    async def keep_synced(self, link: Link) -> None:
        """Until cancelled: now, whenever `sync_soon` says so, and every few minutes."""
        failures = 0
        while True:
            self._sync_now.clear()
            try:
                await self.sync(link)
                failures, pause = 0, self._sync_seconds
            except CofferError as error:
                failures += 1
                pause = min(_RETRY.delay(failures), self._sync_seconds)
                _log.warning("desired state not known", reason=str(error))
            await _wait(self._sync_now, pause)

    async def sync(self, link: Link) -> None:
        asked = time.monotonic()
        answer = await self._ask(link, Sync(version=__version__))
        if isinstance(answer, Denied):
            raise GiveUp(answer.code, answer.text)
        if isinstance(answer, Desired):
            await self._believe(answer.now, answer.keyset)
            await self._desired(answer, asked)

    async def keep_fresh(self, link: Link) -> None:
        """Until cancelled: renew the JWT and rotate the keys in time, or get a new JWT at the door when it is late."""
        failures = 0
        while True:
            self._look_now.clear()
            try:
                await self._freshen(link)
                failures, pause = 0, self._until_next_look(link)
            except CofferError as error:
                failures += 1
                pause = _RETRY.delay(failures)
                _log.warning("credential not renewed", reason=str(error), attempt=failures)
            await _wait(self._look_now, pause)

    def _until_next_look(self, link: Link) -> float:
        if not link.connected:
            return _OFFLINE_LOOK_SECONDS
        return min(_LOOK_SECONDS, max(0.1, _renew_at(self.identity.jwt, self._life) - self._clock.now()))

    async def rotate(self, link: Link) -> None:
        """New keys of both sorts. They are stored before they are told, so that a crash repeats the same ones."""
        new = await self._state.next_identity()
        if new is None:
            new = new_identity(self._clock)
            await self._state.set_next_identity(new)
        public = NKey.from_seed(new.seed).public
        answer = await self._ask(link, Rotate(xpub=new.keys.public.hex(), nkey=public))
        credential = _credential(answer, public)
        await self._believe(credential.now, credential.keyset)
        await self._adopt(msgspec.structs.replace(new, jwt=credential.jwt))
        self._trust.use(self.identity)
        await link.reconnect()
        await self.sync(link)  # the first word under the new keys: the control plane forgets the old ones
        self._trust.forget_old()
        _log.info("keys rotated")

    async def _freshen(self, link: Link) -> None:
        now = self._clock.now()
        if not link.connected:
            if link.refused:
                await self._re_issue(link)
        elif now >= self.identity.made_at + _ROTATE_DAYS * _DAY or await self._state.next_identity() is not None:
            await self.rotate(link)
        elif now >= _renew_at(self.identity.jwt, self._life):
            await self._renew(link)

    async def _renew(self, link: Link) -> None:
        public = NKey.from_seed(self.identity.seed).public
        credential = _credential(await self._ask(link, Renew()), public)
        await self._believe(credential.now, credential.keyset)
        await self._adopt(msgspec.structs.replace(self.identity, jwt=credential.jwt))
        await link.reconnect()
        _log.info("credential renewed")

    async def _re_issue(self, link: Link) -> None:
        token = await re_issue(self._home, self.identity, self._clock)
        await self._adopt(msgspec.structs.replace(self.identity, jwt=token))
        _log.info("credential issued anew")
        await link.reconnect()

    async def _adopt(self, identity: Identity) -> None:
        await self._state.set_identity(identity)
        self.identity = identity
        self._life = _random.uniform(0.5, 0.75)

    async def _believe(self, now: float, keyset: str) -> None:
        if self._clock.correct(now):
            await self._state.set_number("clock_offset", self._clock.offset)
        await self._trust.learn(keyset)

    async def _ask(self, link: Link, request: Request) -> RequestAnswer:
        return await ask_provisioner(link, self._trust, self._home.instance, request)


def _credential(answer: RequestAnswer, public: str) -> Credential:
    """The answer, if it is a JWT for that key."""
    if isinstance(answer, Denied):
        raise GiveUp(answer.code, answer.text)
    if not isinstance(answer, Credential):
        raise TryAgain("another kind of answer")
    try:
        subject = jwt.decode(answer.jwt).subject
    except ValueError as error:
        raise TryAgain(str(error)) from error
    if subject != public:
        raise TryAgain("the JWT is for another key")
    return answer


def _renew_at(token: str, life: float) -> float:
    """Once a day, or for short-lived JWTs when half to three quarters of their life is over."""
    claims = jwt.decode(token)
    if not claims.expires_at:
        return float("inf")
    return claims.issued_at + min(_DAY, life * (claims.expires_at - claims.issued_at))


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
