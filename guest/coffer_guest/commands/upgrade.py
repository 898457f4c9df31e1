"""`upgrade`: another version's image over the same data, with a way back.

The files are copied while the engine is down, sharing their blocks, so that takes no time and hardly room. An engine
that does not become healthy with the new image is given back the copy and the image it had: what the new one did to
the files cannot always be undone otherwise. Once it is healthy there is no way back any more, for then it takes what
tenants write.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import aiohttp
import msgspec
from aiodocker.exceptions import DockerError

from coffer_guest import restoring, still
from coffer_guest.commands.context import Context, refuse_unless_healthy, to_the_end
from coffer_guest.machine import Machine
from coffer_shared import log
from coffer_shared.commands import Upgrade, Upgraded
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

_log = log.get(__name__)

_WAS = "was="
_BACK = "back"
_HEALTHY = "healthy"
_TRY_SECONDS = 1.0
_BACK_SECONDS = 120.0


async def upgrade(context: Context, args: Upgrade) -> Upgraded:
    """Which version is recorded says on which side of the copy it is, also to the agent that goes on with it after
    another has died."""
    machine = context.machine
    former = _noted(context)
    if former is None:
        former = _recorded(machine)
        if former == args:
            return Upgraded((await machine.monitor.check()).version)
        await _make_ready(context, args)
        await context.note(f"{_WAS}{former.version}={former.image}")
    elif _BACK in context.notes:
        await to_the_end(_go_back(context, args, former))
        raise GiveUp(Failure.INTERRUPTED, "the database has its former version back; why, is not known any more")
    try:
        if _HEALTHY not in context.notes:
            await _change(context, args)
            await context.note(_HEALTHY)
    except BaseException:
        if not context.ending():  # it failed, or is not wanted any more
            await to_the_end(_go_back(context, args, former))
        raise
    await still.discard(machine.options.former)
    return Upgraded((await machine.monitor.check()).version)


async def _make_ready(context: Context, args: Upgrade) -> None:
    """All that can be done while the database serves."""
    machine = context.machine

    async def pulling(percent: int, text: str) -> None:
        await context.progress(5 + percent * 30 // 100, text)

    await refuse_unless_healthy(machine)
    await context.progress(5, "fetching the image of the new version")
    await machine.containers.pull(args.image, pulling)


async def _change(context: Context, args: Upgrade) -> None:
    machine = context.machine
    if _recorded(machine) != args:
        await context.progress(40, "stopping the database")
        await machine.stop_engine()
        await still.discard(machine.options.former)
        try:
            await still.share(machine.order.data, machine.options.former)
        except EngineError as error:
            raise GiveUp(error.code, error.text) from error
        await _record(machine, args)
    await context.progress(50, "starting the new version")
    await machine.start_engine(context.progress)
    await context.progress(60, "waiting for the database")
    await machine.wait_healthy()


async def _go_back(context: Context, args: Upgrade, former: Upgrade) -> None:
    """From wherever it is, and from wherever this was cut short before. In between the data are not in their place, so
    that neither image is started on what the other is for."""
    machine, data, copy = context.machine, context.machine.order.data, context.machine.options.former
    await context.note(_BACK)
    await _stop(machine)
    if _recorded(machine) == args:
        await asyncio.to_thread(restoring.set_aside, data)
        await _record(machine, former)
    if not await asyncio.to_thread(Path(data).exists):
        await asyncio.to_thread(restoring.take_place, copy, data)
    await still.discard(restoring.aside(data))
    await still.discard(copy)
    with suppress(GiveUp, DockerError, aiohttp.ClientError, OSError, TimeoutError):  # the agent tries it again
        async with asyncio.timeout(_BACK_SECONDS):
            await machine.start_engine(context.progress)
            await machine.wait_healthy()
    _log.warning("the database has its former version back", version=former.version)


async def _stop(machine: Machine) -> None:
    """However long it takes: nothing may run on files that are exchanged."""
    while True:
        try:
            await machine.stop_engine()
        except (GiveUp, DockerError, aiohttp.ClientError, OSError) as error:
            _log.warning("the database does not stop", reason=str(error))
            await asyncio.sleep(_TRY_SECONDS)
        else:
            return


def _recorded(machine: Machine) -> Upgrade:
    return Upgrade(machine.prepared.order.version, machine.prepared.order.image)


async def _record(machine: Machine, version: Upgrade) -> None:
    """A machine that restarts meanwhile comes up with it."""
    order = msgspec.structs.replace(machine.prepared.order, version=version.version, image=version.image)
    await machine.record(msgspec.structs.replace(machine.prepared, order=order))


def _noted(context: Context) -> Upgrade | None:
    """The version before, as this command found it."""
    for word in context.notes:
        if word.startswith(_WAS):
            version, image = word.removeprefix(_WAS).split("=", 1)
            return Upgrade(version, image)
    return None
