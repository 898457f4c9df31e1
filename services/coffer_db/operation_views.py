"""Operations as people are shown them: never a secret argument, sealed or not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import SQLModel

from coffer_db.tables import OperationState

_o = SQLModel.metadata.tables["operations"].c
_e = SQLModel.metadata.tables["operation_events"].c


@dataclass(frozen=True, slots=True)
class OperationView:
    id: str
    instance_id: str
    project_id: str
    user_id: str
    request_id: str
    kind: str
    lifecycle: bool
    args: dict[str, Any]
    state: OperationState
    step: str
    progress: int
    progress_text: str
    attempts: int
    failure_code: str | None
    failure_text: str | None
    failure_step: str | None
    cancel_requested: bool
    deadline: datetime
    guest_result: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class EventView:
    n: int
    kind: str
    percent: int
    text: str
    at: datetime


_COLUMNS = tuple(getattr(_o, name) for name in OperationView.__dataclass_fields__)


async def get(conn: AsyncConnection | AsyncSession, project: str | None, operation_id: str) -> OperationView | None:
    """One operation, if it is the project's; `project` None sees all."""
    query = select(*_COLUMNS).where(_o.id == operation_id)
    if project is not None:
        query = query.where(_o.project_id == project)
    row = (await conn.execute(query)).one_or_none()
    return None if row is None else _view(row)


async def list_for_project(
    conn: AsyncConnection | AsyncSession, project: str | None, *, limit: int, marker: str | None = None,
) -> list[OperationView]:
    """Newest first, those filed before the operation `marker`; `project` None sees all."""
    return await _list(conn, [] if project is None else [_o.project_id == project], limit, marker)


async def list_for_instance(
    conn: AsyncConnection | AsyncSession, project: str | None, instance: str, *, limit: int, marker: str | None = None,
) -> list[OperationView]:
    mine = [] if project is None else [_o.project_id == project]
    return await _list(conn, [*mine, _o.instance_id == instance], limit, marker)


async def events(conn: AsyncConnection | AsyncSession, operation_id: str, *, limit: int) -> list[EventView]:
    """The last events that the guest reported, in their order."""
    query = (
        select(_e.n, _e.kind, _e.percent, _e.text, _e.at)
        .where(_e.operation_id == operation_id).order_by(_e.n.desc()).limit(limit)
    )
    return [EventView(*row) for row in reversed((await conn.execute(query)).all())]


async def _list(
    conn: AsyncConnection | AsyncSession, where: list[ColumnElement[bool]], limit: int, marker: str | None,
) -> list[OperationView]:
    query = select(*_COLUMNS).where(*where).order_by(_o.seq.desc()).limit(limit)
    if marker is not None:
        query = query.where(_o.seq < select(_o.seq).where(_o.id == marker, *where).scalar_subquery())
    return [_view(row) for row in await conn.execute(query)]


def _view(row: Row[Any]) -> OperationView:
    return OperationView(**{**row._mapping, "state": OperationState(row.state)})  # noqa: SLF001 - public, despite its name
