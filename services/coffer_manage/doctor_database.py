"""The part of the doctor that asks the database: its own state, and what it says of the rest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg

from coffer_db import marks, roles
from coffer_db import migrate as schema
from coffer_db.database import Database, DatabaseSettings
from coffer_manage.database import fingerprint, settings
from coffer_manage.finding import Finding, ok, problem, warning
from coffer_shared.errors import Unavailable

SILENT_SECONDS = 90
STUCK_ATTEMPTS = 20
_MIGRATE = "run `coffer-manage migrate`"
_SHOWN = 5

Connection: TypeAlias = "asyncpg.Connection[Any]"
Look: TypeAlias = Callable[[Connection], Awaitable[Finding]]


async def findings(state: Path) -> list[Finding]:
    try:
        chosen = settings(state)
        db = Database(chosen, name="coffer-manage")
        try:
            connection = await db.connect_alone()
            try:
                return [ok("database", f"{chosen.database_host} answers"), *await _asked(chosen, connection, state)]
            finally:
                await connection.close()
        finally:
            await db.close()
    except (Unavailable, OSError, asyncpg.PostgresError) as error:
        return [problem("database", f"it cannot be asked: {error}", "start PostgreSQL, or look at its log")]


async def _asked(chosen: DatabaseSettings, connection: Connection, state: Path) -> list[Finding]:
    there, wanted = await schema.current(chosen.url()), schema.newest()
    if there != wanted:
        return [problem("schema", f"it is at revision {there}, this release wants {wanted}", _MIGRATE)]
    drift = await schema.check_drift(chosen.url())
    found = [
        problem("schema", f"it differs: {_some(drift)}", "undo by hand what was changed by hand") if drift
        else ok("schema", f"it is at revision {there}"),
    ]
    looks: tuple[Look, ...] = (_roles, _images, _overdue, _stuck, _silent, _orphans)
    return [*found, *[await look(connection) for look in looks], await _export(connection, state)]


async def _roles(connection: Connection) -> Finding:
    wrong = await roles.differences(connection)
    if wrong:
        return problem("roles", f"their rights differ: {_some(wrong)}", _MIGRATE)
    return ok("roles", "their rights are as they should be")


async def _images(connection: Connection) -> Finding:
    rows = await connection.fetch(
        "SELECT d.name || ' ' || v.name FROM datastore_versions v JOIN datastores d ON d.id = v.datastore_id "
        "WHERE v.active AND (v.image_digest = '' OR (v.backup_image <> '' AND v.backup_image_digest = '')) ORDER BY 1",
    )
    if rows:
        return problem(
            "images", f"no digest is recorded for {_some([row[0] for row in rows])}: it cannot be used",
            "push its images, and run `coffer-manage register`",
        )
    return ok("images", "each active version has its digests")


async def _overdue(connection: Connection) -> Finding:
    rows = await connection.fetch(f"SELECT kind || ' ' || id FROM operations WHERE {_OPEN} AND deadline < now()")  # noqa: S608 - a constant
    if rows:
        return problem(
            "operations", f"open past their deadline: {_some([row[0] for row in rows])}",
            "see whether a provisioner runs, and its log",
        )
    return ok("operations", "none is open past its deadline")


async def _stuck(connection: Connection) -> Finding:
    rows = await connection.fetch(
        f"SELECT kind || ' ' || id || ' at ' || step || ' (' || progress_text || ')' FROM operations "  # noqa: S608 - a constant
        f"WHERE {_OPEN} AND attempts >= $1", STUCK_ATTEMPTS,
    )
    if rows:
        return warning(
            "operations", f"tried again and again: {_some([row[0] for row in rows])}", "see the provisioners' log",
        )
    return ok("operations", "none is stuck")


async def _silent(connection: Connection) -> Finding:
    rows = await connection.fetch(
        "SELECT i.id FROM instances i LEFT JOIN heartbeats h ON h.instance_id = i.id "
        "WHERE i.deleted_at IS NULL AND i.started_once AND NOT i.failed "
        "AND (h.received_at IS NULL OR h.received_at < now() - make_interval(secs => $1)) ORDER BY i.id",
        SILENT_SECONDS,
    )
    if rows:
        return warning(
            "guests", f"nothing is heard of {_some([row[0] for row in rows])}",
            "look at the machine's console; `reboot` restarts it",
        )
    return ok("guests", "all are heard of")


async def _orphans(connection: Connection) -> Finding:
    count = await connection.fetchval("SELECT count(*) FROM orphans")
    if count:
        return warning("orphans", f"{count} resources are unknown to the database", "see `coffer-manage orphans list`")
    return ok("orphans", "there are none")


async def _export(connection: Connection, state: Path) -> Finding:
    remedy = "`coffer-manage master-key export`, keep that file elsewhere, then `master-key verify` it"
    try:
        own = fingerprint(state)
    except OSError as error:
        return problem("master key export", f"which key it should be of, cannot be read: {error}", "run `init` again")
    row = await connection.fetchrow("SELECT value, at FROM marks WHERE name = $1", marks.EXPORTED)
    if row is None:
        return problem("master key export", "nobody has confirmed one: without it no backup outlives this host", remedy)
    if row["value"] != own:
        return problem("master key export", f"the confirmed one is of another key, {row['value']}", remedy)
    return ok("master key export", f"confirmed on {row['at']:%Y-%m-%d}")


def _some(lines: list[str]) -> str:
    more = f" and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "; ".join(lines[:_SHOWN]) + more


_OPEN = "state IN ('pending', 'running', 'waiting', 'undoing')"
