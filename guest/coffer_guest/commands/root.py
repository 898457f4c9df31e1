"""The tenant's superuser."""

from __future__ import annotations

from coffer_guest.commands.context import Context, root_of
from coffer_guest.machine import Machine
from coffer_shared.commands import DisableRoot, EnableRoot, Nothing, RootState


async def enable(context: Context, args: EnableRoot) -> None:
    await root_of(context.machine.driver).enable_root(context.machine, args.password)


async def disable(context: Context, args: DisableRoot) -> None:
    del args
    await root_of(context.machine.driver).disable_root(context.machine)


async def find(machine: Machine, args: Nothing) -> RootState:
    del args
    return RootState(await root_of(machine.driver).root_enabled(machine))
