"""How much a project may have. Counted in the transaction that adds, under a lock of the project."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from coffer_api.problems import over_limit
from coffer_api.settings import Settings

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('quota of ' || :project, 0))")
_USED = text("""
    SELECT count(*), coalesce(sum(i.volume_gib), 0), coalesce(sum(f.ram_mb), 0)
    FROM instances i JOIN flavors f ON f.id = i.flavor_id
    WHERE i.project_id = :project AND i.deleted_at IS NULL
""")
_BACKUPS = text("SELECT count(*) FROM backups WHERE project_id = :project AND deleted_at IS NULL")


async def lock(session: AsyncSession, project: str) -> None:
    """One change of a project's use at a time, until the transaction ends."""
    await session.execute(_LOCK, {"project": project})


async def check(session: AsyncSession, project: str, settings: Settings) -> None:
    """413 when what the transaction has added is too much."""
    used = (await session.execute(_USED, {"project": project})).one()
    limits = (("instances", settings.quota_instances), ("volumes", settings.quota_volumes), ("ram", settings.quota_ram))
    _refuse([name for (name, limit), use in zip(limits, used, strict=True) if 0 <= limit < use])


async def check_backups(session: AsyncSession, project: str, settings: Settings) -> None:
    """As `check`. Whatever is not deleted counts, failed ones too."""
    used = (await session.execute(_BACKUPS, {"project": project})).scalar_one()
    _refuse(["backups"] if 0 <= settings.quota_backups < used else [])


def _refuse(exceeded: list[str]) -> None:
    if exceeded:
        raise over_limit(f"Quota exceeded for resources: {sorted(exceeded)}.")
