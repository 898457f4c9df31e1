"""Talking to Swift over HTTP: one request with a token, whoever's it is, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Protocol
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from coffer_shared.errors import GiveUp, TryAgain

CHATTER_LIMIT = 64 * 1024
"""Of answers whose text nobody reads."""
_PASSING = frozenset({401, 408, 409, 429, 498})
"""Beside all of 5xx. 401: a new token did not help; 409: something newer came in between; 498: Swift's own 429."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    whole: bool
    """False: there was more than the limit."""


class Login(Protocol):
    """A user of the store."""

    async def token(self, stale: str | None) -> str:
        """The user's token; another one than `stale`, whose holders all wait for one request. TryAgain, GiveUp."""
        ...


class SwiftHttp:
    """One client, made on the first request. `seconds`: for each answer; `tls`: as aiohttp takes it."""

    def __init__(self, seconds: float, *, tls: SSLContext | bool = True) -> None:
        self._seconds = seconds
        self._tls = tls
        self._client: aiohttp.ClientSession | None = None

    async def ask(
        self, login: Login, method: str, url: str, what: str, *, query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None, limit: int = CHATTER_LIMIT,
    ) -> Answer:
        """One request with a token, which is asked for anew once if it is not taken any more. `url` is encoded."""
        url += f"?{urlencode(query, quote_via=quote)}" if query else ""
        token = await login.token(stale=None)
        for last in (False, True):
            answer = await self.send(method, url, what, {"X-Auth-Token": token, **(headers or {})}, limit)
            if answer.status != 401 or last:
                break
            token = await login.token(stale=token)
        return answer

    async def send(
        self, method: str, url: str, what: str, headers: Mapping[str, str], limit: int = CHATTER_LIMIT,
    ) -> Answer:
        """TryAgain where nothing comes back."""
        if self._client is None:
            # made here because it needs a running loop. Nothing is unpacked on the way: who stores an object may claim
            # anything of it
            self._client = aiohttp.ClientSession(
                auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), headers={"Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None),
            )
        try:
            async with asyncio.timeout(self._seconds):
                address = URL(url, encoded=True)
                async with self._client.request(
                    method, address, headers=headers, allow_redirects=False, ssl=self._tls,
                ) as response:
                    body = await _body(response, limit)
                    return Answer(response.status, response.headers, body[:limit], len(body) <= limit)
        except TimeoutError as error:
            raise TryAgain(f"the object store, while {what}: no answer in time") from error
        except aiohttp.ClientResponseError:
            # the error holds the request, and that holds the token
            raise TryAgain(f"the object store, while {what}: what it answers is not HTTP") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TryAgain(f"the object store, while {what}: it cannot be reached") from error

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def expect(what: str, answer: Answer, *statuses: int) -> None:
    if answer.status in statuses:
        return
    if answer.status in _PASSING or answer.status >= 500:
        raise TryAgain(f"the object store, while {what}: it answered {answer.status}")
    raise GiveUp("storage", f"the object store refused, while {what}: it answered {answer.status}")


async def _body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """All of it, or more than `limit` of it."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)
