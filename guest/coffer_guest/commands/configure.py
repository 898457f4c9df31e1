"""`configure`: the settings of the instance's configuration group, beside the defaults of its size."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from coffer_guest.commands.context import Context, configuration_of
from coffer_guest.machine import Machine
from coffer_shared.commands import Configure, Configured
from coffer_shared.datastore import EngineError, Setting
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Engine, Failure


async def configure(context: Context, args: Configure) -> Configured:
    """The new settings are recorded only once the server has taken them on, so a machine that restarts meanwhile comes
    up with the former ones, and the command that is resumed goes through it again."""
    machine = context.machine
    facet = configuration_of(machine.driver)
    if not machine.prepared.complete:
        raise GiveUp(Failure.NOT_READY, "the database is not made yet")
    former = machine.prepared.order.settings
    changed = {name for name in former.keys() | args.settings.keys() if former.get(name) != args.settings.get(name)}
    state = (await machine.monitor.check()).engine
    if state in {Engine.STOPPED, Engine.ABSENT}:
        await _keep(machine, args.settings, [])
        return Configured([])
    if state is not Engine.HEALTHY:
        raise GiveUp(Failure.NOT_READY, f"the database is not healthy ({state.value})")
    await context.progress(30, "giving the database its settings")
    taken = False
    try:
        await machine.write_files(args.settings)
        waiting = await facet.reconfigure(machine, machine.order_with(args.settings), changed)
        taken = True
    finally:
        if not taken:
            await machine.write_files()
            with suppress(EngineError):
                await facet.reconfigure(machine, machine.order, changed)
    await _keep(machine, args.settings, waiting)
    await machine.note_proven()
    return Configured(waiting)


async def _keep(machine: Machine, settings: dict[str, Setting], waiting: list[str]) -> None:
    order = msgspec.structs.replace(machine.prepared.order, settings=settings)
    await machine.record(msgspec.structs.replace(machine.prepared, order=order, waiting=waiting))
