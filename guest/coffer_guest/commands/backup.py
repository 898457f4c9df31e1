"""`backup`: a full backup of the running database, by a container that reads the engine and stores by itself.

It runs beside other commands: users and databases can be made meanwhile. It is never begun a second time, since what it
stored the first time would be under the same names.
"""

from __future__ import annotations

import asyncio

from coffer_guest.commands import job
from coffer_guest.commands.context import Context, backups_of, refuse_unless_healthy
from coffer_guest.leftovers import take_back
from coffer_shared.backups import BackedUp, BackUp, Job
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

_TRIES = 5
_TRY_SECONDS = 1.0


async def backup(context: Context, args: BackUp) -> BackedUp:
    machine = context.machine
    facet = backups_of(machine.driver)

    async def pulling(percent: int, text: str) -> None:
        await context.progress(1 + percent * 7 // 100, text)

    async def before() -> None:
        await refuse_unless_healthy(machine)
        await context.progress(1, "fetching the backup image")
        await machine.containers.pull(args.image, pulling)
        await context.progress(8, "preparing the database")
        await machine.write_files()
        await machine.set_begun_backup(context.operation, args.backup)
        await facet.before_backup(machine, args.backup)

    async def after() -> None:
        for _ in range(_TRIES):
            if await take_back(machine, context.operation):
                return
            await asyncio.sleep(_TRY_SECONDS)
        machine.untidy = True

    errand = job.Errand(
        spec=facet.backup_container(machine.order, args.image),
        job=Job(
            action="backup",
            backup=args.backup,
            datastore=machine.prepared.order.datastore,
            key=args.key,
            segment_bytes=args.segment_bytes,
        ),
        grant=args.grant,
        percents=(10, 95),
        before=before,
        after=after,
        repeatable=False,
    )
    outcome = await job.run(context, errand)
    if outcome.backed_up is None:
        raise GiveUp(Failure.ENGINE, "the backup program did not say what it stored")
    return outcome.backed_up
