"""What a command function gets beside its arguments."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from coffer_guest.clock import Clock
from coffer_guest.machine import Machine
from coffer_shared.backups import Grant
from coffer_shared.datastore import Driver, HasBackup, HasConfiguration, HasDatabases, HasRoot, HasSnapshot, HasUsers
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Engine, Failure

T = TypeVar("T")


@dataclass(slots=True)
class Context:
    machine: Machine
    operation: str
    clock: Clock
    progress: Callable[[int, str], Awaitable[None]]
    """Percent and what is being done."""
    write_note: Callable[[str], Awaitable[None]]
    renew_grant: Callable[[], Awaitable[Grant]]
    """TryAgain while the control plane is silent, GiveUp when it denies."""
    is_copied: Callable[[], Awaitable[bool]]
    """Whether the control plane has copied the volume. Raises the same."""
    ending: Callable[[], bool]
    """Whether a cancellation means that the agent ends. The command is then resumed by the next one, so it leaves
    everything as it is; otherwise it was asked to end, or its deadline passed, and it clears up."""
    resumed: bool = False
    notes: set[str] = field(default_factory=set)

    async def note(self, word: str) -> None:
        """Durable when this returns; `word in context.notes` tells it again after a restart."""
        self.notes.add(word)
        await self.write_note(" ".join(sorted(self.notes)))


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Its result. If whoever waits is cancelled meanwhile, it goes on all the same, and the cancellation follows."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()


async def refuse_unless_healthy(machine: Machine) -> None:
    """GiveUp(not_ready) unless there is a whole database that answers now."""
    facts = await machine.monitor.check()
    if facts.engine is not Engine.HEALTHY or not machine.prepared.complete:
        raise GiveUp(Failure.NOT_READY, f"the database is not healthy ({facts.engine.value}) {facts.detail}".rstrip())


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


def backups_of(driver: Driver) -> HasBackup:
    if not isinstance(driver, HasBackup):
        raise _unable(driver, "backups")
    return driver


def configuration_of(driver: Driver) -> HasConfiguration:
    if not isinstance(driver, HasConfiguration):
        raise _unable(driver, "configuration")
    return driver


def snapshots_of(driver: Driver) -> HasSnapshot:
    if not isinstance(driver, HasSnapshot):
        raise _unable(driver, "snapshots")
    return driver


def _unable(driver: Driver, what: str) -> GiveUp:
    return GiveUp(Failure.INVALID, f"{driver.name} has no {what}")
