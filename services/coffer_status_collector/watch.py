"""Watches for silence: asks for the ages of heartbeats, tells what `silence` makes of them. One collector at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from coffer_shared import log
from coffer_shared.errors import Unavailable
from coffer_status_collector.silence import Changed, Fact, Hearing, Judged, MassSilence, judge
from coffer_status_collector.store import OwnConnection

_log = log.get(__name__)


class Watch:
    """Holds a lock of its connection's session: whoever has it watches, and another takes over when it ends."""

    def __init__(
        self, connection: OwnConnection, *, interval: float, lost_after: float, trouble: Callable[[], str],
    ) -> None:
        """`trouble` says what keeps this collector from hearing anybody; empty if nothing does."""
        self._connection = connection
        self._interval = interval
        self._lost_after = lost_after
        self._trouble = trouble
        self._locked = -1
        self._judged = Judged()

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except Unavailable as error:
                _log.warning("cannot look for silent instances", reason=str(error))
            await asyncio.sleep(self._interval / 2)

    async def look(self) -> list[Fact]:
        """One look. Nothing is known and told while another collector watches."""
        if not await self._mine():
            self._judged = Judged()
            return []
        rows = await self._connection.fetch(_AGES, 3 * self._interval, list(self._judged.told))
        ages = {row[0]: row[1] for row in rows[1:]}
        self._judged, facts = judge(
            self._judged, ages, of=int(rows[0][1]),
            interval=self._interval, lost_after=self._lost_after, trouble=self._trouble(),
        )
        for fact in facts:
            _tell(fact)
        return facts

    def levels(self) -> Mapping[tuple[str, ...], float]:
        """Instances by hearing; nothing while another collector watches."""
        return {(hearing.value,): count for hearing, count in self._judged.counts.items()}

    def mass(self) -> Mapping[tuple[str, ...], float]:
        return {(): float(self._judged.mass)}

    async def _mine(self) -> bool:
        if self._locked == self._connection.made:
            return True
        locked = (await self._connection.fetch(_LOCK))[0][0]
        # A connection that was lost takes its lock along, and counts up `made`.
        self._locked = self._connection.made if locked else -1
        return bool(locked)


def _tell(fact: Fact) -> None:
    match fact:
        case Changed(instance, Hearing.HEARD, _):
            _log.info("instance heard again", instance=instance)
        case Changed(instance, hearing, age):
            _log.warning(f"instance {hearing}", instance=instance, age=round(age, 1))
        case MassSilence(silent, of, why):
            _log.error("mass_silence", silent=silent, of=of, why=why)
        case _:
            _log.info("mass_silence over", silent=fact.silent, of=fact.of)


_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('coffer silence watch', 0))"
# An instance that is being deleted falls silent as it should. Of the others only those are fetched that matter: the
# first row is their number, the others are those that may be silent, and those that were told to be.
_AGES = """
WITH heard AS MATERIALIZED (
    SELECT heartbeats.instance_id, extract(epoch FROM now() - heartbeats.received_at)::float8 AS age
    FROM heartbeats JOIN instances ON instances.id = heartbeats.instance_id
    WHERE instances.deleted_at IS NULL AND NOT EXISTS (
        SELECT FROM operations
        WHERE operations.instance_id = heartbeats.instance_id AND operations.kind = 'delete_instance'
          AND operations.state IN ('pending', 'running', 'waiting', 'undoing')
    )
)
SELECT NULL, count(*)::float8 FROM heard
UNION ALL
SELECT instance_id, age FROM heard WHERE age > $1::float8 OR instance_id = ANY($2::text[])
"""
