"""`resize`: the database in a machine of another size."""

from __future__ import annotations

from contextlib import suppress

import aiohttp
import msgspec
from aiodocker.exceptions import DockerError

from coffer_guest.commands.context import Context, to_the_end
from coffer_guest.machine import Machine
from coffer_guest.state import Prepared
from coffer_shared.commands import Resize
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

_WAS = "was="
_STOPPED = "stopped"


async def resize(context: Context, args: Resize) -> None:
    """The new size is recorded before anything else: a machine that restarts meanwhile comes up with it."""
    machine = context.machine
    if not machine.prepared.complete:
        raise GiveUp(Failure.NOT_READY, "the database is not made yet")
    before = _noted(context)
    if before is None:
        before = _size(machine.prepared)
        if before == args:
            return
        await context.note(f"{_WAS}{before.memory_bytes}:{before.vcpus!r}")
    try:
        await _record(machine, args)
        if machine.prepared.running:
            await _restart(context)
    except BaseException:
        if not context.ending():  # it failed, or is not wanted any more
            await to_the_end(_go_back(machine, before))
        raise


async def _restart(context: Context) -> None:
    machine = context.machine
    if _STOPPED not in context.notes:
        await context.progress(10, "stopping the database")
        await machine.stop_engine()
        await context.note(_STOPPED)
    await context.progress(40, "starting the database")
    await machine.start_engine(context.progress)
    await context.progress(60, "waiting for the database")
    await machine.wait_healthy()


async def _go_back(machine: Machine, before: Resize) -> None:
    """The agent starts again what should run and is stopped."""
    await _record(machine, before)
    with suppress(GiveUp, DockerError, aiohttp.ClientError, OSError):
        await machine.stop_engine()


async def _record(machine: Machine, size: Resize) -> None:
    order = msgspec.structs.replace(machine.prepared.order, memory_bytes=size.memory_bytes, vcpus=size.vcpus)
    await machine.record(msgspec.structs.replace(machine.prepared, order=order))


def _size(prepared: Prepared) -> Resize:
    return Resize(prepared.order.memory_bytes, prepared.order.vcpus)


def _noted(context: Context) -> Resize | None:
    """The size before, as this command found it."""
    for word in context.notes:
        if word.startswith(_WAS):
            memory, vcpus = word.removeprefix(_WAS).split(":")
            return Resize(int(memory), float(vcpus))
    return None
