"""`prepare`: from a bare machine to a running, secured, healthy database with its first databases and users."""

from __future__ import annotations

import asyncio

import msgspec

from coffer_guest.commands import databases, users
from coffer_guest.commands.context import Context
from coffer_guest.machine import Machine, has_data, make_data_directory
from coffer_guest.state import Prepared as Record
from coffer_shared.commands import CreateDatabases, CreateUsers, Prepare, Prepared


async def prepare(context: Context, args: Prepare) -> Prepared:
    """Every step sees by itself whether it is done."""
    machine = context.machine
    await context.progress(2, "preparing the volume")
    await machine.volume.ensure_mounted(args.fs_uuid, may_format=args.format)
    await machine.record(Record(args, complete=await _is_complete(machine, args)))
    await machine.apply_firewall()
    if not machine.prepared.complete:
        if context.resumed:
            await machine.forget_unfinished_engine()
        await asyncio.to_thread(make_data_directory, machine.order, machine.spec)

    async def pulling(percent: int, text: str) -> None:
        await context.progress(5 + percent * 55 // 100, text)

    await context.progress(5, "fetching the image")
    await machine.start_engine(pulling)
    await context.progress(65, "waiting for the database")
    await machine.wait_healthy()
    if not machine.prepared.complete:
        async with machine.session() as session:
            await machine.driver.after_first_start(session)
        await machine.record(msgspec.structs.replace(machine.prepared, complete=True))
    await context.progress(90, "making databases and users")
    if args.databases:
        await databases.create(context, CreateDatabases(args.databases))
    if args.users:
        await users.create(context, CreateUsers(args.users))
    facts = await machine.monitor.check()
    return Prepared(facts.version, args.fs_uuid)


async def _is_complete(machine: Machine, args: Prepare) -> bool:
    """Whether the volume holds a database that was healthy and secured before: ours, or that of an earlier machine."""
    before = await machine.state.prepared()
    if before is not None and before.order.fs_uuid == args.fs_uuid:
        return before.complete
    return await asyncio.to_thread(has_data, machine.options.engine_data)
