"""What the agent does for a snapshot of PostgreSQL's volume, and with a server that opens on one.

To the server such a copy is what a crash leaves: it replays the write-ahead log since the last checkpoint.
"""

from __future__ import annotations

from coffer_datastores.postgresql.backup import drop_slots
from coffer_shared.datastore import Engine


class Snapshots:
    """Implements HasSnapshot."""

    async def before_snapshot(self, engine: Engine) -> None:
        async with engine.session() as session:
            await session.execute("CHECKPOINT")

    async def after_adoption(self, engine: Engine) -> None:
        """No backup of the original goes on here, so nobody would ever give its slot back. A tenant's slots and
        subscriptions stay, as they do in a backup: the copy may be what takes the original's place."""
        async with engine.session() as session:
            await drop_slots(session)
