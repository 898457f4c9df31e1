"""How much a project may have. Counted in the transaction that adds, under a lock of the project."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from coffer_api.problems import over_limit
from coffer_api.settings import Settings
from coffer_db import usage
from coffer_db.usage import Use, lock

__all__ = ["INSTANCE", "check", "check_backups", "defaults", "limit", "lock"]
INSTANCE = ("instances", "volumes", "ram")
"""What a new instance adds to."""


def defaults(settings: Settings) -> Mapping[str, int]:
    """The limits of a project that has none of its own. -1: none."""
    return {
        "instances": settings.quota_instances, "ram": settings.quota_ram, "volumes": settings.quota_volumes,
        "backups": settings.quota_backups,
    }


def limit(settings: Settings, use: Use) -> int:
    return defaults(settings)[use.resource] if use.limit is None else use.limit


async def check(
    session: AsyncSession, project: str, settings: Settings, resources: Collection[str] = INSTANCE,
) -> None:
    """413 when what the transaction has added is too much. `resources`: those it has added to; of the others there may
    be too much already, where a limit was lowered."""
    _refuse([use for use in await usage.count(session, project) if use.resource in resources], settings)


async def check_backups(session: AsyncSession, project: str, settings: Settings) -> None:
    """As `check`. Whatever is not deleted counts, failed ones too."""
    await check(session, project, settings, ("backups",))


def _refuse(used: Sequence[Use], settings: Settings) -> None:
    exceeded = sorted(use.resource for use in used if 0 <= limit(settings, use) < use.total)
    if exceeded:
        raise over_limit(f"Quota exceeded for resources: {exceeded}.")
