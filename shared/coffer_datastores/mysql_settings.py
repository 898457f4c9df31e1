"""Settings of a server of the MySQL family: as they stand in its files, and as it is told them while it runs."""

from __future__ import annotations

import re
from typing import Any

from coffer_datastores.mysql_session import literal
from coffer_shared.datastore import EngineError, Session, Setting
from coffer_shared.messages import Failure

_SWITCHES = {"ON": 1.0, "TRUE": 1.0, "YES": 1.0, "OFF": 0.0, "FALSE": 0.0, "NO": 0.0}


def written(value: Setting) -> str:
    """As it stands in a file."""
    if isinstance(value, bool):
        return "ON" if value else "OFF"
    text = str(value)
    if not text.isprintable():
        raise EngineError(Failure.INVALID, "a setting has characters that cannot be printed")
    if re.fullmatch(r"[\w.,:/+-]+", text, re.ASCII):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


async def tell(session: Session, name: str, value: Setting | None) -> None:
    """For everybody from now on; None: what the server has by itself. EngineError `invalid` also where it would take
    another value than this one, such as the nearest that it allows."""
    await session.execute(f"SET GLOBAL {name} = {_told(value)}")
    (found,) = await session.fetch(f"SELECT @@GLOBAL.{name} AS value")
    if value is not None and not is_same(found["value"], value):
        raise EngineError(Failure.INVALID, f"for {name} the server takes {found['value']} instead of {value}")


def is_same(found: Any, wanted: Setting) -> bool:
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
