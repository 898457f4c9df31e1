"""Resources that the database knows nothing of, for people; see `coffer_db.orphans`."""

from __future__ import annotations

from pathlib import Path

from coffer_db import orphans
from coffer_db.database import Database
from coffer_manage.database import settings


async def listed(state: Path) -> str:
    db = Database(settings(state), name="coffer-manage")
    try:
        found = await orphans.known(db)
    finally:
        await db.close()
    if not found:
        return "There are none.\n"
    lines = [("KIND", "ID", "INSTANCE", "FIRST SEEN (UTC)", "")]
    for one in found:
        notes = [
            text for text, holds in (
                ("held a database", one.held_data), ("its instance lives", one.instance_lives),
                ("to be dropped", one.drop_requested),
            ) if holds
        ]
        lines.append((one.kind, one.id, one.instance_id, f"{one.first_seen_at:%Y-%m-%d %H:%M}", ", ".join(notes)))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    return "".join(
        "  ".join((*(part.ljust(width) for part, width in zip(line, widths, strict=False)), line[4])).rstrip() + "\n"
        for line in lines
    )


async def delete(state: Path, kind: str, identity: str, *, with_data: bool) -> None:
    db = Database(settings(state), name="coffer-manage")
    try:
        await orphans.request_drop(db, kind, identity, with_data=with_data)
    finally:
        await db.close()
