"""An object store in memory, for tests: same rules as the real one, plus failures and crashes on demand.

A `Store` outlives the provisioners that talk to it; each `FakeStorage` is one provisioner's door to it. `put` and `get`
are what a guest does with a grant.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import parse_qs, quote, unquote

from coffer_provisioner.storage.interface import Container, Stored
from coffer_provisioner.storage.signing import new_grant, signature
from coffer_shared.backups import Grant
from coffer_shared.errors import GiveUp, TryAgain

P = ParamSpec("P")
T = TypeVar("T")

_URL = "http://store.invalid"


@dataclass(slots=True)
class Held:
    """A container as the store has it."""

    keys: tuple[str, str] = field(repr=False)
    open: bool = True
    """The service may read and write in it."""
    objects: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class Store:
    containers: dict[tuple[str, str], Held] = field(default_factory=dict)
    """By project and name."""

    def objects(self, container: Container) -> dict[str, bytes]:
        """All that is in it, for a test to look at and to damage."""
        return self.containers[container.project, container.name].objects

    def spoil(self, container: Container) -> None:
        """Somebody takes the keys and the service's rights away."""
        held = self.containers[container.project, container.name]
        held.keys, held.open = ("", ""), False


@dataclass(slots=True)
class _Failure:
    error: BaseException
    after: bool


def _call(
    method: Callable[Concatenate[FakeStorage, P], T],
) -> Callable[Concatenate[FakeStorage, P], Coroutine[Any, Any, T]]:
    """Make a call to the store of a plain function, which may fail before or after it."""

    @functools.wraps(method)
    async def call(self: FakeStorage, /, *args: P.args, **kwargs: P.kwargs) -> T:
        name = method.__name__
        self.calls[name] += 1
        failures = self.failures.get(name)
        failure = failures.popleft() if failures else None
        if failure is not None and not failure.after:
            raise failure.error
        result = method(self, *args, **kwargs)
        if failure is not None:
            raise failure.error
        return result

    return call


class FakeStorage:
    """`storage.interface.Storage` on a Store."""

    def __init__(
        self, store: Store | None = None, *, kind: str = "fake", lingering: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.store = store or Store()
        self.kind = kind
        self.lingering = lingering
        self.clock = clock
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, deque[_Failure]] = {}

    # --- for tests ---

    def fail_at(
        self, method: str, times: int = 1, error: BaseException | None = None, *, after: bool = False,
    ) -> None:
        """Let the next calls of a method fail. `after`: the work is done, but the caller does not learn of it."""
        one = _Failure(error or TryAgain(f"{method} fails because a test said so"), after)
        self.failures.setdefault(method, deque()).extend([one] * times)

    def put(self, grant: Grant, name: str, data: bytes) -> None:
        """As a guest that holds the grant. PermissionError where the store would refuse."""
        objects, full_name = self._under(grant, "PUT", name)
        objects[full_name] = data

    def get(self, grant: Grant, name: str) -> bytes | None:
        objects, full_name = self._under(grant, "GET", name)
        return objects.get(full_name)

    # --- the interface ---

    async def ready(self) -> None:
        """There is nothing to know."""

    @_call
    def ensure_container(self, container: Container) -> None:
        _check_name(container)
        held = self.store.containers.setdefault((container.project, container.name), Held(container.keys))
        held.keys, held.open = container.keys, True

    def grant(self, container: Container, prefix: str, method: str, *, until: float) -> Grant:
        _check_name(container)
        return new_grant(
            kind=self.kind, url=_URL, path=f"{_path(container.project, container.name)}/{prefix}", method=method,
            until=until, key=container.keys[0],
        )

    @_call
    def listing(self, container: Container, prefix: str) -> list[Stored]:
        objects = self._opened(container)
        return [
            Stored(name.removeprefix(prefix), len(data), hashlib.md5(data, usedforsecurity=False).hexdigest())
            for name, data in sorted(objects.items()) if name.startswith(prefix)
        ]

    @_call
    def read(self, container: Container, name: str, *, limit: int) -> bytes | None:
        data = self._opened(container).get(name)
        if data is not None and len(data) > limit:
            raise GiveUp("storage", f"an object in the object store is larger than the {limit} bytes it may have")
        return data

    @_call
    def remove(self, container: Container, prefix: str) -> int:
        objects = self._opened(container)
        names = [name for name in objects if name.startswith(prefix)]
        for name in names:
            del objects[name]
        return len(names)

    def location(self, container: Container, name: str) -> str:
        return f"{_URL}{quote(_path(container.project, container.name))}/{quote(name)}"

    async def close(self) -> None:
        """Nothing is open."""

    # --- helpers ---

    def _opened(self, container: Container) -> dict[str, bytes]:
        _check_name(container)
        held = self.store.containers.get((container.project, container.name))
        if held is not None and not held.open:
            raise GiveUp("storage", "the object store refused: the container is closed to the service")
        return held.objects if held is not None else {}

    def _under(self, grant: Grant, method: str, name: str) -> tuple[dict[str, bytes], str]:
        """The container's objects and the full name, if the grant covers that."""
        told = {key: values[0] for key, values in parse_qs(grant.query).items()}
        prefix, expires = told["temp_url_prefix"], int(told["temp_url_expires"])
        path = unquote(grant.url.removeprefix(_URL)) + name
        for (project, container), held in self.store.containers.items():
            start = _path(project, container) + "/"
            if path.startswith(start + prefix):
                signed = [signature(key, method, start + prefix, expires) for key in held.keys if key]
                if expires >= self.clock() and any(hmac.compare_digest(told["temp_url_sig"], each) for each in signed):
                    return held.objects, path.removeprefix(start)
        raise PermissionError(f"{method} {name}: the grant does not cover that, or not any more")


def _check_name(container: Container) -> None:
    if "/" in container.name or container.name in {"", ".", ".."}:
        raise GiveUp("storage", f"{container.name!r} cannot be the name of a container")


def _path(project: str, container: str) -> str:
    return f"/v1/{quote(project, safe='')}/{container}"
