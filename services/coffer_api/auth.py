"""Authentication as an ASGI layer: who the caller is, and that the project in the path is theirs.

`http_basic` asks a file of bcrypt hashes; `noauth` believes everybody and is for a loopback address only; `keystone`
has a module of its own.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from coffer_api.htpasswd import User, UserFile
from coffer_api.identity import Identity
from coffer_api.metrics import Metrics
from coffer_api.policy import Policy
from coffer_api.problems import RETRY, Problem
from coffer_shared import log

CHALLENGE = {"WWW-Authenticate": 'Basic realm="Coffer", charset="UTF-8"'}
PREFIX = "/v1.0/"
QUEUE = 64
"""Verifications that may wait for a thread."""
_LOG = log.get(__name__)


class Strategy(Protocol):
    async def identify(self, scope: Scope, project: str) -> Identity:
        """Problem 401 when the caller is not known, 403 when the project is not theirs."""
        ...


class Auth:
    """Sets `scope["identity"]` for everything under a project. The other paths are public, and so is the project's own,
    where a document of versions is."""

    def __init__(self, app: ASGIApp, strategy: Strategy, policy: Policy) -> None:
        self._app = app
        self._strategy = strategy
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX) and any(scope["segments"][2:]):
            found = await self._strategy.identify(scope, scope["segments"][1])
            scope["identity"] = replace(found, admin=True) if self._policy.is_admin(found) else found
            scope["policy"] = self._policy
        await self._app(scope, receive, send)


class NoAuth:
    """Everybody is an admin of whatever project the path names. A token, if one is sent, is not looked at."""

    def __init__(self) -> None:
        self._roles = frozenset({"admin", "member"})

    async def identify(self, scope: Scope, project: str) -> Identity:  # noqa: ARG002 - part of the interface
        return Identity("noauth", _printable(project), self._roles)


class HttpBasic:
    """Verified credentials are remembered for a short time under a keyed hash; failures are slowed down."""

    def __init__(
        self,
        users: UserFile,
        metrics: Metrics,
        *,
        remember: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        max_failures: int = 5,
        failure_window: float = 60.0,
        threads: int = 2,
    ) -> None:
        self._users = users
        self._metrics = metrics
        self._clock = clock
        self._remember = remember
        self._key = os.urandom(32)
        self._verified: OrderedDict[bytes, tuple[float, User]] = OrderedDict()
        self._checking: dict[bytes, asyncio.Task[User | None]] = {}
        self._failures = Failures(max_failures, failure_window, clock)
        self._pool = ThreadPoolExecutor(threads, "bcrypt")

    async def identify(self, scope: Scope, project: str) -> Identity:
        header = _header(scope, b"authorization")
        user = self._remembered(header) or await self._verify(header, (scope.get("client") or ("",))[0])
        if project != user.project and "admin" not in user.roles:
            raise Problem(403, "Access was denied to this resource.")
        return Identity(user.name, _printable(project), user.roles)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _remembered(self, header: bytes) -> User | None:
        found = self._verified.get(self._digest(header))
        return found[1] if found and found[0] > self._clock() else None

    async def _verify(self, header: bytes, address: str) -> User:
        name, password = _credentials(header)
        wait = self._failures.wait(name, address)
        if wait:
            self._metrics.auth_failures.labels("throttled").inc()
            raise Problem(
                401, "Too many failed attempts; try again later.", {**CHALLENGE, RETRY: str(int(wait) + 1)},
            )
        digest = self._digest(header)
        task = self._checking.get(digest)
        if task is None:
            if len(self._checking) >= QUEUE:
                raise Problem(503, "Too many sign-ins at a time; try again.", {RETRY: "1"})
            # Counted before it is checked, so that many attempts at a time are not more attempts.
            self._failures.add(name, address)
            task = asyncio.create_task(self._check(digest, name, password))
            self._checking[digest] = task
        user = await asyncio.shield(task)
        if user is not None:
            self._failures.forget(name, address)
        else:
            self._metrics.auth_failures.labels("wrong").inc()
            raise Problem(401, "The request you have made requires authentication.", CHALLENGE)
        return user

    async def _check(self, digest: bytes, name: str, password: bytes) -> User | None:
        """Several requests with the same credentials share one verification."""
        try:
            user = await asyncio.get_running_loop().run_in_executor(self._pool, self._ask, name, password)
        finally:
            self._checking.pop(digest, None)
        if user is not None:
            self._verified[digest] = (self._clock() + self._remember, user)
            self._verified.move_to_end(digest)
            if len(self._verified) > 10_000:
                self._verified.popitem(last=False)
        return user

    def _ask(self, name: str, password: bytes) -> User | None:
        before = self._users.problem
        users = self._users.users()
        if self._users.problem not in {"", before}:
            _LOG.error("the user file is not usable; the earlier users stay", reason=self._users.problem)
        return users.check(name, password)

    def _digest(self, header: bytes) -> bytes:
        return hashlib.blake2b(header, digest_size=32, key=self._key).digest()


class Failures:
    """Attempts that have not succeeded, by user and address within a window."""

    def __init__(self, most: int, window: float, clock: Callable[[], float], size: int = 10_000) -> None:
        self._most = most
        self._window = window
        self._clock = clock
        self._size = size
        self._found: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def add(self, name: str, address: str) -> None:
        count, began = self._found.pop((name, address), (0, self._clock()))
        if self._clock() - began > self._window:
            count, began = 0, self._clock()
        self._found[name, address] = (count + 1, began)
        if len(self._found) > self._size:
            self._found.popitem(last=False)

    def forget(self, name: str, address: str) -> None:
        self._found.pop((name, address), None)

    def wait(self, name: str, address: str) -> float:
        """Seconds until this pair may try again; 0 if it may now."""
        count, began = self._found.get((name, address), (0, 0.0))
        left = began + self._window - self._clock()
        return left if count >= self._most and left > 0 else 0.0


def _credentials(header: bytes) -> tuple[str, bytes]:
    """Problem 401 unless the header is well-formed Basic."""
    scheme, _, given = header.partition(b" ")
    if scheme.lower() == b"basic" and len(given) <= 4096:
        with contextlib.suppress(ValueError):  # base64 and UTF-8 errors are ValueErrors
            name, colon, password = base64.b64decode(given.strip(), validate=True).partition(b":")
            if colon:
                return name.decode(), password
    raise Problem(401, "The request you have made requires authentication.", CHALLENGE)


def _header(scope: Scope, name: bytes) -> bytes:
    headers: Mapping[bytes, bytes] = dict(scope["headers"])
    return headers.get(name, b"")


def _printable(project: str) -> str:
    if not project.isprintable() or len(project) > 255:
        raise Problem(403, "Access was denied to this resource.")
    return project
