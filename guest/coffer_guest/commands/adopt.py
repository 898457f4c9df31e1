"""`adopt`: a running database from a volume that is a copy of another instance's, which ran while it was copied.

The data are what the command is for: it neither makes nor removes any, however it ends.
"""

from __future__ import annotations

import asyncio

from coffer_guest import restoring
from coffer_guest.commands.context import Context, snapshots_of, to_the_end
from coffer_guest.commands.prepare import make_accounts, secure, start
from coffer_guest.machine import Machine, has_data
from coffer_guest.state import Prepared as Record
from coffer_shared.commands import Prepare, Prepared
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure


async def adopt(context: Context, args: Prepare) -> Prepared:
    """Every step sees by itself whether it is done."""
    if args.restore is not None:
        raise GiveUp(Failure.INVALID, "the data of a volume that is adopted are on it already")
    machine = context.machine
    await context.progress(2, "looking at the volume")
    await machine.volume.ensure_mounted(args.fs_uuid, may_format=False)
    if not await asyncio.to_thread(has_data, machine.options.engine_data):
        raise GiveUp(Failure.VOLUME, "there is no database on the volume")
    await machine.record(Record(args, complete=await _is_adopted(machine, args)))
    facet = snapshots_of(machine.driver)
    await machine.apply_firewall()
    await machine.volume.grow(args.volume_bytes)
    # what the original was restored from, if it never came to removing that
    await to_the_end(asyncio.to_thread(restoring.discard, machine.options.restoring))
    await start(context, 5)
    if not machine.prepared.complete:
        await context.progress(85, "ending what the original was in the middle of")
        await facet.after_adoption(machine)
        await secure(machine)
    return await make_accounts(context, args)


async def _is_adopted(machine: Machine, args: Prepare) -> bool:
    """By our own record alone: that there is a database says nothing, since there was one from the beginning."""
    before = await machine.state.prepared()
    return before is not None and before.order.fs_uuid == args.fs_uuid and before.complete
