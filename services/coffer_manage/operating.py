"""The commands of an operator's every day: is all well, whose resources are these, who may use the API."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from pathlib import Path
from typing import Any

from coffer_shared.errors import CofferError


class OperatingError(CofferError):
    """What was given cannot be used."""


def add_commands(commands: Any) -> None:
    """To a parser's subcommands."""
    doctor = commands.add_parser("doctor", help="look whether all is well; exit status 1 if not")
    _state(doctor)
    doctor.add_argument("--keys-only", action="store_true", help="where neither database nor NATS can be reached")
    doctor.set_defaults(run=_doctor)

    orphans = commands.add_parser("orphans", help="resources in the cloud that the database knows nothing of")
    actions = orphans.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="as the keeper's last round found them")
    _state(listing)
    listing.set_defaults(run=_list_orphans)
    delete = actions.add_parser("delete", help="have the keeper drop one in its next round")
    delete.add_argument("kind")
    delete.add_argument("id")
    delete.add_argument("--with-data", action="store_true", help="also if a database was on it")
    _state(delete)
    delete.set_defaults(run=_delete_orphan)

    user = commands.add_parser("user", help="the file of the API's users, for http_basic")
    actions = user.add_subparsers(dest="action", required=True)
    add = actions.add_parser("add", help="the password is asked for, or a line on standard input")
    add.add_argument("name")
    add.add_argument("--project", required=True)
    add.add_argument("--role", action="append", required=True, help="admin, member or reader; more than once for more")
    _users_of(add)
    add.set_defaults(run=_add_user)
    remove = actions.add_parser("remove", help="requests with a password that was accepted go on for a minute")
    remove.add_argument("name")
    _users_of(remove)
    remove.set_defaults(run=_remove_user)
    listing = actions.add_parser("list", help="names, projects and roles")
    _users_of(listing)
    listing.set_defaults(run=_list_users)

    keys = commands.add_parser("keys", help="what identifies this installation's parts, and until when")
    show = keys.add_subparsers(dest="action", required=True).add_parser("show", help="nothing of it is secret")
    _state(show)
    show.set_defaults(run=_show_keys)


def _state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--state", type=Path, required=True)


def _users_of(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--state", type=Path, help="of the installation")
    where.add_argument("--file", type=Path, help="the file itself, where COFFER_HTPASSWD names another")


def _doctor(arguments: argparse.Namespace) -> None:
    from coffer_manage import doctor  # noqa: PLC0415 - what needs no database runs without its modules

    found = asyncio.run(doctor.examine(arguments.state, keys_only=arguments.keys_only))
    sys.stdout.write(doctor.told(found))
    if doctor.is_ill(found):
        raise SystemExit(1)


def _list_orphans(arguments: argparse.Namespace) -> None:
    from coffer_manage import orphans  # noqa: PLC0415

    sys.stdout.write(asyncio.run(orphans.listed(arguments.state)))


def _delete_orphan(arguments: argparse.Namespace) -> None:
    from coffer_manage import orphans  # noqa: PLC0415

    asyncio.run(orphans.delete(arguments.state, arguments.kind, arguments.id, with_data=arguments.with_data))
    sys.stdout.write("The keeper drops it in its next round, if it is still unknown then.\n")


def _add_user(arguments: argparse.Namespace) -> None:
    from coffer_manage import user_file  # noqa: PLC0415

    roles = [role for given in arguments.role for role in given.split(",")]
    file = user_file.of(arguments.state, arguments.file)
    user_file.add(file, arguments.name, arguments.project, roles, _password)
    sys.stdout.write(f"{arguments.name} may use project {arguments.project} now.\n")


def _remove_user(arguments: argparse.Namespace) -> None:
    from coffer_manage import user_file  # noqa: PLC0415

    user_file.remove(user_file.of(arguments.state, arguments.file), arguments.name)
    sys.stdout.write(f"{arguments.name} is removed.\n")


def _list_users(arguments: argparse.Namespace) -> None:
    from coffer_manage import user_file  # noqa: PLC0415

    sys.stdout.write(user_file.listed(user_file.of(arguments.state, arguments.file)))


def _show_keys(arguments: argparse.Namespace) -> None:
    from coffer_manage import keys  # noqa: PLC0415

    sys.stdout.write(keys.told(arguments.state))


def _password() -> str:
    """From the terminal, unseen, or else the first line of standard input: never from the command line."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    given = getpass.getpass("Password: ")
    if getpass.getpass("The same again: ") != given:
        raise OperatingError("the two passwords differ")
    return given
