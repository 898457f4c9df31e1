"""Databases of the tenant."""

from __future__ import annotations

from coffer_guest.commands.context import Context, databases_of
from coffer_guest.machine import Machine
from coffer_shared.commands import CreateDatabases, DatabaseFound, DropDatabase, Nothing
from coffer_shared.datastore import Database, EngineError
from coffer_shared.messages import Failure

_CHECKED = "databases"


async def create(context: Context, args: CreateDatabases) -> None:
    """After a restart: those that exist, although they were found absent before, are ours already."""
    facet = databases_of(context.machine.driver)
    there = {database.name for database in await facet.list_databases(context.machine)}
    if _CHECKED not in context.notes:
        for database in args.databases:
            if database.name in there:
                raise EngineError(Failure.EXISTS, f"database {database.name!r} exists")
        await context.note(_CHECKED)
        there.clear()
    missing = [Database(d.name, d.character_set, d.collate) for d in args.databases if d.name not in there]
    if missing:
        await facet.create_databases(context.machine, missing)


async def drop(context: Context, args: DropDatabase) -> None:
    try:
        await databases_of(context.machine.driver).drop_database(context.machine, args.name)
    except EngineError as error:
        if not (context.resumed and error.code == Failure.NOT_FOUND):
            raise


async def find(machine: Machine, args: Nothing) -> list[DatabaseFound]:
    del args
    found = await databases_of(machine.driver).list_databases(machine)
    return [DatabaseFound(database.name) for database in found]
