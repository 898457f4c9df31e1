"""What a command function gets beside its arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from coffer_guest.machine import Machine
from coffer_shared.datastore import Driver, HasDatabases, HasRoot, HasUsers
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure


@dataclass(slots=True)
class Context:
    machine: Machine
    progress: Callable[[int, str], Awaitable[None]]
    """Percent and what is being done."""
    write_note: Callable[[str], Awaitable[None]]
    resumed: bool = False
    notes: set[str] = field(default_factory=set)

    async def note(self, word: str) -> None:
        """Durable when this returns; `word in context.notes` tells it again after a restart."""
        self.notes.add(word)
        await self.write_note(" ".join(sorted(self.notes)))


def databases_of(driver: Driver) -> HasDatabases:
    if not isinstance(driver, HasDatabases):
        raise _unable(driver, "databases")
    return driver


def users_of(driver: Driver) -> HasUsers:
    if not isinstance(driver, HasUsers):
        raise _unable(driver, "users")
    return driver


def root_of(driver: Driver) -> HasRoot:
    if not isinstance(driver, HasRoot):
        raise _unable(driver, "root")
    return driver


def _unable(driver: Driver, what: str) -> GiveUp:
    return GiveUp(Failure.INVALID, f"{driver.name} has no {what}")
