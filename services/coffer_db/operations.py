"""Filing, claiming and saving operations: the only writer of an operation's state.

A claimed operation has `wake_at` equal to `lease_until`: nobody looks at it before its lease ends, and a wake that
comes while it runs makes the two differ, which `save` sees. Claim, extend and save are one statement each and go by the
database's clock alone. What a guest reports is stored by `guest_events`; people read through `operation_views`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Row, Text, and_, case, cast, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import SQLModel

from coffer_db.database import Database
from coffer_db.secrets import MasterPublicKey
from coffer_db.tables import OPEN_STATES, OperationState
from coffer_shared.errors import CofferError, Refused

FINISHED_CHANNEL = "coffer_operation"
"""Notified with the id when an operation ends."""

NOW: ColumnElement[Any] = func.now()
"""For `Turned.instance_changes`: the time of the save."""

_operations = SQLModel.metadata.tables["operations"]
_instances = SQLModel.metadata.tables["instances"]
_OPEN = tuple(state.value for state in OPEN_STATES)
_FILE_TRIES = 3


class Busy(Refused):
    """Another lifecycle operation of the instance is open."""

    def __init__(self, kind: str) -> None:
        super().__init__("busy", f"the instance is busy: {kind}")
        self.kind = kind


class KeyReused(Refused):
    """The idempotency key was used for another request."""

    def __init__(self) -> None:
        super().__init__("key_reused", "the Idempotency-Key was used before with another request")


class Replayed(CofferError):
    """The same request came before under this idempotency key: answer with that operation."""

    def __init__(self, operation_id: str, instance_id: str) -> None:
        super().__init__(f"filed before as operation {operation_id}")
        self.operation_id = operation_id
        self.instance_id = instance_id


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOperation:
    instance_id: str
    project_id: str
    kind: str
    within: timedelta
    """Time from filing to the deadline."""
    args: dict[str, Any] = field(default_factory=dict)
    secret_args: dict[str, Any] | None = field(default=None, repr=False)
    lifecycle: bool = True
    beside: bool = False
    """Operations filed later do not wait for it; it waits for earlier ones like any other."""
    user_id: str = ""
    request_id: str = ""
    trace: str = ""
    idempotency_key: str | None = None
    request_hash: str | None = None
    """Of everything that makes the request what it is; compared when the key comes again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """An operation as the worker that holds its lease sees it. `secret_args` are still sealed."""

    id: str
    token: str = field(repr=False)
    instance_id: str
    project_id: str
    user_id: str
    request_id: str
    trace: str
    kind: str
    args: dict[str, Any]
    secret_args: bytes | None = field(repr=False)
    state: OperationState
    """RUNNING or UNDOING."""
    step: str
    progress: int
    attempts: int
    context: dict[str, Any]
    failure_code: str | None
    failure_text: str | None
    failure_step: str | None
    cancel_requested: bool
    seconds_left: float
    """Until the deadline when it was claimed or last saved; negative once it has passed."""

    @property
    def undoing(self) -> bool:
        return self.state == OperationState.UNDOING

    def after(self, turned: Turned, saved: Saved) -> Claimed:
        """The same operation after a turn that goes on."""
        return replace(
            self,
            state=turned.state, step=turned.step, attempts=turned.attempts, context=turned.context,
            progress=max(self.progress, turned.progress),
            failure_code=self.failure_code if turned.failure_code is None else turned.failure_code,
            failure_text=self.failure_text if turned.failure_text is None else turned.failure_text,
            failure_step=self.failure_step if turned.failure_step is None else turned.failure_step,
            cancel_requested=saved.cancel_requested, seconds_left=saved.seconds_left,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """What one turn came to, as it is saved."""

    state: OperationState
    step: str
    context: dict[str, Any]
    progress: int = 0
    """Never lowers what is shown."""
    progress_text: str = ""
    attempts: int = 0
    goes_on: bool = False
    """The worker keeps the lease and runs the next step at once. Only with RUNNING and UNDOING."""
    wait: float = 0.0
    """Seconds until it is looked at again, unless woken. Without `goes_on` and in an open state."""
    failure_code: str | None = None
    """None leaves what is recorded, as for the two below."""
    failure_text: str | None = None
    failure_step: str | None = None
    new_deadline: timedelta | None = None
    """From now; for the undo."""
    instance_changes: dict[str, Any] = field(default_factory=dict)
    """Columns of the instance, written in the same transaction."""

    @property
    def finished(self) -> bool:
        return self.state not in OPEN_STATES


@dataclass(frozen=True, slots=True)
class Saved:
    """What the row said when the turn was saved."""

    cancel_requested: bool
    seconds_left: float


def secret_context(operation_id: str) -> str:
    """The context under which an operation's secret arguments are sealed."""
    return f"operation/{operation_id}"


async def file(session: AsyncSession | AsyncConnection, new: NewOperation, wrap: MasterPublicKey | None) -> str:
    """File an operation in the caller's transaction; its id. Raises Busy, Replayed or KeyReused.

    The transaction stays usable after these errors. Filings for one instance wait for one another until they commit:
    otherwise a later number could be seen, and started, before an earlier one.
    """
    operation_id = str(uuid4())
    sealed = None
    if new.secret_args is not None:
        if wrap is None:
            raise ValueError("secret arguments need the public master key")
        sealed = wrap.wrap(secret_context(operation_id), new.secret_args)
    await session.execute(_FILE_LOCK, {"instance": new.instance_id})
    for _ in range(_FILE_TRIES):
        if await _insert(session, operation_id, new, sealed):
            return operation_id
        await _raise_conflict(session, new)
    raise Busy(new.kind)


async def file_for_each(session: AsyncSession | AsyncConnection, new: Sequence[NewOperation]) -> list[tuple[str, str]]:
    """As `file`, one operation for each of many instances in two statements, however many there are: instance and
    operation of each. For what nothing can stand in the way of: no lifecycle, no idempotency key, no secrets."""
    if any(each.lifecycle or each.idempotency_key is not None or each.secret_args is not None for each in new):
        raise ValueError("of many instances only what queues is filed at once")
    # always in the same order: two who file for the same instances wait for one another instead of for ever
    ordered = sorted(new, key=lambda each: each.instance_id)
    if not ordered:
        return []
    await session.execute(_FILE_LOCKS, {"instances": [each.instance_id for each in ordered]})
    rows = [_row(str(uuid4()), each, None) for each in ordered]
    await session.execute(insert(_operations).values(rows))
    return [(row["instance_id"], row["id"]) for row in rows]


async def claim(db: Database, worker: str, lease: float) -> Claimed | None:
    """Lease the operation that has been due longest, unless an earlier one of its instance is open (and not beside)."""
    token = f"{worker}/{uuid4()}"
    async with db.connect() as connection:
        row = (await connection.execute(_CLAIM, {"token": token, "lease": lease})).mappings().one_or_none()
    if row is None:
        return None
    return Claimed(**{**row, "state": OperationState(row["state"]), "token": token})


async def extend(db: Database, operation_id: str, token: str, lease: float) -> bool:
    """Lengthen a lease; False when it is not ours any more."""
    async with db.connect() as connection:
        found = await connection.execute(_EXTEND, {"id": operation_id, "token": token, "lease": lease})
        return found.first() is not None


async def save(db: Database, operation_id: str, token: str, turned: Turned) -> Saved | None:
    """Write a turn's result if the lease is still ours; None (and nothing written) otherwise.

    The end of an operation erases its secrets and tells `FINISHED_CHANNEL`, in the same transaction.
    """
    unknown = turned.instance_changes.keys() - _instances.c.keys()
    if unknown:
        raise ValueError(f"instances have no columns {sorted(unknown)}")
    saved = (
        update(_operations)
        .where(_operations.c.id == operation_id, _operations.c.lease_token == token)
        .values(**_columns(turned))
        .returning(
            _operations.c.instance_id,
            _operations.c.cancel_requested,
            func.extract("epoch", _operations.c.deadline - func.now()).label("seconds_left"),
        )
        .cte("saved")
    )
    told = cast(func.pg_notify(FINISHED_CHANNEL, operation_id), Text) if turned.finished else literal("")
    answer = select(saved.c.cancel_requested, saved.c.seconds_left, told)
    if turned.instance_changes:
        changed = (
            update(_instances)
            .where(_instances.c.id == select(saved.c.instance_id).scalar_subquery())
            .values(**{"updated_at": NOW, **turned.instance_changes})
            .cte("changed")
        )
        answer = answer.add_cte(changed)
    async with db.connect() as connection:
        row: Row[Any] | None = (await connection.execute(answer)).one_or_none()
    return None if row is None else Saved(row.cancel_requested, float(row.seconds_left))


async def wake(db: Database, operation_id: str) -> None:
    """Have an open operation looked at now, or, if it is running, once more after its turn."""
    async with db.connect() as connection:
        await connection.execute(
            update(_operations)
            .where(_operations.c.id == operation_id, _operations.c.state.in_(_OPEN))
            .values(wake_at=func.clock_timestamp()),
        )


async def wake_instance(db: Database, instance_id: str) -> None:
    """As `wake`, for the open operations of an instance."""
    async with db.connect() as connection:
        await connection.execute(
            update(_operations)
            .where(_operations.c.instance_id == instance_id, _operations.c.state.in_(_OPEN))
            .values(wake_at=func.clock_timestamp()),
        )


async def request_cancel(session: AsyncSession | AsyncConnection, operation_id: str) -> bool:
    """Ask for the end of an open operation; False when it has ended. Whether it can be cancelled, its plan says."""
    asked = await session.execute(
        update(_operations)
        .where(_operations.c.id == operation_id, _operations.c.state.in_(_OPEN))
        .values(cancel_requested=True, wake_at=func.clock_timestamp(), updated_at=func.now())
        .returning(_operations.c.id),
    )
    return asked.first() is not None


async def request_cancel_of_task(session: AsyncSession | AsyncConnection, instance_id: str) -> str | None:
    """As `request_cancel`, for the open lifecycle operation of an instance: its id, None when there is none."""
    asked = await session.execute(
        update(_operations)
        .where(_operations.c.instance_id == instance_id, _operations.c.lifecycle, _operations.c.state.in_(_OPEN))
        .values(cancel_requested=True, wake_at=func.clock_timestamp(), updated_at=func.now())
        .returning(_operations.c.id),
    )
    row = asked.first()
    return None if row is None else str(row.id)


async def _insert(
    session: AsyncSession | AsyncConnection, operation_id: str, new: NewOperation, sealed: bytes | None,
) -> bool:
    row = insert(_operations).values(**_row(operation_id, new, sealed))
    made = row.on_conflict_do_nothing().returning(_operations.c.id)
    return (await session.execute(made)).first() is not None


def _row(operation_id: str, new: NewOperation, sealed: bytes | None) -> dict[str, Any]:
    return {
        "id": operation_id, "instance_id": new.instance_id, "project_id": new.project_id, "user_id": new.user_id,
        "request_id": new.request_id, "trace": new.trace, "kind": new.kind, "lifecycle": new.lifecycle,
        "beside": new.beside, "args": new.args, "secret_args": sealed, "state": OperationState.PENDING.value,
        "step": "", "progress": 0, "progress_text": "", "attempts": 0, "cancel_requested": False,
        "idempotency_key": new.idempotency_key, "request_hash": new.request_hash, "guest_state": "", "guest_code": "",
        "guest_text": "", "deadline": func.now() + literal(new.within), "wake_at": func.clock_timestamp(),
    }


async def _raise_conflict(session: AsyncSession | AsyncConnection, new: NewOperation) -> None:
    """Say what is in the way. Returns when it went away meanwhile."""
    o = _operations.c
    in_the_way = and_(literal(new.lifecycle), o.lifecycle, o.instance_id == new.instance_id, o.state.in_(_OPEN))
    given = literal(new.idempotency_key is not None)
    same_key = and_(given, o.project_id == new.project_id, o.idempotency_key == (new.idempotency_key or ""))
    found = await session.execute(
        select(o.id, o.instance_id, o.kind, o.request_hash, same_key.label("same_key"))
        .where(or_(same_key, in_the_way))
        .order_by(case((same_key, 0), else_=1))
        .limit(1),
    )
    row = found.one_or_none()
    if row is None:
        return
    if not row.same_key:
        raise Busy(row.kind)
    if row.request_hash == new.request_hash:
        raise Replayed(row.id, row.instance_id)
    raise KeyReused


def _columns(turned: Turned) -> dict[str, Any]:
    o = _operations.c
    values: dict[str, Any] = {
        "state": turned.state.value, "step": turned.step, "context": turned.context, "attempts": turned.attempts,
        "progress": func.greatest(o.progress, turned.progress), "progress_text": turned.progress_text,
        "updated_at": func.now(),
    }
    for name in ("failure_code", "failure_text", "failure_step"):
        if (value := getattr(turned, name)) is not None:
            values[name] = value
    if turned.new_deadline is not None:
        values["deadline"] = func.now() + literal(turned.new_deadline)
    if turned.goes_on:
        return values | {"wake_at": o.lease_until}
    values |= {"lease_token": None, "lease_until": None}
    if turned.finished:
        return values | {"secret_args": None, "finished_at": func.now()}
    later = func.now() + literal(timedelta(seconds=max(turned.wait, 0.0)))
    return values | {"wake_at": case((o.wake_at == o.lease_until, later), else_=func.now())}


_FILE_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('operation of ' || :instance, 0))")
_FILE_LOCKS = text("""
    SELECT pg_advisory_xact_lock(hashtextextended('operation of ' || instance, 0))
    FROM unnest(CAST(:instances AS text[])) AS instance
""")

