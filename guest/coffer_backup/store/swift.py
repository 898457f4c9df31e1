"""Swift, by temporary URLs for one prefix (TempURL): an address, and a query string that is the permission.

The query string appears in no text. aiohttp's own error texts are never passed on, since they may hold the address.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from coffer_backup.errors import Damaged, GiveUp
from coffer_backup.store.interface import Grants
from coffer_backup.store.patience import Patience
from coffer_shared.backups import Grant
from coffer_shared.messages import Failure

T = TypeVar("T")
_PIECE = 256 * 1024
_CONNECTIONS = 4
_BUSY = frozenset({408, 422, 429, 498})
"""Tried again, as every 5xx is. 422: what arrived had another checksum. 498: Swift's own "too many requests"."""
_DENIED = frozenset({401, 403})
_MOST_GRANTS = 3
"""So many different grants are refused in a row, then it is not their age."""


class _AgainError(Exception):
    """This attempt failed; another may not. The text holds no address."""


class _DeniedError(Exception):
    """The grant was refused."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Swift:
    def __init__(self, grants: Grants, patience: Patience, say: Callable[[str], None]) -> None:
        self._grants = grants
        self._patience = patience
        self._say = say
        self._succeeded = patience.clock()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            # what is bounded is the time without progress, see `_stalling`
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=patience.stall_seconds),
            headers={"Accept-Encoding": "identity", "User-Agent": "coffer-backup"},
            auto_decompress=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def put(self, name: str, data: bytes | memoryview, md5: str) -> None:
        await self._try(f"storing {name}", lambda grant: self._put(grant, name, memoryview(data), md5))

    async def get(self, name: str, into: memoryview) -> int:
        return await self._try(f"fetching {name}", lambda grant: self._get(grant, name, into))

    async def _put(self, grant: Grant, name: str, data: memoryview, md5: str) -> None:
        async with asyncio.timeout(self._patience.stall_seconds) as stall:
            body = _Pieces(data, lambda: self._moved(stall))
            headers = {"Content-Length": str(len(data)), "ETag": md5, "Content-Type": "application/octet-stream"}
            url = _url(grant, name)
            async with self._session.put(url, data=body, headers=headers, allow_redirects=False) as response:
                _check(response.status, 201)
                if response.headers.get("ETag", "").strip('"') != md5:
                    raise _AgainError("the store holds something else than what was sent")

    async def _get(self, grant: Grant, name: str, into: memoryview) -> int:
        at = 0
        async with asyncio.timeout(self._patience.stall_seconds) as stall:
            async with self._session.get(_url(grant, name), allow_redirects=False) as response:
                if response.status == 404:
                    raise Damaged("there is no such object")
                _check(response.status, 200)
                async for piece in response.content.iter_any():
                    self._moved(stall)
                    if at + len(piece) > len(into):
                        raise Damaged(f"the object is larger than {len(into)} bytes")
                    into[at : at + len(piece)] = piece
                    at += len(piece)
        return at

    async def _try(self, what: str, attempt: Callable[[Grant], Awaitable[T]]) -> T:
        began, failed, denied = self._patience.clock(), 0, 0
        while True:
            grant = self._grants.current()
            try:
                done = await attempt(grant)
            except _DeniedError as error:
                denied += 1
                if denied == _MOST_GRANTS:
                    raise GiveUp(Failure.STORAGE, f"{what}: the store refuses every grant ({error.status})") from None
                self._say(f"the store wants another grant ({error.status})")
                await self._another(grant, what, error.status)
            except (_AgainError, aiohttp.ClientError, OSError) as error:
                why = str(error) if isinstance(error, _AgainError) else f"no connection ({type(error).__name__})"
                without = self._patience.clock() - max(began, self._succeeded)
                if without >= self._patience.seconds:
                    raise GiveUp(Failure.STORAGE, f"{what}: {why}, for {without:.0f} seconds now") from None
                self._say(f"{what}: {why}; trying again")
                await self._patience.sleep(self._patience.pause(failed))
                failed += 1
            else:
                self._succeeded = self._patience.clock()
                self._say("")
                return done

    async def _another(self, refused: Grant, what: str, status: int) -> None:
        """Wait for a grant that is not the refused one."""
        expired = refused.expires_at <= self._patience.now()
        seconds = self._patience.seconds if expired else self._patience.refused_seconds
        began = self._patience.clock()
        while self._grants.current() == refused:
            if self._patience.clock() - began >= seconds:
                how = "expired" if expired else "refused"
                raise GiveUp(Failure.STORAGE, f"{what}: the grant is {how} ({status}) and no other came")
            await self._patience.sleep(self._patience.poll_seconds)

    def _moved(self, stall: asyncio.Timeout) -> None:
        with suppress(RuntimeError):  # it is over, and aiohttp only has not noticed yet
            stall.reschedule(asyncio.get_running_loop().time() + self._patience.stall_seconds)


class _Pieces:
    """A request's body without copies of it. Starts anew whenever it is iterated: aiohttp sends it again by itself
    where a kept connection turns out to be closed."""

    def __init__(self, data: memoryview, moved: Callable[[], None]) -> None:
        self._data = data
        self._moved = moved

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for at in range(0, len(self._data), _PIECE):
            self._moved()
            yield self._data[at : at + _PIECE]


def _url(grant: Grant, name: str) -> URL:
    return URL(f"{grant.url}{quote(name)}?{grant.query}", encoded=True)


def _check(status: int, wanted: int) -> None:
    if status == wanted:
        return
    if status in _DENIED:
        raise _DeniedError(status)
    if status >= 500 or status in _BUSY:
        raise _AgainError(f"the store answers {status}")
    raise GiveUp(Failure.STORAGE, f"the store answers {status}")
