"""Users of the tenant, their passwords and grants."""

from __future__ import annotations

from collections.abc import Sequence

from coffer_guest.commands.context import Context, users_of
from coffer_guest.machine import Machine
from coffer_shared.commands import (
    ChangeUser,
    CreateUsers,
    DropUser,
    Grant,
    Nothing,
    Revoke,
    SetPasswords,
    UserArgs,
    UserFound,
    UserName,
)
from coffer_shared.datastore import EngineError, NewUser, User
from coffer_shared.messages import Failure

_CHECKED = "users"


async def create(context: Context, args: CreateUsers) -> None:
    """After a restart: those that exist, although they were found absent before, are ours already."""
    facet = users_of(context.machine.driver)
    there = _names(await facet.list_users(context.machine))
    if _CHECKED not in context.notes:
        for user in args.users:
            if (user.name, user.host) in there:
                raise EngineError(Failure.EXISTS, f"user {user.name!r} exists")
        await context.note(_CHECKED)
        there.clear()
    missing = [user for user in args.users if (user.name, user.host) not in there]
    if missing:
        await facet.create_users(context.machine, _new(missing))


async def drop(context: Context, args: DropUser) -> None:
    try:
        await users_of(context.machine.driver).drop_user(context.machine, args.name, args.host)
    except EngineError as error:
        if not (context.resumed and error.code == Failure.NOT_FOUND):
            raise


async def set_passwords(context: Context, args: SetPasswords) -> None:
    await users_of(context.machine.driver).set_passwords(context.machine, _new(args.users))


async def change(context: Context, args: ChangeUser) -> None:
    """After a restart: a rename is one transaction, so the new name alone shows that all of it was done."""
    machine, facet = context.machine, users_of(context.machine.driver)
    if context.resumed and (args.new_name or args.new_host):
        there = _names(await facet.list_users(machine))
        renamed = (args.new_name or args.name, args.new_host or args.host)
        if renamed in there and (args.name, args.host) not in there:
            return
    await facet.change_user(
        machine, args.name, args.host, new_name=args.new_name, new_host=args.new_host, password=args.password
    )


async def grant(context: Context, args: Grant) -> None:
    await users_of(context.machine.driver).grant(context.machine, args.name, args.host, args.databases)


async def revoke(context: Context, args: Revoke) -> None:
    try:
        await users_of(context.machine.driver).revoke(context.machine, args.name, args.host, args.database)
    except EngineError as error:
        if not (context.resumed and error.code == Failure.NOT_FOUND):
            raise


async def find(machine: Machine, args: Nothing) -> list[UserFound]:
    del args
    return [_found(user) for user in await users_of(machine.driver).list_users(machine)]


async def find_one(machine: Machine, args: UserName) -> UserFound:
    for user in await users_of(machine.driver).list_users(machine):
        if (user.name, user.host) == (args.name, args.host):
            return _found(user)
    raise EngineError(Failure.NOT_FOUND, f"user {args.name!r} does not exist")


def _names(users: Sequence[User]) -> set[tuple[str, str]]:
    return {(user.name, user.host) for user in users}


def _new(users: Sequence[UserArgs]) -> list[NewUser]:
    return [NewUser(user.name, user.password, user.host, tuple(user.databases)) for user in users]


def _found(user: User) -> UserFound:
    return UserFound(user.name, user.host, list(user.databases))
