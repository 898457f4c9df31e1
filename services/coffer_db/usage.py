"""What projects use and may use at most. Use is counted from the rows each time; there are no counters that could be
wrong, so nothing is released twice.

Who adds to a project's use locks the project first, adds, counts, and rolls back where it is too much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

RESOURCES = ("instances", "ram", "volumes", "backups")
"""Their number; MiB and GiB in all; their number."""
UNLIMITED = -1
MOST = 2**31 - 1

USAGE = """
    WITH own AS (
        SELECT i.volume_gib, f.ram_mb, coalesce(o.kind = 'create_instance', false) AS building,
               CASE o.kind WHEN 'resize_volume' THEN (o.args ->> 'volume_gib')::int - i.volume_gib END AS more_gib,
               wanted.ram_mb - f.ram_mb AS more_ram
        FROM instances i JOIN flavors f ON f.id = i.flavor_id
        LEFT JOIN operations o ON o.instance_id = i.id AND o.lifecycle
            AND o.state IN ('pending', 'running', 'waiting', 'undoing')
        LEFT JOIN flavors wanted ON o.kind = 'resize_flavor' AND wanted.id = o.args ->> 'flavor'
        WHERE i.project_id = $1 AND i.deleted_at IS NULL
    ), used AS (
        SELECT a.resource, a.amount, own.building
        FROM own CROSS JOIN LATERAL
            (VALUES ('instances', 1), ('ram', own.ram_mb), ('volumes', own.volume_gib)) AS a (resource, amount)
        UNION ALL
        SELECT a.resource, a.amount, true
        FROM own CROSS JOIN LATERAL (VALUES ('ram', own.more_ram), ('volumes', own.more_gib)) AS a (resource, amount)
        WHERE a.amount > 0
        UNION ALL
        SELECT 'backups', 1, b.state IN ('NEW', 'BUILDING', 'SAVING')
        FROM backups b WHERE b.project_id = $1 AND b.deleted_at IS NULL
    )
    SELECT r.resource, q.hard_limit,
           coalesce(sum(u.amount) FILTER (WHERE NOT u.building), 0)::bigint AS in_use,
           coalesce(sum(u.amount) FILTER (WHERE u.building), 0)::bigint AS reserved
    FROM (VALUES (1, 'instances'), (2, 'ram'), (3, 'volumes'), (4, 'backups')) AS r (n, resource)
    LEFT JOIN used u ON u.resource = r.resource
    LEFT JOIN project_quotas q ON q.project_id = $1 AND q.resource = r.resource
    GROUP BY r.n, r.resource, q.hard_limit
    ORDER BY r.n
"""
"""Of the project $1: a row for each resource. What grows is counted as it is to be from its filing on: the part that
it does not have yet is reserved."""
LIMITS = "SELECT resource, hard_limit FROM project_quotas WHERE project_id = $1"
"""Those of the project $1 that differ from the settings."""

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('quota of ' || :project, 0))")
_USAGE = text(USAGE.replace("$1", "CAST(:project AS text)"))
_SET = text("""
    INSERT INTO project_quotas (project_id, resource, hard_limit) VALUES (:project, :resource, :limit)
    ON CONFLICT (project_id, resource) DO UPDATE SET hard_limit = excluded.hard_limit
""")
_DROP = text("DELETE FROM project_quotas WHERE project_id = :project AND resource = :resource")


@dataclass(frozen=True, slots=True)
class Use:
    resource: str
    limit: int | None
    """The project's own; None: as the settings say. -1: no limit."""
    in_use: int
    reserved: int
    """Of what is being made."""

    @property
    def total(self) -> int:
        return self.in_use + self.reserved


def use(row: Any) -> Use:
    """From a row of USAGE."""
    return Use(row["resource"], row["hard_limit"], row["in_use"], row["reserved"])


async def lock(session: AsyncSession, project: str) -> None:
    """One change of a project's use at a time, until the transaction ends."""
    await session.execute(_LOCK, {"project": project})


async def count(session: AsyncSession, project: str) -> Sequence[Use]:
    """In the order of RESOURCES."""
    return [use(row) for row in (await session.execute(_USAGE, {"project": project})).mappings()]


async def set_limits(session: AsyncSession, project: str, limits: Mapping[str, int | None]) -> None:
    """By resource; None: as the settings say."""
    await lock(session, project)
    for resource, limit in limits.items():
        values: dict[str, Any] = {"project": project, "resource": resource}
        if limit is None:
            await session.execute(_DROP, values)
        else:
            await session.execute(_SET, {**values, "limit": limit})
