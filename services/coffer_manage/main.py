"""`coffer-manage`: what an operator does to an installation from the outside of its services."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import sys
from pathlib import Path

import msgspec

from coffer_manage import (
    foundation,
    images,
    keystone,
    master_key,
    object_store,
    offers,
    operating,
    parameters,
    projects,
)
from coffer_shared.errors import CofferError, Unavailable
from coffer_shared.settings import BadSettings


def main() -> None:
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except (CofferError, BadSettings, OSError) as error:
        sys.stderr.write(f"coffer-manage {arguments.command}: {error}\n")
        raise SystemExit(1) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coffer-manage", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    init = commands.add_parser("init", help="make the installation's keys and passwords, once, and lay them out")
    init.add_argument("--state", type=Path, required=True)
    init.add_argument("--nats-url", action="append", required=True)
    init.add_argument("--renewal-url", default="")
    init.add_argument("--swift-url", default="", help="the object store, for the control plane; empty: none")
    init.add_argument("--swift-guest-url", default="", help="the same for guests, if they know it by another name")
    init.add_argument("--swift-cloud", default="", help="instead: the object store of this entry of a clouds.yaml")
    init.add_argument("--swift-clouds-file", default="", help="that file, as the provisioner has it")
    init.set_defaults(run=_init)

    migrate = commands.add_parser("migrate", help="bring the database to this release, its roles and catalogue too")
    migrate.add_argument("--state", type=Path, required=True)
    migrate.set_defaults(run=_migrate)

    register = commands.add_parser("register", help="record image digests; lines of 'IMAGE DIGEST' on standard input")
    register.add_argument("--state", type=Path, required=True)
    register.set_defaults(run=_register)

    clients = commands.add_parser("clients", help="print the development users' access as JSON")
    clients.add_argument("--state", type=Path, required=True)
    clients.add_argument("--endpoint", required=True, help="up to /v1.0")
    clients.add_argument("--swift", default="", help="where clients reach the object store; empty: nowhere")
    clients.set_defaults(run=_clients)

    clouds = commands.add_parser("clouds", help="print the clouds.yaml of the users of the stack's own Keystone")
    clouds.add_argument("--state", type=Path, required=True)
    clouds.add_argument("--auth-url", required=True, help="Keystone as clients reach it, up to /v3")
    clouds.set_defaults(run=_clouds)

    key = commands.add_parser("master-key", help="keep the key that opens all backups outside of the installation")
    actions = key.add_subparsers(dest="action", required=True)
    for name, run, what in (
        ("export", _export, "write it to a new file, under a passphrase (asked for, or a line on standard input)"),
        ("verify", _verify, "open such a file and compare it with the installation's key"),
        ("import", _import, "begin a new installation with the key in such a file"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("--state", type=Path, required=True)
        action.add_argument("--file", type=Path, required=True)
        action.set_defaults(run=run)

    offers.declare(commands)
    parameters.declare(commands)
    projects.declare(commands)
    images.declare(commands)
    operating.add_commands(commands)
    return parser


def _init(arguments: argparse.Namespace) -> None:
    store: object_store.Address | object_store.CloudStore | None = None
    if arguments.swift_cloud:
        if arguments.swift_url or not arguments.swift_clouds_file:
            raise foundation.FoundationError("--swift-cloud goes with --swift-clouds-file and without --swift-url")
        store = object_store.CloudStore(arguments.swift_clouds_file, arguments.swift_cloud, arguments.swift_guest_url)
    elif arguments.swift_url:
        store = object_store.Address(arguments.swift_url, arguments.swift_guest_url or arguments.swift_url)
    first = foundation.lay(
        arguments.state, nats_urls=tuple(arguments.nats_url), renewal_url=arguments.renewal_url, store=store,
    )
    sys.stdout.write("The installation's keys were made.\n" if first else "The installation's keys are in place.\n")


def _migrate(arguments: argparse.Namespace) -> None:
    from coffer_manage import database  # noqa: PLC0415 - init runs without a database

    asyncio.run(database.migrate(arguments.state))


def _register(arguments: argparse.Namespace) -> None:
    from coffer_manage import database  # noqa: PLC0415

    digests = dict(line.split() for line in sys.stdin.read().splitlines() if line.strip())
    asyncio.run(database.record(arguments.state, digests))


def _clients(arguments: argparse.Namespace) -> None:
    known = msgspec.json.decode((arguments.state / "operator" / "users.json").read_bytes())
    users = {}
    for name, user in known.items():
        users[name] = {
            "user": name, "password": user["password"], "project": user["project"],
            "endpoint": f"{arguments.endpoint}/{user['project']}",
        }
        if arguments.swift:
            users[name]["object_store"] = object_store.access(arguments.swift, user["store_user"], user["store_key"])
    sys.stdout.write(msgspec.json.encode({**users["demo"], "users": users}).decode() + "\n")


def _clouds(arguments: argparse.Namespace) -> None:
    passwords = msgspec.json.decode((arguments.state / "operator" / "keystone.json").read_bytes(), type=dict[str, str])
    sys.stdout.write(keystone.client_clouds(passwords, arguments.auth_url).decode())


def _export(arguments: argparse.Namespace) -> None:
    key = foundation.master_key(arguments.state)
    passphrase = _passphrase(twice=True)
    master_key.export(key, passphrase, arguments.file)
    master_key.read(arguments.file, passphrase)
    sys.stdout.write(f"The master key {key.public.fingerprint} is in {arguments.file}, and was read back.\n")


def _verify(arguments: argparse.Namespace) -> None:
    own = foundation.master_key(arguments.state).public.fingerprint
    found = master_key.read(arguments.file, _passphrase(twice=False)).public.fingerprint
    if found != own:
        raise master_key.MasterKeyError(f"{arguments.file} holds {found}, the installation has {own}")
    sys.stdout.write(f"{arguments.file} holds this installation's master key, {own}.\n")
    from coffer_manage import database  # noqa: PLC0415

    try:
        asyncio.run(database.confirm_export(arguments.state, own))
    except (Unavailable, OSError):
        foundation.note_export(arguments.state, own)
        sys.stdout.write("The database cannot be reached from here: the next `coffer-manage migrate` records that.\n")
    else:
        sys.stdout.write("That is recorded.\n")


def _import(arguments: argparse.Namespace) -> None:
    key = master_key.read(arguments.file, _passphrase(twice=False))
    foundation.adopt(arguments.state, key)
    sys.stdout.write(f"The installation has the master key {key.public.fingerprint}.\n")


def _passphrase(*, twice: bool) -> str:
    """From the terminal, unseen, or else the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    given = getpass.getpass("Passphrase: ")
    if twice and getpass.getpass("The same again: ") != given:
        raise master_key.MasterKeyError("the two passphrases differ")
    return given
