"""`prepare` and `restore`: from a bare machine to a running, secured, healthy database with first databases and users.

A restored database differs in where its first data come from: a container fills a directory beside the engine's, which
takes that place when it is whole. Before that there is no place for an engine to start in.
"""

from __future__ import annotations

import asyncio

import msgspec

from coffer_guest import restoring
from coffer_guest.commands import databases, job, users
from coffer_guest.commands.context import Context, backups_of, to_the_end
from coffer_guest.firewall import STORAGE_GID
from coffer_guest.machine import Machine, has_data, make_data_directory
from coffer_guest.state import Prepared as Record
from coffer_shared.backups import Job, RestoreFrom
from coffer_shared.commands import CreateDatabases, CreateUsers, Prepare, Prepared
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

_WHOLE = "whole"
"""From here on the restored directory lacks nothing but its place, and is never filled again."""


async def prepare(context: Context, args: Prepare) -> Prepared:
    """With a new, empty database."""
    if args.restore is not None:
        raise GiveUp(Failure.INVALID, "a backup is restored by the command `restore`")
    return await _prepare(context, args, pulled_from=5)


async def restore(context: Context, args: Prepare) -> Prepared:
    """With the database of a backup."""
    if args.restore is None:
        raise GiveUp(Failure.INVALID, "there is no backup to restore from")
    return await _prepare(context, args, pulled_from=72)


async def _prepare(context: Context, args: Prepare, *, pulled_from: int) -> Prepared:
    """Every step sees by itself whether it is done."""
    machine = context.machine
    await context.progress(2, "preparing the volume")
    await machine.volume.ensure_mounted(args.fs_uuid, may_format=args.format)
    await machine.record(Record(args, complete=await _is_complete(machine, args)))
    await machine.apply_firewall()
    if not machine.prepared.complete:
        await _make_first_data(context, args)
    await start(context, pulled_from)
    if not machine.prepared.complete:
        await secure(machine)
    return await make_accounts(context, args)


async def secure(machine: Machine) -> None:
    """The last step to a complete database."""
    async with machine.session() as session:
        await machine.driver.after_first_start(session)
    await machine.record(msgspec.structs.replace(machine.prepared, complete=True))


async def make_accounts(context: Context, args: Prepare) -> Prepared:
    await context.progress(90, "making databases and users")
    if args.databases:
        await databases.create(context, CreateDatabases(args.databases))
    if args.users:
        await users.create(context, CreateUsers(args.users))
    facts = await context.machine.monitor.check()
    return Prepared(facts.version, args.fs_uuid)


async def start(context: Context, pulled_from: int) -> None:
    """The engine, until it is healthy. `pulled_from`: where the command's progress is, in percent."""
    healthy_from = max(65, pulled_from + 3)

    async def pulling(percent: int, text: str) -> None:
        await context.progress(pulled_from + percent * (healthy_from - pulled_from - 1) // 100, text)

    async def waiting(why: str) -> None:
        await context.progress(healthy_from, f"waiting for the database: {why}")

    await context.progress(pulled_from, "fetching the image")
    await context.machine.start_engine(pulling)
    await context.progress(healthy_from, "waiting for the database")
    await context.machine.wait_healthy(waiting)


async def _is_complete(machine: Machine, args: Prepare) -> bool:
    """Whether the volume holds a database that was healthy and secured before: ours, or that of an earlier machine."""
    before = await machine.state.prepared()
    if before is not None and before.order.fs_uuid == args.fs_uuid:
        return before.complete
    return await asyncio.to_thread(has_data, machine.options.engine_data)


async def _make_first_data(context: Context, args: Prepare) -> None:
    machine = context.machine
    if args.restore is not None:
        await _restore(context, args.restore)
        return
    if context.resumed:
        await machine.forget_unfinished_engine()
    await asyncio.to_thread(make_data_directory, machine.order, machine.spec)


async def _restore(context: Context, args: RestoreFrom) -> None:
    """Up to the engine's directory, whole. A failure leaves none, and nothing beside it."""
    machine, target, placed = context.machine, context.machine.options.restoring, False
    try:
        if _WHOLE not in context.notes:
            await machine.forget_unfinished_engine(running=True)
            await _fill(context, args, target)
            await context.progress(71, "handing the files over to the database")
            await asyncio.to_thread(restoring.hand_over, target, machine.spec.uid, machine.spec.gid)
            await context.note(_WHOLE)
        await to_the_end(asyncio.to_thread(restoring.take_place, target, machine.order.data))
        placed = True
    finally:
        if not placed and not context.ending():
            await to_the_end(asyncio.to_thread(restoring.discard, target))


async def _fill(context: Context, args: RestoreFrom, target: str) -> None:
    machine = context.machine
    spec = backups_of(machine.driver).restore_container(machine.order, args.image, target)

    async def pulling(percent: int, text: str) -> None:
        await context.progress(5 + percent * 4 // 100, text)

    async def before() -> None:
        await context.progress(5, "fetching the backup image")
        await machine.containers.pull(args.image, pulling)
        await to_the_end(asyncio.to_thread(restoring.make_room, target, spec.uid, STORAGE_GID))

    async def after() -> None:
        pass

    errand = job.Errand(
        spec=spec,
        job=Job(
            action="restore",
            backup=args.backup,
            datastore=machine.prepared.order.datastore,
            key=args.key,
            manifest_sha256=args.manifest_sha256,
            target=target,
        ),
        grant=args.grant,
        percents=(10, 70),
        before=before,
        after=after,
        repeatable=True,
    )
    await job.run(context, errand)