_OPEN_SQL = ", ".join(f"'{state}'" for state in _OPEN)

_CLAIM = text(f"""
    UPDATE operations AS o
    SET state = CASE o.state WHEN 'undoing' THEN 'undoing' ELSE 'running' END,
        lease_token = :token,
        lease_until = now() + make_interval(secs => :lease),
        wake_at = now() + make_interval(secs => :lease),
        updated_at = now()
    WHERE o.id = (
        SELECT due.id
        FROM operations AS due
        WHERE due.state IN ({_OPEN_SQL})
          AND due.wake_at <= now()
          AND (due.lease_until IS NULL OR due.lease_until <= now())
          AND NOT EXISTS (
              SELECT FROM operations AS earlier
              WHERE earlier.instance_id = due.instance_id AND earlier.seq < due.seq AND NOT earlier.beside
                AND earlier.state IN ({_OPEN_SQL})
          )
        ORDER BY due.wake_at
        LIMIT 1
        FOR UPDATE OF due SKIP LOCKED
    )
    RETURNING o.id, o.instance_id, o.project_id, o.user_id, o.request_id, o.trace, o.kind, o.args, o.secret_args,
        o.state, o.step, o.progress, o.attempts, o.context, o.failure_code, o.failure_text, o.failure_step,
        o.cancel_requested, extract(epoch FROM o.deadline - now())::float8 AS seconds_left
""").columns(args=JSONB, context=JSONB)  # noqa: S608 - only the constants above are put in

_EXTEND = text("""
    UPDATE operations
    SET lease_until = now() + make_interval(secs => :lease),
        wake_at = CASE WHEN wake_at = lease_until THEN now() + make_interval(secs => :lease) ELSE wake_at END
    WHERE id = :id AND lease_token = :token
    RETURNING id
""")
