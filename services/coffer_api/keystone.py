"""Authentication by tokens of Keystone: each is validated there, and what came out is remembered for a short time.

Remembered is who a token belongs to, under a keyed hash of it, never the token. All of it is dropped when Keystone's
list of revocations grows; while that list cannot be had, what is validated is remembered for a few seconds only.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import Scope

from coffer_api.identity import Identity
from coffer_api.keystone_service import Away, Refused, Token
from coffer_api.problems import RETRY, Problem
from coffer_shared import log

QUEUE = 64
"""Validations that may be under way or wait for a thread."""
SIZE = 10_000
"""Tokens that are remembered; as many bad ones."""
BLIND = 5.0
"""Seconds that a token is remembered while revocations cannot be seen."""
BAD = 10.0
"""Seconds that a bad token is remembered."""
SLACK = 60.0
"""Seconds by which Keystone's clock may differ from ours, and an event may be written late."""
_TOKEN = re.compile(rb"[\x21-\x7e]{1,4096}")
_LOG = log.get(__name__)
_V = TypeVar("_V")


class Service(Protocol):
    async def validate(self, token: str) -> Token | None: ...

    async def revocations(self, since: float) -> frozenset[str]: ...


class TokenMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter(
            "coffer_api_tokens_total", "Tokens that came, by what became of them", ("outcome",), registry=registry,
        )
        self.seconds = Histogram(
            "coffer_api_token_validation_duration_seconds", "Time that Keystone took to validate a token",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5), registry=registry,
        )
        self.polls = Counter(
            "coffer_api_revocation_polls_total", "Looks at Keystone's revocations", ("outcome",), registry=registry,
        )
        self.watched = Gauge(
            "coffer_api_revocations_watched", "Whether the last look at Keystone's revocations succeeded",
            registry=registry,
        )
        self.dropped = Counter(
            "coffer_api_tokens_dropped_total", "Times that all remembered tokens were dropped", registry=registry,
        )


@dataclass(frozen=True, slots=True)
class _Remembered:
    token: Token
    since: float
    until: float
    """When the token itself ends. Both on the monotonic clock."""


class KeystoneTokens:
    """`start` begins to watch revocations; before that, memory is short."""

    def __init__(
        self,
        service: Service,
        metrics: TokenMetrics,
        *,
        uri: str,
        remember: float = 60.0,
        poll: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._challenge = {"WWW-Authenticate": f'Keystone uri="{uri}"'}
        self._remember = remember
        self._poll = poll
        self._clock = clock
        self._wall = wall
        self._key = os.urandom(32)
        self._good: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._bad: OrderedDict[bytes, float] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Token | Away | None]] = {}
        self._drops = 0
        self._blind_since = -math.inf
        """Since when revocations cannot be seen; infinity while they can."""
        self._seen: frozenset[str] | None = None
        self._watched: bool | None = None
        """How the last look went."""
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        tasks = [*self._asking.values(), *((self._watching,) if self._watching else ())]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def identify(self, scope: Scope, project: str) -> Identity:
        given = next((value for name, value in scope["headers"] if name == b"x-auth-token"), b"")
        if not _TOKEN.fullmatch(given):
            raise self._unknown("malformed" if given else "missing")
        token = self._remembered(given) or await self._ask(given)
        if token.project != project:
            raise Problem(403, "Access was denied to this resource.")
        return Identity(token.user, project, token.roles)

    def _remembered(self, given: bytes) -> Token | None:
        """Problem 401 for a token that is known to be bad."""
        digest = self._digest(given)
        now = self._clock()
        if self._bad.get(digest, 0.0) > now:
            raise self._unknown("bad_remembered")
        found = self._good.get(digest)
        if found is None:
            return None
        memory = self._remember if found.since < self._blind_since else min(self._remember, BLIND)
        if now >= min(found.until, found.since + memory):
            return None
        self._count("remembered")
        return found.token

    async def _ask(self, given: bytes) -> Token:
        """Requests with the same token share one validation."""
        digest = self._digest(given)
        task = self._asking.get(digest)
        if task is None:
            if len(self._asking) >= QUEUE:
                self._count("overflow")
                raise Problem(503, "Too many sign-ins at a time; try again.", {RETRY: "1"})
            task = asyncio.create_task(self._validate(digest, given.decode()))
            self._asking[digest] = task
        else:
            self._count("shared")
        found = await asyncio.shield(task)
        if isinstance(found, Away):
            raise Problem(503, "The identity service cannot be asked; try again.", {RETRY: "2"})
        if found is None:
            raise self._unknown("bad")
        return found

    async def _validate(self, digest: bytes, token: str) -> Token | Away | None:
        drops, began = self._drops, self._clock()
        try:
            found = await self._service.validate(token)
        except Away as away:
            self._count("unavailable")
            _LOG.warning("no token can be validated", reason=str(away))
            return away
        finally:
            self._asking.pop(digest, None)
        self._metrics.seconds.observe(self._clock() - began)
        if found is None:
            _keep(self._bad, digest, self._clock() + BAD)
            return None
        self._count("validated")
        left = found.expires_at - self._wall()
        # Not when something was revoked while Keystone answered: that may have been this.
        if left > 0 and drops == self._drops:
            _keep(self._good, digest, _Remembered(found, began, began + left))
        return found

    async def _watch(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(self._poll)

    async def _look(self) -> None:
        """Nothing that is remembered is older than `remember`, so what was revoked before that needs no look."""
        try:
            found = await self._service.revocations(self._wall() - self._remember - SLACK)
        except Away as away:
            refused = isinstance(away, Refused)
            self._metrics.polls.labels("refused" if refused else "away").inc()
            self._metrics.watched.set(0)
            if self._watched is not False:
                _LOG.error("revocations of tokens cannot be seen", reason=str(away))
            self._watched = False
            # One who is away revokes nothing: what was remembered before goes on to its end, which is near.
            self._blind_since = -math.inf if refused else min(self._blind_since, self._clock())
        else:
            self._metrics.polls.labels("seen").inc()
            self._metrics.watched.set(1)
            if self._seen is None or found - self._seen:
                self._drop()
            self._blind_since, self._seen = math.inf, found
            self._watched = True

    def _drop(self) -> None:
        self._good.clear()
        self._drops += 1
        self._metrics.dropped.inc()

    def _unknown(self, outcome: str) -> Problem:
        self._count(outcome)
        return Problem(401, "The request you have made requires authentication.", self._challenge)

    def _count(self, outcome: str) -> None:
        self._metrics.tokens.labels(outcome).inc()

    def _digest(self, token: bytes) -> bytes:
        return hashlib.blake2b(token, digest_size=32, key=self._key).digest()


def _keep(memory: OrderedDict[bytes, _V], digest: bytes, value: _V) -> None:
    memory[digest] = value
    memory.move_to_end(digest)
    if len(memory) > SIZE:
        memory.popitem(last=False)
