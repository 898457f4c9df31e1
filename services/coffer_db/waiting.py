"""Waiting for operations to end, for the API: notifications, and a look each second in case one was missed.

All waiters of a process share one connection and one query.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from coffer_db.database import Database
from coffer_db.operations import FINISHED_CHANNEL
from coffer_db.tables import OPEN_STATES, OperationState
from coffer_shared import log
from coffer_shared.errors import Unavailable

_log = log.get(__name__)
_o = SQLModel.metadata.tables["operations"].c
_OPEN = tuple(state.value for state in OPEN_STATES)


@dataclass(frozen=True, slots=True)
class Finished:
    """How an operation ended."""

    id: str
    state: OperationState
    failure_code: str | None
    failure_text: str | None
    failure_step: str | None
    guest_result: dict[str, Any]


class Waiter:
    def __init__(self, db: Database, *, look_every: float = 1.0) -> None:
        self._db = db
        self._look_every = look_every
        self._waiting: dict[str, set[asyncio.Future[Finished]]] = {}
        self._suspects: set[str] = set()
        self._stir = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._db.listen(FINISHED_CHANNEL, self._heard)
        self._task = asyncio.create_task(self._serve(), name="waiter")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def until_finished(self, operation_id: str, seconds: float) -> Finished | None:
        """How it ended; None if it has not after `seconds`."""
        future: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(operation_id, set()).add(future)
        self._suspect(operation_id)
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
        finally:
            others = self._waiting[operation_id]
            others.discard(future)
            if not others:
                del self._waiting[operation_id]

    def _heard(self, operation_id: str) -> None:
        if operation_id in self._waiting:
            self._suspect(operation_id)
        elif not operation_id:
            self._suspect(*self._waiting)

    def _suspect(self, *operation_ids: str) -> None:
        self._suspects.update(operation_ids)
        self._stir.set()

    async def _serve(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._look_every):
                    await self._stir.wait()
            except TimeoutError:
                self._suspects.update(self._waiting)
            self._stir.clear()
            suspects, self._suspects = self._suspects & self._waiting.keys(), set()
            if not suspects:
                continue
            try:
                await self._look(suspects)
            except Unavailable as why:
                _log.warning("cannot look for finished operations", why=str(why))

    async def _look(self, suspects: set[str]) -> None:
        async def finished(connection: AsyncConnection) -> list[Finished]:
            rows = await connection.execute(
                select(_o.id, _o.state, _o.failure_code, _o.failure_text, _o.failure_step, _o.guest_result)
                .where(_o.id.in_(suspects), _o.state.not_in(_OPEN)),
            )
            return [Finished(row[0], OperationState(row[1]), *row[2:]) for row in rows]

        for end in await self._db.read(finished):
            for future in self._waiting.get(end.id, ()):
                if not future.done():
                    future.set_result(end)
