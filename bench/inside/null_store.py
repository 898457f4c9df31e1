"""`coffer-backup` with a store that keeps nothing: what the program itself costs."""

from __future__ import annotations

import coffer_backup.store
from coffer_backup.main import main


class Null:
    def __init__(self, *_: object) -> None:
        pass

    async def put(self, *_: object) -> None:
        pass

    async def close(self) -> None:
        pass


coffer_backup.store._KINDS["null"] = Null  # type: ignore[assignment]  # noqa: SLF001
main()
