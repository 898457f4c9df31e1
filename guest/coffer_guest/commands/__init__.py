"""What the agent can do: a function for every kind of command and every query.

A command function gets a `Context` and its decoded arguments, and returns its result. It may be run again from its
start after a restart of the agent, with `context.resumed` set: it looks first what is done already. What it cannot
see it writes down before (`context.note`). When it is cancelled, `context.ending` tells whether it will be resumed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from coffer_guest.commands import (
    access,
    adopt,
    backup,
    configure,
    databases,
    lifecycle,
    prepare,
    resize,
    root,
    snapshot,
    upgrade,
    users,
    volume,
)
from coffer_guest.commands.context import Context
from coffer_guest.machine import Machine
from coffer_shared import commands as forms

Run: TypeAlias = Callable[[Context, Any], Awaitable[Any]]
Look: TypeAlias = Callable[[Machine, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Command:
    form: type
    """Of its arguments."""
    run: Run
    beside: bool = False
    """It changes nothing that other commands change: it runs beside one of those, and at most one such at a time."""


@dataclass(frozen=True, slots=True)
class Query:
    form: type
    look: Look


_RUN: Mapping[str, Run] = {
    "prepare": prepare.prepare,
    "restore": prepare.restore,
    "adopt": adopt.adopt,
    "restart": lifecycle.restart,
    "stop": lifecycle.stop,
    "start": lifecycle.start,
    "create_databases": databases.create,
    "drop_database": databases.drop,
    "create_users": users.create,
    "drop_user": users.drop,
    "set_passwords": users.set_passwords,
    "change_user": users.change,
    "grant": users.grant,
    "revoke": users.revoke,
    "enable_root": root.enable,
    "disable_root": root.disable,
    "grow_volume": volume.grow,
    "resize": resize.resize,
    "set_access": access.set_access,
    "configure": configure.configure,
    "upgrade": upgrade.upgrade,
    "backup": backup.backup,
    "snapshot": snapshot.snapshot,
}
_BESIDE = frozenset({"backup", "snapshot"})
_LOOK: Mapping[str, Look] = {
    "ping": lifecycle.ping,
    "databases": databases.find,
    "users": users.find,
    "user": users.find_one,
    "root": root.find,
    "volume": volume.use,
}

COMMANDS: Mapping[str, Command] = {
    kind: Command(forms.COMMANDS[kind], run, beside=kind in _BESIDE) for kind, run in _RUN.items()
}
QUERIES: Mapping[str, Query] = {name: Query(forms.QUERIES[name][0], look) for name, look in _LOOK.items()}
