"""A small object store with grants, in memory: what of Swift the program in the container uses."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time

from aiohttp import web

from coffer_shared.backups import Grant


class ObjectStore:
    """`gate` holds up every request while it is not set."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.waiting = 0
        self.denied = 0
        self.life = 30.0
        """Of the grants that are given out from now on."""
        self.renewals: list[str] = []
        self._grants: dict[str, tuple[str, float]] = {}
        self._port = 0

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/v1/{name:.*}", self._serve)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]

    async def close(self) -> None:
        self.gate.set()
        await self._runner.cleanup()

    def grant(self, method: str) -> Grant:
        token, until = secrets.token_hex(8), time.time() + self.life
        self._grants[token] = (method, until)
        return Grant("swift", f"http://127.0.0.1:{self._port}/v1/", f"token={token}", method, until)

    def renew_with(self, method: str) -> Renewal:
        return Renewal(self, method)

    async def reached(self) -> None:
        """Somebody waits at the gate."""
        async with asyncio.timeout(30):
            while not self.waiting:
                await asyncio.sleep(0.02)

    async def _serve(self, request: web.Request) -> web.Response:
        method, until = self._grants.get(request.query.get("token", ""), ("", 0.0))
        if method != request.method or until < time.time():
            self.denied += 1
            return web.Response(status=401)
        body = await request.read()
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        name = request.match_info["name"]
        if request.method == "GET":
            found = self.objects.get(name)
            return web.Response(body=found) if found is not None else web.Response(status=404)
        self.objects[name] = body
        return web.Response(status=201, headers={"ETag": hashlib.md5(body).hexdigest()})


class Renewal:
    def __init__(self, store: ObjectStore, method: str) -> None:
        self._store = store
        self._method = method

    async def __call__(self, operation: str) -> Grant:
        self._store.renewals.append(operation)
        return self._store.grant(self._method)
