"""Stopping and starting the database container."""

from __future__ import annotations

import msgspec

from coffer_guest.commands.context import Context, to_the_end
from coffer_guest.machine import Machine
from coffer_shared.commands import Nothing, Restart, StartDatabase, Stop
from coffer_shared.errors import GiveUp

_STOPPED = "stopped"


async def restart(context: Context, args: Restart) -> None:
    del args
    if _STOPPED not in context.notes:
        await context.progress(10, "stopping the database")
        await _remember(context.machine, running=True)
        await context.machine.stop_engine()
        await context.note(_STOPPED)
    await _start(context)


async def stop(context: Context, args: Stop) -> None:
    del args
    await _remember(context.machine, running=False)
    try:
        await context.machine.stop_engine()
    except BaseException:
        if not context.ending():  # it failed, or is not wanted any more: then the database is to run
            await to_the_end(_remember(context.machine, running=True))
        raise


async def start(context: Context, args: StartDatabase) -> None:
    del args
    await _remember(context.machine, running=True)
    await _start(context)


async def ping(machine: Machine, args: Nothing) -> bool:
    """Whether the agent is there; the database is not asked."""
    del machine, args
    return True


async def _start(context: Context) -> None:
    await context.progress(40, "starting the database")
    await context.machine.start_engine(context.progress)
    await context.progress(60, "waiting for the database")
    try:
        await context.machine.wait_healthy()
    except GiveUp as why:
        await _start_as_before(context, why)


async def _start_as_before(context: Context, why: GiveUp) -> None:
    """With the settings with which it is known to start, if it has others now: better than not at all."""
    machine = context.machine
    if not await machine.fall_back():
        raise why
    await context.progress(70, "starting the database with its former settings")
    await machine.stop_engine()
    await machine.start_engine(context.progress)
    await machine.wait_healthy()
    raise GiveUp(
        why.code, f"the database does not start with its new settings and runs with the former ones: {why.text}"
    ) from why


async def _remember(machine: Machine, *, running: bool) -> None:
    """Before acting: a machine that restarts meanwhile does what was wanted last."""
    await machine.record(msgspec.structs.replace(machine.prepared, running=running))
