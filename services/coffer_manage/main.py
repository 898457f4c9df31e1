"""`coffer-manage`: what an operator does to an installation from the outside of its services."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import msgspec

from coffer_manage import foundation
from coffer_shared.errors import CofferError


def main() -> None:
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except (CofferError, OSError) as error:
        sys.stderr.write(f"coffer-manage {arguments.command}: {error}\n")
        raise SystemExit(1) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coffer-manage", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    init = commands.add_parser("init", help="make the installation's keys and passwords, once, and lay them out")
    init.add_argument("--state", type=Path, required=True)
    init.add_argument("--nats-url", action="append", required=True)
    init.add_argument("--renewal-url", default="")
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
    clients.set_defaults(run=_clients)
    return parser


def _init(arguments: argparse.Namespace) -> None:
    first = foundation.lay(
        arguments.state, nats_urls=tuple(arguments.nats_url),
        renewal_url=arguments.renewal_url,
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
    users = {
        name: {"user": name, "endpoint": f"{arguments.endpoint}/{user['project']}", **user}
        for name, user in known.items()
    }
    sys.stdout.write(msgspec.json.encode({**users["demo"], "users": users}).decode() + "\n")
