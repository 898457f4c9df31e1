"""`configure`: the settings of the instance's configuration group, beside the defaults of its size."""

from __future__ import annotations

import msgspec

from coffer_guest.commands.context import Context, configuration_of, to_the_end
from coffer_guest.machine import Machine
from coffer_shared import log
from coffer_shared.commands import Configure, Configured
from coffer_shared.datastore import EngineError, HasConfiguration, Setting
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Engine, Failure

_log = log.get(__name__)


async def configure(context: Context, args: Configure) -> Configured:
    """The new settings are recorded only once the server has taken them on, so a machine that restarts meanwhile comes
    up with the former ones, and the command that is resumed goes through it again."""
    machine = context.machine
    facet = configuration_of(machine.driver)
    if not machine.prepared.complete:
        raise GiveUp(Failure.NOT_READY, "the database is not made yet")
    former = machine.prepared.order.settings
    changed = {name for name in former.keys() | args.settings.keys() if former.get(name) != args.settings.get(name)}
    changed |= set(machine.waiting)
    state = (await machine.monitor.check()).engine
    if state in {Engine.STOPPED, Engine.ABSENT}:
        await _keep(machine, args.settings, [])
        return Configured([])
    if state is not Engine.HEALTHY:
        raise GiveUp(Failure.NOT_READY, f"the database is not healthy ({state.value})")
    await context.progress(30, "giving the database its settings")
    try:
        await machine.write_files(args.settings)
        waiting = await facet.reconfigure(machine, machine.order_with(args.settings), changed)
    except BaseException:
        await to_the_end(_as_before(machine, facet, changed))
        raise
    await _keep(machine, args.settings, waiting)
    await machine.note_proven()
    return Configured(waiting)


async def _as_before(machine: Machine, facet: HasConfiguration, changed: set[str]) -> None:
    await machine.write_files()
    try:
        await facet.reconfigure(machine, machine.order, changed)
    except EngineError as error:
        # the files are right, so the next start of the server is
        _log.warning("the database has not taken its former settings back", reason=error.text)


async def _keep(machine: Machine, settings: dict[str, Setting], waiting: list[str]) -> None:
    order = msgspec.structs.replace(machine.prepared.order, settings=settings)
    await machine.record(msgspec.structs.replace(machine.prepared, order=order, waiting=waiting))
