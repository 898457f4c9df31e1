"""The data volume, once it is in use."""

from __future__ import annotations

import msgspec

from coffer_guest.commands.context import Context
from coffer_guest.machine import Machine
from coffer_shared.commands import GrowVolume, Nothing, VolumeUse
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure


async def grow(context: Context, args: GrowVolume) -> None:
    machine = context.machine
    await machine.volume.grow(args.volume_bytes)
    order = msgspec.structs.replace(machine.prepared.order, volume_bytes=args.volume_bytes)
    await machine.record(msgspec.structs.replace(machine.prepared, order=order))


async def use(machine: Machine, args: Nothing) -> VolumeUse:
    del args
    facts = await machine.volume.facts()
    if not facts.total_bytes:
        raise GiveUp(Failure.NOT_READY, "the volume is not mounted")
    return VolumeUse(facts.total_bytes, facts.used_bytes)
