"""How many requests a project may make in a minute, for each verb, over all replicas of this service.

The truth is a bucket in PostgreSQL that fills again with time. A replica takes several requests' worth at once when
a project is busy, fewer as the bucket gets low, and one at a time from a quiet project: a busy project costs a
statement for each twenty requests, and what replicas hold unspent never keeps a project from its last requests for
long.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from coffer_api.reads import Reads
from coffer_api.settings import Settings

MINUTE = 60.0
MOST_TAKEN = 20
"""Requests that a replica takes at once at the most, and the part of the bucket, one in ten, that it may take."""
MOST_SHARES = 20_000
KEPT = 5.0
"""Seconds for which a replica may spend what it took."""
_VERBS: Mapping[str, str] = {
    "GET": "GET", "HEAD": "GET", "POST": "POST", "PUT": "PUT", "PATCH": "PUT", "DELETE": "DELETE",
}
_FULL = "least($3::float8, r.tokens + greatest(extract(epoch FROM now() - r.at)::float8, 0) * $3::float8 / 60)"
_TAKEN = f"CASE WHEN {_FULL} < 1 THEN 0 ELSE greatest(1, least(floor({_FULL} / 10), $4::float8)) END"
_TAKE = f"""
    INSERT INTO request_rates AS r (project_id, verb, tokens, taken, at) VALUES ($1, $2, $3::float8 - 1, 1, now())
    ON CONFLICT (project_id, verb) DO UPDATE
        SET tokens = {_FULL} - {_TAKEN}, taken = {_TAKEN}, at = greatest(now(), r.at)
    RETURNING taken, tokens
"""  # noqa: S608 - constants
_LEFT = "SELECT verb, tokens, extract(epoch FROM now() - at)::float8 AS age FROM request_rates WHERE project_id = $1"


@dataclass(slots=True)
class _Share:
    """What this replica may spend of one bucket."""

    tokens: int = 0
    until: float = 0.0
    """When `tokens` lapse; when the bucket was empty, when it is worth asking again."""
    asked: float = -MINUTE
    wanted: int = 1
    empty: bool = False
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Requests that come meanwhile share what is taken."""

    def spend(self, now: float) -> float | None:
        """As `Rates.spend`; None: the bucket must be asked."""
        if now >= self.until:
            self.tokens = 0
            return None
        if self.tokens > 0:
            self.tokens -= 1
            return 0.0
        return self.until - now if self.empty else None


class Rates:
    """The ASGI layer between authentication and the application. 413 with Retry-After beyond the limit, as Trove."""

    def __init__(
        self, app: ASGIApp, reads: Reads, limits: Mapping[str, int], clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._reads = reads
        self._limits = limits
        self._clock = clock
        self._shares: OrderedDict[tuple[str, str], _Share] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        identity = scope.get("identity")
        verb = _VERBS.get(scope.get("method", ""), "")
        limit = self._limits.get(verb, 0)
        if identity is not None and limit > 0:
            wait = await self._spend(identity.project, verb, limit)
            if wait > 0:
                await _refusal(verb, limit, wait)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _spend(self, project: str, verb: str, limit: int) -> float:
        """0 if one more request may be made now, else the seconds until that is worth trying."""
        share = self._share(project, verb)
        found = share.spend(self._clock())
        if found is None:
            async with share.asking:
                while (found := share.spend(self._clock())) is None:
                    await self._take(share, project, verb, limit)
        return found

    async def _take(self, share: _Share, project: str, verb: str, limit: int) -> None:
        now = self._clock()
        share.wanted = min(MOST_TAKEN, share.wanted * 2) if now - share.asked < 1.0 else 1
        share.asked = now
        (row,) = await self._reads.fetch(_TAKE, project, verb, limit, share.wanted)
        share.tokens = int(row["taken"])
        share.empty = share.tokens == 0
        share.until = self._clock() + (max((1.0 - row["tokens"]) * MINUTE / limit, 0.01) if share.empty else KEPT)

    def _share(self, project: str, verb: str) -> _Share:
        key = (project, verb)
        share = self._shares.get(key)
        if share is None:
            share = self._shares[key] = _Share()
            if len(self._shares) > MOST_SHARES:
                self._shares.popitem(last=False)
        else:
            self._shares.move_to_end(key)
        return share


def limits_of(settings: Settings) -> dict[str, int]:
    """Requests per minute, by verb; 0: no limit."""
    return {
        "GET": settings.http_get_rate, "POST": settings.http_post_rate, "PUT": settings.http_put_rate,
        "DELETE": settings.http_delete_rate,
    }


async def describe(reads: Reads, limits: Mapping[str, int], project: str) -> list[dict[str, Any]]:
    """The limits as the list of limits shows them. What replicas took and have not spent counts as spent."""
    limited = {verb: limit for verb, limit in limits.items() if limit > 0}
    rows = await reads.fetch(_LEFT, project) if limited else []
    left = {row["verb"]: row["tokens"] + max(row["age"], 0.0) * limited.get(row["verb"], 0) / MINUTE for row in rows}
    now = datetime.now(UTC)
    found = []
    for verb, limit in limited.items():
        remaining = min(float(limit), left.get(verb, limit))
        wait = 0.0 if remaining >= 1 else (1 - remaining) * MINUTE / limit
        found.append({
            "verb": verb, "value": limit, "remaining": int(remaining), "unit": "MINUTE", "uri": "*", "regex": ".*",
            "nextAvailable": (now + timedelta(seconds=wait)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        })
    return found


def _refusal(verb: str, limit: int, wait: float) -> Response:
    after = str(math.ceil(wait))
    content = {"overLimit": {
        "code": 413, "message": "This request was rate-limited.",
        "details": f"Only {limit} {verb} request(s) can be made to * every minute.", "retryAfter": after,
    }}
    return Response(msgspec.json.encode(content), 413, headers={"Retry-After": after}, media_type="application/json")
