"""A live guest's credential and keys, copied out of its machine, and a connection to the stack's NATS with them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import nats
from nats.aio.client import Client

from coffer_shared import subjects
from coffer_shared.bus import tls_context
from coffer_shared.identity import Credentials, connect_options
from support.stack import Stack, run

_READ = (
    "import sqlite3, json; d = sqlite3.connect('file:/var/lib/coffer/agent.db?mode=ro', uri=True); "
    "print(json.dumps({n: json.loads(v) for n, v in d.execute('SELECT name, value FROM fact') if n in "
    "('identity', 'home')}))"
)


def loot_of(stack: Stack, instance: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(stack.inside(instance, "/opt/coffer/bin/python", "-c", _READ))
    return found


async def connect(
    stack: Stack, instance: str, loot: dict[str, Any], note: Callable[[Exception], Awaitable[None]],
) -> Client:
    """`note` is awaited with what the server objects to."""
    at = run(
        "docker", "inspect", "-f", f'{{{{(index .NetworkSettings.Networks "{stack.name}_control").IPAddress}}}}',
        f"{stack.name}-nats-1",
    ).strip()
    return await nats.connect(
        f"tls://{at}:4222", allow_reconnect=False, max_reconnect_attempts=1, error_cb=note, connect_timeout=5,
        tls=tls_context(loot["home"]["ca"]), tls_hostname="nats", tls_handshake_first=True,
        inbox_prefix=subjects.guest_inbox(instance),
        **connect_options(Credentials(loot["identity"]["jwt"], loot["identity"]["seed"])),
    )
