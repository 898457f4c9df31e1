"""How a command that works in the database is declared: its words, its arguments, and what it does in one transaction.

    coffer-manage NOUN [NOUN] VERB --state DIRECTORY ARGUMENTS
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from sqlalchemy.ext.asyncio import AsyncSession

Work: TypeAlias = Callable[[AsyncSession, argparse.Namespace], Awaitable[str]]
"""Its text is printed once all is committed."""


class Subparsers(Protocol):
    """What `argparse.ArgumentParser.add_subparsers` returns."""

    def add_parser(self, name: str, *, help: str, description: str) -> argparse.ArgumentParser: ...  # noqa: A002


def plain(given: str) -> str:
    """The type of an argument that is a name."""
    if not 1 <= len(given) <= 255 or not given.isprintable() or not any(c.isascii() and c.isalnum() for c in given):
        raise argparse.ArgumentTypeError("must be 1 to 255 printable characters, with a letter or a digit among them")
    return given


def group(commands: Subparsers, name: str, what: str) -> Subparsers:
    return commands.add_parser(name, help=what, description=what).add_subparsers(dest="action", required=True)


def verb(
    commands: Subparsers, name: str, work: Work, what: str, *,
    first: Callable[[argparse.Namespace], None] | None = None,
) -> argparse.ArgumentParser:
    """`first`: what is asked elsewhere before the database is, and put into the arguments."""

    def run(arguments: argparse.Namespace) -> None:
        if first is not None:
            first(arguments)
        asyncio.run(_run(work, arguments))

    parser = commands.add_parser(name, help=what, description=what)
    parser.add_argument("--state", type=Path, required=True, help="directory with the database's password")
    parser.set_defaults(run=run)
    return parser


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns under their heads; True, False and None as people write them."""
    words = {True: "yes", False: "no", None: "-", "": "-"}
    lines = [list(heads), *([words.get(x, str(x)) if x is None or isinstance(x, bool | str) else str(x) for x in row]
                            for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
    return "".join("  ".join(x.ljust(w) for x, w in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines)


async def _run(work: Work, arguments: argparse.Namespace) -> None:
    from coffer_db.database import Database  # noqa: PLC0415 - as in main: most commands need no database
    from coffer_manage.database import settings  # noqa: PLC0415

    db = Database(settings(arguments.state), name="coffer-manage")
    try:
        async with db.begin() as session:
            said = await work(session, arguments)
    finally:
        await db.close()
    sys.stdout.write(said)
