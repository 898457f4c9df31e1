"""A proxy between the SDK and an OpenStack, in which tests let the network and the services fail.

It stands before Keystone, Nova, Cinder, Neutron and Glance; `clouds` is a clouds.yaml that leads to it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from aiohttp import web

SERVICES = ("compute", "network", "block_storage", "image")
_HOP_BY_HOP = {"transfer-encoding", "connection", "content-length", "content-encoding", "host", "keep-alive"}


@dataclass(frozen=True)
class Asked:
    """One request, as a fault sees it."""

    number: int
    """Among all but those to Keystone, from 1."""
    change: int
    """Among those that are to change something, from 1; 0 for others."""
    service: str
    method: str
    path: str


@dataclass(frozen=True)
class Fault:
    """What happens to a request. `status` is answered instead of forwarding it."""

    status: int = 0
    body: Any = None
    lost: bool = False
    """It is forwarded, and the answer never comes back: the connection breaks."""
    broken: bool = False
    """The connection breaks before it is forwarded."""
    after: float = 0.0
    """Seconds until any of this, or its being forwarded as usual."""


Decide = Callable[[Asked], Fault | None]


@dataclass
class FaultyProxy:
    """`decide` says of each request what goes wrong; `then` is called after a request was lost."""

    bases: dict[str, str]
    decide: Decide = lambda _asked: None
    then: Callable[[], None] = lambda: None
    hidden_for: float = 0.0
    """Seconds for which what was made is missing in listings."""
    asked: list[Asked] = field(default_factory=list)
    signed_in: int = 0
    port: int = 0
    _made: dict[str, float] = field(default_factory=dict)
    _runner: web.AppRunner | None = None
    _session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 22)
        app.router.add_route("*", "/{service}{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60))

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def clear(self) -> None:
        """No more faults, and counting begins anew."""
        self.decide, self.then, self.hidden_for, self.asked = lambda _asked: None, lambda: None, 0.0, []

    def clouds(self, directory: Path, original: str, cloud: str) -> str:
        """A clouds.yaml with that entry of another one, all of it by way of here."""
        entry = yaml.safe_load(Path(original).read_text(encoding="utf-8"))["clouds"][cloud]
        entry["auth"]["auth_url"] = f"http://127.0.0.1:{self.port}/identity/v3"
        entry["auth_type"] = "v3password"
        for service in SERVICES:
            entry[f"{service}_endpoint_override"] = f"http://127.0.0.1:{self.port}/{service}"
        path = directory / "clouds.yaml"
        path.write_text(yaml.safe_dump({"clouds": {cloud: entry}}), encoding="utf-8")
        return str(path)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        service, path = request.match_info["service"], request.match_info["path"].lstrip("/")
        body = await request.read()
        if service == "identity":
            self.signed_in += request.method == "POST"
            return await self._forward(request, service, path, body)
        if not path:
            # the service's own answer has links that lead past here
            return web.json_response(version_of(service, str(request.url)))
        changes = request.method != "GET" and "os-getConsoleOutput" not in body.decode(errors="replace")
        asked = Asked(
            len(self.asked) + 1, sum(1 for one in self.asked if one.change) + 1 if changes else 0,
            service, request.method, path,
        )
        self.asked.append(asked)
        fault = self.decide(asked) or Fault()
        await asyncio.sleep(fault.after)
        if fault.broken:
            return self._break(request)
        if fault.status:
            return web.json_response(fault.body or {"fault": {"message": "a test says so"}}, status=fault.status)
        answer = await self._forward(request, service, path, body)
        if fault.lost:
            self.then()
            return self._break(request)
        return answer

    async def _forward(self, request: web.Request, service: str, path: str, body: bytes) -> web.Response:
        assert self._session is not None
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _HOP_BY_HOP}
        headers["Accept-Encoding"] = "identity"
        url = f"{self.bases[service].rstrip('/')}/{path}"
        async with self._session.request(
            request.method, url, params=request.query, headers=headers, data=body or None, allow_redirects=False,
        ) as answer:
            content = await answer.read()
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in _HOP_BY_HOP}
            if service != "identity" and request.method == "POST" and answer.status < 300:
                self._note(content)
            elif request.method == "GET" and self.hidden_for and answer.status == 200:
                content = self._without_new(path, content)
            return web.Response(status=answer.status, body=content, headers=kept)

    @staticmethod
    def _break(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    def _note(self, content: bytes) -> None:
        with suppress(ValueError):
            for made in json.loads(content).values():
                if isinstance(made, dict) and isinstance(made.get("id"), str):
                    self._made[made["id"]] = time.monotonic()

    def _without_new(self, path: str, content: bytes) -> bytes:
        """Only listings: what is asked for by its id is there."""
        if re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", path):
            return content
        found = json.loads(content)
        for key, things in found.items():
            if isinstance(things, list):
                found[key] = [t for t in things if not (isinstance(t, dict) and self._is_new(t.get("id")))]
        return json.dumps(found).encode()

    def _is_new(self, identity: object) -> bool:
        return time.monotonic() - self._made.get(str(identity), -1e9) < self.hidden_for


def version_of(service: str, url: str) -> dict[str, Any]:
    """What the SDK learns of a service at its root."""
    number = {"compute": ("v2.1", "2.96"), "block_storage": ("v3.0", "3.71")}.get(service, ("v2.0", ""))
    one = {
        "id": number[0], "status": "CURRENT", "version": number[1], "min_version": "",
        "links": [{"rel": "self", "href": url}],
    }
    return {"version": one} if number[1] else {"versions": [one]}
