"""`snapshot`: the data volume stands still while the control plane copies it.

That the copy is of one moment is shown at the end: the file system is found as frozen as it was left. Whatever happens
to the command, and to the agent, it does not stay so.
"""

from __future__ import annotations

import asyncio

from coffer_guest.commands.context import Context, refuse_unless_healthy, snapshots_of, to_the_end
from coffer_shared import log
from coffer_shared.commands import Snapshot, Snapshotted
from coffer_shared.errors import GiveUp, TryAgain
from coffer_shared.messages import Failure

_log = log.get(__name__)

_ASK_SECONDS = 0.5


async def snapshot(context: Context, args: Snapshot) -> Snapshotted:
    machine = context.machine
    if context.resumed:
        await to_the_end(machine.volume.thaw())
        raise GiveUp(Failure.INTERRUPTED, "the agent restarted, and the volume did not stand still all the time")
    facet = snapshots_of(machine.driver)
    await refuse_unless_healthy(machine)
    await context.progress(5, "having the database write out what it can")
    await facet.before_snapshot(machine)
    await context.progress(40, "holding the volume still")
    held = False
    try:
        async with asyncio.timeout(args.seconds):
            await machine.volume.freeze(args.seconds)
            facts = await machine.volume.facts()
            await context.progress(50, "waiting for the copy of the volume")
            await _until_copied(context)
    except TimeoutError:
        raise GiveUp(Failure.VOLUME, f"the volume was not copied within {args.seconds:g} s") from None
    finally:
        held = await to_the_end(machine.volume.thaw())
    if not held:
        raise GiveUp(Failure.VOLUME, "the volume did not stand still until it was copied")
    return Snapshotted(facts.used_bytes)


async def _until_copied(context: Context) -> None:
    while True:
        try:
            if await context.is_copied():
                return
        except TryAgain as error:
            _log.warning("not known whether the volume is copied", reason=str(error))
        await asyncio.sleep(_ASK_SECONDS)
