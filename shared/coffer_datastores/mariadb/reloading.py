"""Having a running server take on what its configuration files say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from coffer_datastores.mariadb.configuration import own_settings, settings
from coffer_datastores.mysql_settings import tell, written
from coffer_shared.datastore import Engine, EngineError, Order, Setting
from coffer_shared.messages import Failure

_KNOWN = (
    "SELECT LOWER(VARIABLE_NAME) AS name, READ_ONLY AS fixed, GLOBAL_VALUE AS value, DEFAULT_VALUE AS unset, "
    "GLOBAL_VALUE_ORIGIN AS origin FROM information_schema.SYSTEM_VARIABLES"
)


class Configurations:
    """Implements HasConfiguration. The server reads its files at its start only, so each change is told to it."""

    async def reconfigure(self, engine: Engine, order: Order, changed: Collection[str]) -> list[str]:
        wanted = settings(order)
        async with engine.session() as session:
            known = {row["name"]: row for row in await session.fetch(_KNOWN)}
            for name in sorted(changed):
                if name not in known:
                    raise EngineError(Failure.INVALID, f"the server knows no {name}")
                if known[name]["fixed"] == "NO":
                    await tell(session, name, wanted.get(name))
        chosen = {name for name, row in known.items() if row["origin"] == "CONFIG"} | {*changed, *order.settings}
        return sorted(name for name in chosen - own_settings(order).keys() if _waits(known[name], wanted.get(name)))


def _waits(row: Mapping[str, Any], wanted: Setting | None) -> bool:
    """Whether a restart would change it."""
    if row["fixed"] == "NO":
        return False
    value = row["unset"] if wanted is None else wanted
    text = written(value) if isinstance(value, bool) else str(value)
    return text.lower() != str(row["value"]).lower()
