"""Who may connect to the database."""

from __future__ import annotations

import time

from coffer_guest.commands.context import Context
from coffer_guest.firewall import valid_cidrs
from coffer_shared.commands import SetAccess
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure


async def set_access(context: Context, args: SetAccess) -> None:
    machine = context.machine
    _ = machine.prepared  # there is nobody to let in before
    try:
        allowed = valid_cidrs(args.allowed_cidrs)
    except ValueError as error:
        raise GiveUp(Failure.INVALID, str(error)) from None
    machine.access_set_at = time.monotonic()
    await machine.allow(allowed)
