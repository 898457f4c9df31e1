"""The storage interface: what the control plane does with an object store. Guests hold grants and nothing else.

Every call is idempotent. TryAgain (or its subclasses) where the store does not answer or says that it is busy; GiveUp
with the code `storage` where it refuses for good, and of these Closed where the container's owner can help.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from coffer_shared.backups import Grant
from coffer_shared.errors import GiveUp


class Closed(GiveUp):
    """The container does not let the service in, or lacks the keys. Only its owner can open it."""


@dataclass(frozen=True, slots=True)
class Container:
    """A container of one project, with the keys that sign grants for it (the second is for changing the first)."""

    project: str
    name: str
    keys: tuple[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Stored:
    """One object as the store lists it."""

    name: str
    """Below the prefix that was asked for."""
    bytes: int
    md5: str
    """Hex, by the store's own reckoning."""


class Storage(Protocol):
    """One driver, such as Swift. `prefix` always ends with "/" and is one backup's."""

    @property
    def kind(self) -> str: ...

    @property
    def lingering(self) -> float:
        """Seconds after a grant's expiry in which a write that was begun before may still come through."""
        ...

    async def ready(self) -> None:
        """Where the store is, is known: before `grant` and `location`."""
        ...

    async def ensure_container(self, container: Container) -> None:
        """It exists, carries the keys, and the service may read, write and delete in it. Closed where the service has
        not the rights to see to that."""
        ...

    def grant(self, container: Container, prefix: str, method: str, *, until: float) -> Grant:
        """Signed here, without asking the store. `method`: PUT or GET; anything else is a ValueError."""
        ...

    async def listing(self, container: Container, prefix: str) -> list[Stored]:
        """All of it, in the order of names. Empty also when there is no such container; Closed where the service cannot
        tell that from one that is closed to it. So with the two below."""
        ...

    async def read(self, container: Container, name: str, *, limit: int) -> bytes | None:
        """A small object, None if there is none. GiveUp if it is larger than `limit`."""
        ...

    async def remove(self, container: Container, prefix: str) -> int:
        """Delete what the listing shows; how many objects there were. Zero: nothing is left."""
        ...

    def location(self, container: Container, name: str) -> str:
        """The object's address, without anything secret, for people."""
        ...

    async def close(self) -> None: ...
