"""Whether an installation is well: its keys, its database, what runs in it. It looks, and changes nothing.

Whoever sees all keys had better reach nothing, so each part is looked at only where it can be seen: the keys where the
installation's whole directory is, the rest where this program's own part of it is.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from coffer_manage import doctor_database, doctor_files
from coffer_manage.finding import Finding, Level, ok, problem

_NATS_SECONDS = 5.0


async def examine(state: Path, *, keys_only: bool = False) -> list[Finding]:
    """`state`: the installation's directory or, without the keys, this program's part of it."""
    found = []
    if keys_only or (state / "operator").is_dir():
        found += await asyncio.to_thread(doctor_files.findings, state, time.time())
    if not keys_only:
        found += [*await doctor_database.findings(state), *await _nats()]
    return found


def told(found: Sequence[Finding]) -> str:
    """A line for each, and what to do below it."""
    lines = []
    for one in found:
        lines.append(f"{one.level:<9}{one.about:<19}{one.text}\n")
        if one.remedy:
            lines.append(f"{'':<28}-> {one.remedy}\n")
    count = sum(one.level is Level.PROBLEM for one in found)
    lines.append("All is well.\n" if not count else f"{count} problem{'s' if count > 1 else ''}.\n")
    return "".join(lines)


def is_ill(found: Sequence[Finding]) -> bool:
    return any(one.level is Level.PROBLEM for one in found)


async def _nats() -> list[Finding]:
    return [await _nats_at(url) for url in os.environ.get("COFFER_NATS_URLS", "").split(",") if url]


async def _nats_at(url: str) -> Finding:
    """Whether it takes connections: it says nothing before TLS, for which this program has no credential."""
    try:
        parts = urlsplit(url)
        async with asyncio.timeout(_NATS_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
        writer.close()
    except (OSError, ValueError) as error:  # also when it takes too long
        why = f"{url} takes no connection: {str(error) or 'no answer'}"
        return problem("NATS", why, "look at its log; nothing is lost meanwhile")
    return ok("NATS", f"{url} takes connections")
