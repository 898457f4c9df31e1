"""What is public: the documents of versions, and whether the service is well."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from coffer_api.call import base_url, reply
from coffer_api.problems import Problem
from coffer_api.settings import Settings

Ready = Callable[[], Awaitable[bool]]
"""Whether requests can be served."""
_ACCEPT = re.compile(r"application/vnd\.openstack\.trove\+json\s*;\s*version=\s*\"?([^\s,;\"]*)", re.IGNORECASE)
_KNOWN = frozenset({"1", "1.0", "v1.0"})
_VERSION = {"id": "v1.0", "status": "CURRENT", "updated": "2012-08-01T00:00:00Z"}


def routes(settings: Settings, ready: Ready) -> list[Route]:
    def version(request: Request, project: str = "") -> dict[str, Any]:
        link = {"rel": "self", "href": f"{base_url(settings, request)}/v1.0/{project}"}
        return {**_VERSION, "links": [link]}

    async def versions(request: Request) -> Response:
        asked = _ACCEPT.search(request.headers.get("accept", ""))
        if asked and asked[1] not in _KNOWN:
            raise Problem(406, f"Version {asked[1][:50]} of the API is not supported.")
        return reply({"versions": [version(request)]})

    async def one_version(request: Request) -> Response:
        """Clients without a catalogue take the project off their endpoint, look here, and put it back on."""
        return reply({"version": version(request)})

    async def of_project(request: Request) -> Response:
        """Clients whose endpoint has the project in it look here too, and go where the link says."""
        return reply({"version": version(request, quote(request.scope["segments"][1], safe=""))})

    async def alive(_request: Request) -> Response:
        return PlainTextResponse("OK")

    async def fit(_request: Request) -> Response:
        return PlainTextResponse("OK") if await ready() else PlainTextResponse("not ready", 503)

    return [
        Route("/", versions), Route("/v1.0", one_version), Route("/v1.0/", one_version),
        Route("/v1.0/{project}", of_project), Route("/v1.0/{project}/", of_project),
        Route("/healthz", alive), Route("/healthcheck", fit), Route("/readyz", fit),
    ]

