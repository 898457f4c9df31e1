"""What this program does with an object store, by way of grants. GiveUp with the code `storage` where it is refused."""

from __future__ import annotations

from typing import Protocol

from coffer_shared.backups import Grant


class Grants(Protocol):
    def current(self) -> Grant:
        """The newest; asked for before each request."""
        ...


class Store(Protocol):
    """One backup's objects. Names are below the backup's prefix. Every call tries for as long as patience lasts."""

    async def put(self, name: str, data: bytes | memoryview, md5: str) -> None:
        """Stored, and the store has reckoned the same MD5. `data` is not changed meanwhile."""
        ...

    async def get(self, name: str, into: memoryview) -> int:
        """How many bytes came. Damaged if there is no such object, or more of it than there is room."""
        ...

    async def close(self) -> None: ...
