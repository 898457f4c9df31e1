"""What jobs left behind when they could not end in order: containers, directories, an engine made ready in vain.

A job that ends clears up after itself. This is for what a dead agent, a restarted machine, a silent Docker or a
stopped database kept it from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

import aiohttp
from aiodocker.exceptions import DockerError

from coffer_guest import restoring
from coffer_guest.machine import Machine
from coffer_shared import log
from coffer_shared.datastore import EngineError, HasBackup
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Engine

_log = log.get(__name__)

_ENGINE_SECONDS = 10.0


async def tidy(machine: Machine, running: Callable[[], Collection[str]]) -> None:
    """Remove what belongs to no operation of `running`. Repeat it while `machine.untidy`.

    `running` is asked after each look around: an operation runs before anything of it is made, so nothing of one that
    begins meanwhile is taken for a leftover.
    """
    if not machine.untidy:
        return
    machine.untidy = False
    try:
        await _containers(machine, running)
        await _directories(machine, running)
        await _part_of_a_restore(machine, running)
    except (GiveUp, DockerError, aiohttp.ClientError, OSError) as error:
        machine.untidy = True
        _log.warning("leftovers stay for now", reason=str(error))
    for operation in list(machine.begun_backups):
        if operation not in running() and not await take_back(machine, operation):
            machine.untidy = True


async def take_back(machine: Machine, operation: str) -> bool:
    """Let the engine forget what it was made ready for. Whether there is nothing left to take back."""
    backup = machine.begun_backups.get(operation)
    if backup is None:
        return True
    try:
        driver = machine.driver
        if isinstance(driver, HasBackup):
            if (await machine.monitor.check()).engine is not Engine.HEALTHY:
                return False
            async with asyncio.timeout(_ENGINE_SECONDS):
                await driver.after_backup(machine, backup)
    except (GiveUp, EngineError, TimeoutError) as error:
        _log.warning("the engine still holds what a backup needed", backup=backup, reason=str(error))
        return False
    await machine.set_begun_backup(operation)
    return True


async def _containers(machine: Machine, running: Callable[[], Collection[str]]) -> None:
    for container in await machine.containers.one_shots():
        if container.operation not in running():
            _log.info("removing a container of no operation", role=container.role, operation=container.operation)
            await container.remove()


async def _directories(machine: Machine, running: Callable[[], Collection[str]]) -> None:
    for operation in await machine.jobs.operations():
        if operation not in running():
            await machine.jobs.of(operation).remove()
    for operation in machine.storage_open_for:
        if operation not in running():
            await machine.close_storage(operation)


async def _part_of_a_restore(machine: Machine, running: Callable[[], Collection[str]]) -> None:
    """Of one that was called off before it was taken up again. Who restores holds the machine all the time."""
    target = machine.options.restoring
    if not await asyncio.to_thread(Path(target).exists):
        return
    if not running():
        async with machine.busy:
            if not running():
                await asyncio.to_thread(restoring.discard, target)
                return
    machine.untidy = True
