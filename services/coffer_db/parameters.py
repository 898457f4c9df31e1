"""The parameters of a datastore version: recorded from a list, listed, taken away. Names differ in more than case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from coffer_shared.parameters import Parameter

_RECORD = text("""
    INSERT INTO configuration_parameters (version_id, name, data_type, restart_required, rule)
    VALUES (:version, :name, :data_type, :restart_required, CAST(:rule AS jsonb))
    ON CONFLICT (version_id, lower(name)) DO UPDATE
    SET data_type = excluded.data_type, restart_required = excluded.restart_required, rule = excluded.rule
""")
_KNOWN = text("""
    SELECT name, data_type, restart_required, rule FROM configuration_parameters WHERE version_id = :version
    ORDER BY lower(name)
""")
_DROP = text("DELETE FROM configuration_parameters WHERE version_id = :version")
_LOCK = text("SELECT id FROM datastore_versions WHERE id = :version FOR UPDATE")
_BEFORE = text("SELECT offer FROM registered WHERE kind = 'configuration_parameters' AND id = :version")
_REMEMBER = text("""
    INSERT INTO registered (kind, id, offer) VALUES ('configuration_parameters', :version, CAST(:offer AS jsonb))
    ON CONFLICT (kind, id) DO UPDATE SET offer = excluded.offer
""")


async def record(session: AsyncSession, version: str, listed: Sequence[Parameter]) -> None:
    """Bring each that is listed to what the list says; others stay, and a name stays spelt as it was."""
    rows = [
        {**_row(parameter), "version": version, "rule": msgspec.json.encode(parameter.rule()).decode()}
        for parameter in listed
    ]
    if rows:
        await session.execute(_RECORD, rows)


async def offer(session: AsyncSession, version: str, listed: Sequence[Parameter]) -> None:
    """As `record`, for what a release ships: what an administrator has changed, taken away or made stays as it is."""
    own = {"version": version}
    if (await session.execute(_LOCK, own)).first() is None:
        return
    before: dict[str, Any] = (await session.execute(_BEFORE, own)).scalar_one_or_none() or {}
    there = {row["name"].lower(): dict(row) for row in (await session.execute(_KNOWN, own)).mappings()}
    await record(session, version, [
        parameter for parameter in listed
        if there.get(parameter.name.lower()) == before.get(parameter.name.lower())
    ])
    now = before | {parameter.name.lower(): _row(parameter) for parameter in listed}
    await session.execute(_REMEMBER, {**own, "offer": msgspec.json.encode(now).decode()})


async def known(session: AsyncSession, version: str) -> list[Parameter]:
    rows = (await session.execute(_KNOWN, {"version": version})).mappings()
    return [
        msgspec.convert(
            {**row["rule"], "name": row["name"], "type": row["data_type"], "restart_required": row["restart_required"]},
            Parameter,
        )
        for row in rows
    ]


async def drop(session: AsyncSession, version: str) -> int:
    """How many there were."""
    done: Any = await session.execute(_DROP, {"version": version})
    return int(done.rowcount)


def _row(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name, "data_type": str(parameter.type), "restart_required": parameter.restart_required,
        "rule": parameter.rule(),
    }
