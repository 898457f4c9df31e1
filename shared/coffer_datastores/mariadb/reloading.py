"""Having a running server take on what its configuration files say.

What it would silently make of a value, such as the nearest that it allows, is not what was asked for, and refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from coffer_datastores.mariadb.configuration import own_settings, settings, written
from coffer_datastores.mysql_session import literal
from coffer_shared.datastore import Engine, EngineError, Order, Session, Setting
from coffer_shared.messages import Failure

_KNOWN = (
    "SELECT LOWER(VARIABLE_NAME) AS name, READ_ONLY AS fixed, GLOBAL_VALUE AS value, DEFAULT_VALUE AS unset, "
    "GLOBAL_VALUE_ORIGIN AS origin FROM information_schema.SYSTEM_VARIABLES"
)
_SWITCHES = {"ON": 1.0, "TRUE": 1.0, "YES": 1.0, "OFF": 0.0, "FALSE": 0.0, "NO": 0.0}


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
                    await _tell(session, name, wanted.get(name))
        chosen = {name for name, row in known.items() if row["origin"] == "CONFIG"} | {*changed, *order.settings}
        return sorted(name for name in chosen - own_settings(order).keys() if _waits(known[name], wanted.get(name)))


async def _tell(session: Session, name: str, value: Setting | None) -> None:
    await session.execute(f"SET GLOBAL {name} = {_told(value)}")
    (found,) = await session.fetch(f"SELECT @@GLOBAL.{name} AS value")
    if value is not None and not _same(found["value"], value):
        raise EngineError(Failure.INVALID, f"for {name} the server takes {found['value']} instead of {value}")


def _same(found: Any, wanted: Setting) -> bool:
    """Numbers and switches are told in several ways, lists of words in any order and case."""
    one, other = _number(found), _number(wanted)
    return one == other if one is not None and other is not None else _words(found) == _words(wanted)


def _number(value: Any) -> float | None:
    text = str(value).upper()
    try:
        return _SWITCHES.get(text) if text in _SWITCHES else float(text)
    except ValueError:
        return None


def _words(value: Any) -> set[str]:
    return {word.strip().upper() for word in str(value).split(",")}


def _told(value: Setting | None) -> str:
    if value is None:
        return "DEFAULT"
    return literal(value) if isinstance(value, str) else written(value)


def _waits(row: Mapping[str, Any], wanted: Setting | None) -> bool:
    """Whether a restart would change it."""
    if row["fixed"] == "NO":
        return False
    value = row["unset"] if wanted is None else wanted
    text = written(value) if isinstance(value, bool) else str(value)
    return text.lower() != str(row["value"]).lower()
