"""The outermost ASGI layer: request ids, forgiving paths, metrics, and an answer even when something inside breaks.

It knows nothing of users or resources.
"""

from __future__ import annotations

import re
import time
import uuid
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coffer_api.metrics import Metrics
from coffer_api.problems import Problem, envelope, internal_error
from coffer_shared import log

HEADER = b"x-openstack-request-id"
_SLASHES = re.compile(rb"/{2,}")
_LOG = log.get(__name__)


class Edge:
    """Wraps the whole application. The scope's state carries `request_id`; `segments` are the decoded path parts."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        request_id = f"req-{uuid.uuid4()}"
        scope["request_id"] = request_id
        began = time.perf_counter()
        status = 0
        id_header = (HEADER, request_id.encode())

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), id_header]
            await send(message)

        try:
            _normalise(scope)
            await self._app(scope, receive, send_with_id)
        except Problem as problem:
            await envelope(problem)(scope, receive, send_with_id)
        except Exception:  # noqa: BLE001 - the top of a request: whatever broke, it is answered and the log says why
            _LOG.exception("request failed", request=request_id, method=scope["method"], path=scope["path"])
            if status == 0:
                await envelope(internal_error(request_id))(scope, receive, send_with_id)
        finally:
            self._note(scope, request_id, status, time.perf_counter() - began)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"]
        self._metrics.request(method, route, status, seconds)
        if method in {"GET", "HEAD"} and status < 500:
            return
        _LOG.info(
            "request", request=request_id, method=method, path=scope["path"], status=status,
            milliseconds=round(seconds * 1000, 1), client=(scope.get("client") or ("",))[0],
            user=getattr(scope.get("identity"), "user", ""),
        )


def _normalise(scope: Scope) -> None:
    """Collapse slashes and drop a `.json` suffix; split before decoding, so that an encoded slash stays in its part."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    raw = _SLASHES.sub(b"/", raw.partition(b"?")[0])
    if raw.endswith(b".json") and raw.startswith(b"/v1.0/"):
        raw = raw[: -len(b".json")]
    try:
        text = raw.decode("ascii")
        segments = [unquote(part, errors="strict") for part in text.split("/")[1:]] if "%" in text else None
    except UnicodeDecodeError:
        raise Problem(400, "The path is not valid UTF-8.") from None
    if segments is None:
        scope["segments"] = text.split("/")[1:]
        scope["path"] = text
        return
    if any("\0" in part for part in segments):
        raise Problem(400, "The path holds a NUL character.")
    scope["segments"] = segments
    scope["path"] = "/" + "/".join(part.replace("/", "%2F") for part in segments)
