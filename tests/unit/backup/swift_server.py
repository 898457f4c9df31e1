"""As much of an object store over HTTP as a grant reaches, with faults on order."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Self

from aiohttp import web
from aiohttp.test_utils import TestServer

from coffer_shared.backups import Grant

Fault = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
SECRET = "temp_url_prefix=i%2Fb%2F&temp_url_sig=5ec4e7"


class SwiftServer:
    """Grants by their query string; which are valid changes with `valid`."""

    def __init__(self, *, keep: bool = True) -> None:
        self.objects: dict[str, bytes] = {}
        self.valid = {f"{SECRET}-0"}
        self.faults: list[Fault] = []
        """Each is for one request, in order; None as an answer: carry on."""
        self.always: Fault | None = None
        self.requests: list[str] = []
        self.received = 0
        self._keep = keep
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._server = TestServer(app)

    async def __aenter__(self) -> Self:
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    def grant(self, number: int = 0, method: str = "PUT", expires_at: float = 1e12) -> Grant:
        url = str(self._server.make_url("/v1/AUTH_p/backups/i/b/"))
        return Grant("swift", url, f"{SECRET}-{number}", method, expires_at)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        name = request.path.partition("/i/b/")[2]
        self.requests.append(f"{request.method} {name}")
        fault = self.faults.pop(0) if self.faults else self.always
        answer = await fault(request) if fault else None
        if answer is not None:
            return answer
        if request.rel_url.raw_query_string not in self.valid:
            return web.Response(status=401)
        if request.method == "GET":
            stored = self.objects.get(name)
            return web.Response(status=404) if stored is None else web.Response(body=stored)
        return await self._put(request, name)

    async def _put(self, request: web.Request, name: str) -> web.Response:
        md5, pieces = hashlib.md5(), []
        async for piece in request.content.iter_any():
            md5.update(piece)
            self.received += len(piece)
            if self._keep:
                pieces.append(piece)
        if request.headers["ETag"] != md5.hexdigest():
            return web.Response(status=422)
        self.objects[name] = b"".join(pieces)
        return web.Response(status=201, headers={"ETag": md5.hexdigest()})


def answering(status: int, **headers: str) -> Fault:
    async def fault(request: web.Request) -> web.StreamResponse | None:
        await request.read()
        return web.Response(status=status, headers=headers)

    return fault


async def dropping(request: web.Request) -> web.StreamResponse | None:
    assert request.transport is not None
    request.transport.abort()
    return None


def reading_then_dropping(size: int) -> Fault:
    async def fault(request: web.Request) -> web.StreamResponse | None:
        await request.content.readexactly(size)
        return await dropping(request)

    return fault


def cutting_short(body: bytes) -> Fault:
    """Half of the answer, then nothing."""

    async def fault(request: web.Request) -> web.StreamResponse | None:
        response = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        await dropping(request)
        return response

    return fault


