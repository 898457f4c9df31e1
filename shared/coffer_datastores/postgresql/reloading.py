"""Having a running server take on what its configuration files say."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Any

from coffer_datastores.postgresql.session import identifier, literal
from coffer_shared.datastore import Engine, EngineError, Order, Session
from coffer_shared.messages import Failure

_LOOKS, _LOOK_SECONDS = 250, 0.02
# What the files say is looked at without being taken on. Of those that need a restart the server says no more than that
# it cannot take them on, whether they are good or not.
_REFUSED = """
SELECT f.name, f.setting, s.context
FROM pg_file_settings f LEFT JOIN pg_settings s ON s.name = f.name
WHERE f.error IS NOT NULL AND s.context IS DISTINCT FROM 'postmaster'
ORDER BY f.seqno
"""
_WAITING = "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name"


class Configurations:
    """Implements HasConfiguration."""

    async def reconfigure(self, engine: Engine, order: Order, changed: Collection[str]) -> list[str]:
        del order, changed  # the server compares for itself
        async with engine.session() as session:
            for refused in await session.fetch(_REFUSED):
                raise EngineError(Failure.INVALID, await _reason(session, refused))
            await reload(session)
            return [row["name"] for row in await session.fetch(_WAITING)]


async def reload(session: Session) -> None:
    """The configuration files as they are now. A session sees the new ones only when the server itself has them."""
    before = await _loaded(session)
    await session.fetch("SELECT pg_reload_conf()")
    for _ in range(_LOOKS):
        if await _loaded(session) != before:
            return
        await asyncio.sleep(_LOOK_SECONDS)
    raise EngineError(Failure.ENGINE, "the server does not read its configuration again")


async def _loaded(session: Session) -> object:
    return (await session.fetch("SELECT pg_conf_load_time() AS at"))[0]["at"]


async def _reason(session: Session, refused: Mapping[str, Any]) -> str:
    """In the server's words, where a session may try the value; they are not in the view."""
    name, value = str(refused["name"]), str(refused["setting"])
    if refused["context"] in {"user", "superuser"}:
        try:
            async with session.transaction():
                await session.execute(f"SET LOCAL {identifier(name)} = {literal(value)}")
        except EngineError as error:
            return error.text
    return f"the server does not take {value!r} for {name}"
