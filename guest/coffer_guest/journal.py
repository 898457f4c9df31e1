"""Commands and their events on disk: a command is here before it is accepted, its events until they are acknowledged.

The arguments of a command may hold passwords. They are kept only while it runs, so that it can be resumed, and are
erased with the transaction that ends it.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time

import msgspec

from coffer_guest.state import get_floor, put_floor
from coffer_guest.store import Store
from coffer_shared.messages import Finished, Progress, Start

RUNNING = "running"
_KEEP_SECONDS = 45 * 86400.0
_MAX_UNSENT = 500
"""Of one operation; further progress is not recorded until some are acknowledged. Endings always are."""


class Entry(msgspec.Struct, frozen=True):
    """A command as journaled. `note` is what its handler wrote down for the case of a restart."""

    op: str
    kind: str
    args: bytes
    deadline: float
    trace: str
    state: str
    note: str

    def __repr__(self) -> str:
        return f"Entry({self.op}, {self.kind}, {self.state})"


class Spooled(msgspec.Struct, frozen=True):
    """An event that is not acknowledged yet, encoded."""

    op: str
    n: int
    body: bytes


class Journal:
    def __init__(self, store: Store) -> None:
        self._store = store
        self.pending = asyncio.Event()
        """Set when an event was added."""

    async def floor(self) -> int:
        """Below or at this sequence every command was seen: see `coffer_shared.replay`."""
        return await self._store.read(get_floor)

    async def raise_floor(self, floor: int) -> None:
        await self._store.write(lambda db: put_floor(db, floor))

    async def state_of(self, op: str) -> str | None:
        row = await self._store.read(lambda db: db.execute("SELECT state FROM command WHERE op = ?", (op,)).fetchone())
        return None if row is None else str(row[0])

    async def add(self, command: Start, floor: int) -> Entry | None:
        """None if the operation is already here, whatever became of it."""
        args = msgspec.json.encode(command.args)

        def work(db: sqlite3.Connection) -> bool:
            put_floor(db, floor)
            db.execute("DELETE FROM command WHERE state <> ? AND at < ?", (RUNNING, time.time() - _KEEP_SECONDS))
            cursor = db.execute(
                "INSERT OR IGNORE INTO command (op, kind, args, deadline, trace, state, at) VALUES (?,?,?,?,?,?,?)",
                (command.op, command.kind, args, command.deadline, command.trace, RUNNING, time.time()),
            )
            return cursor.rowcount == 1

        if not await self._store.write(work):
            return None
        return Entry(command.op, command.kind, args, command.deadline, command.trace, RUNNING, "")

    async def running(self) -> list[Entry]:
        """What a restart interrupted."""
        rows = await self._store.read(
            lambda db: db.execute(
                "SELECT op, kind, args, deadline, trace, state, note FROM command WHERE state = ? ORDER BY at",
                (RUNNING,),
            ).fetchall()
        )
        return [Entry(*row) for row in rows]

    async def note(self, op: str, note: str) -> None:
        await self._store.write(lambda db: db.execute("UPDATE command SET note = ? WHERE op = ?", (note, op)))

    async def progress(self, op: str, percent: int, text: str, at: float) -> None:
        def work(db: sqlite3.Connection) -> None:
            (unsent,) = db.execute("SELECT count(*) FROM event WHERE op = ?", (op,)).fetchone()
            if unsent < _MAX_UNSENT:
                n = _next_number(db, op)
                _spool(db, op, n, Progress(op=op, n=n, percent=percent, text=text, at=at))

        await self._store.write(work)
        self.pending.set()

    async def finish(self, op: str, state: str, result: dict[str, object], code: str, text: str, at: float) -> None:
        """The ending and the event that tells it, together; the arguments and the note go."""

        def work(db: sqlite3.Connection) -> None:
            n = _next_number(db, op)
            _spool(db, op, n, Finished(op=op, n=n, state=state, result=result, code=code, text=text, at=at))
            db.execute("UPDATE command SET state = ?, args = NULL, note = '' WHERE op = ?", (state, op))

        await self._store.write(work)
        self.pending.set()
        await self._store.forget_old_pages()

    async def unsent(self) -> list[Spooled]:
        """For each operation its oldest unacknowledged event, oldest first: those of one operation go out in order."""
        rows = await self._store.read(
            lambda db: db.execute(
                "SELECT op, n, body FROM event WHERE id IN (SELECT min(id) FROM event GROUP BY op) ORDER BY id"
            ).fetchall()
        )
        return [Spooled(*row) for row in rows]

    async def acknowledged(self, op: str, n: int) -> None:
        await self._store.write(lambda db: db.execute("DELETE FROM event WHERE op = ? AND n = ?", (op, n)))


def _next_number(db: sqlite3.Connection, op: str) -> int:
    (n,) = db.execute("UPDATE command SET events = events + 1 WHERE op = ? RETURNING events - 1", (op,)).fetchone()
    return int(n)


def _spool(db: sqlite3.Connection, op: str, n: int, event: Progress | Finished) -> None:
    db.execute("INSERT INTO event (op, n, body) VALUES (?, ?, ?)", (op, n, msgspec.json.encode(event)))
