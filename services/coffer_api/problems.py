"""What the API answers when it does not do what was asked: one exception, Trove's envelope, Trove's names.

    {"badRequest": {"code": 400, "message": "..."}}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

NAMES: Mapping[int, str] = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    406: "notAcceptable",
    409: "conflict",
    413: "overLimit",
    415: "badMediaType",
    422: "unprocessableEntity",
    500: "instanceFault",
    501: "notImplemented",
    503: "serviceUnavailable",
}


class Problem(Exception):
    """Ends a request with an error. The text goes to the caller, so it never holds a secret."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def bad_request(message: str) -> Problem:
    return Problem(400, message)


def not_found(message: str = "The resource could not be found.") -> Problem:
    return Problem(404, message)


def unprocessable(message: str) -> Problem:
    return Problem(422, message)


def over_limit(message: str) -> Problem:
    return Problem(413, message)


def not_in_this_release(what: str) -> Problem:
    return Problem(501, f"{what} is not implemented in this release.")


def internal_error(request_id: str) -> Problem:
    return Problem(
        500,
        "Internal Server Error. Please keep this ID to help us figure out what went wrong: "
        f"({request_id.removeprefix('req-')}).",
    )


RETRY = "Retry-After"
"""Seconds. python-troveclient fails on it in any error but 413, and tells nothing of the error then, so elsewhere it
goes out under a name of our own."""


def envelope(problem: Problem) -> Response:
    """Statuses without a name of their own in Trove go out under the general name of their class."""
    status = problem.status
    headers = {f"X-Coffer-{k}" if k == RETRY and status != 413 else k: v for k, v in problem.headers.items()}
    name = NAMES.get(status) or ("badRequest" if status < 500 else "instanceFault")
    content: dict[str, Any] = {name: {"code": status, "message": problem.message}}
    return Response(
        msgspec.json.encode(content), status, headers=headers, media_type="application/json",
    )
