"""Having a running server take on what its configuration files say.

The server does not tell which of its variables it can change while it runs; it refuses to change the others.
"""

from __future__ import annotations

from collections.abc import Collection

from coffer_datastores.mysql.configuration import own_settings, settings
from coffer_datastores.mysql_containers import CONFIG
from coffer_datastores.mysql_session import MySQLError
from coffer_datastores.mysql_settings import is_same, tell
from coffer_shared.datastore import Engine, EngineError, Order, Session
from coffer_shared.messages import Failure

_KNOWN = (
    "SELECT i.VARIABLE_NAME AS name, v.VARIABLE_VALUE AS value, i.VARIABLE_PATH AS path "
    "FROM performance_schema.variables_info i JOIN performance_schema.global_variables v USING (VARIABLE_NAME)"
)
_ONLY_AT_START = 1238


class Configurations:
    """Implements HasConfiguration. The server reads its files at its start only, so each change is told to it."""

    async def reconfigure(self, engine: Engine, order: Order, changed: Collection[str]) -> list[str]:
        wanted, own = settings(order), own_settings(order)
        waiting = set()
        async with engine.session() as session:
            known = {row["name"]: row for row in await session.fetch(_KNOWN)}
            for name in sorted(changed):
                if name not in known:
                    raise EngineError(Failure.INVALID, f"the server knows no {name}")
                try:
                    await tell(session, name, wanted.get(name))
                except MySQLError as error:
                    if error.number != _ONLY_AT_START:
                        raise
            of_files = {name for name, row in known.items() if (row["path"] or "").startswith(CONFIG)}
            for name in (of_files | {*changed, *order.settings}) - own.keys():
                value = wanted.get(name)
                stays = name not in of_files if value is None else is_same(known[name]["value"], value)
                if not stays and not await _is_told(session, name):
                    waiting.add(name)
        return sorted(waiting)


async def _is_told(session: Session, name: str) -> bool:
    """Whether the server takes that variable while it runs. It is told what it has."""
    try:
        await session.execute(f"SET GLOBAL {name} = @@GLOBAL.{name}")
    except MySQLError as error:
        if error.number != _ONLY_AT_START:
            raise
        return False
    return True
