"""What a guest asks whose volume stands still: whether its snapshot is there. That it does so, it says by asking."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from coffer_provisioner.backup_records import PostgresBackups
from coffer_shared import log, subjects
from coffer_shared.messages import Copied, Denied, Failure

_log = log.get(__name__)


class Freezes:
    def __init__(self, backups: PostgresBackups, woken: Callable[[str], Awaitable[None]]) -> None:
        """`woken` is awaited with the id of an instance whose operation has something to go on with."""
        self._backups = backups
        self._woken = woken

    async def ask(self, instance: str, operation: str) -> Copied | Denied:
        """Only for an operation of that instance that goes forward and whose command has not ended."""
        try:
            found = await self._backups.frozen(instance, subjects.instance_id(operation))
        except ValueError:
            found = None
        if found is None:
            _log.warning("a freeze for no operation", instance=instance)
            return Denied(code=Failure.FORBIDDEN, text="no snapshot is taken for this operation")
        done, news = found
        if news:
            await self._woken(instance)
        return Copied(done=done)
