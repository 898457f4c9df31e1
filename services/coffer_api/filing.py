"""Filing operations for handlers, waking the provisioner, and turning how an operation ended into an answer."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import asyncpg
import msgspec
from starlette.responses import Response

from coffer_api.call import Call, empty
from coffer_api.instance_rows import facts
from coffer_api.problems import RETRY, Problem, bad_request, not_found, unprocessable
from coffer_api.status import action_allowed, doing, service, serving
from coffer_db import operations
from coffer_db.operations import Busy, KeyReused, NewOperation, Replayed
from coffer_db.tables import OperationState
from coffer_shared.messages import Failure

HEADER = "X-Coffer-Operation"
CHANGE_WITHIN = timedelta(seconds=60)
"""A change of users, databases or root that has not begun by then is not wanted any more."""
GUEST_TIMEOUT = "Timeout trying to connect to the Guest Agent."
_FILED = """
    SELECT id, instance_id FROM operations
    WHERE project_id = ANY(ARRAY[$1, (SELECT project_id FROM instances WHERE id = $2)])
      AND idempotency_key = $3 AND request_hash = $4
"""


@dataclass(frozen=True, slots=True)
class Key:
    """An Idempotency-Key with what tells whether the request is the same; both None if none was given."""

    text: str | None = None
    request_hash: str | None = None


@dataclass(frozen=True, slots=True)
class Words:
    """What to say when the guest found that a thing exists or does not; None: what the guest said."""

    missing: str | None = None
    exists: str | None = None


async def idempotency_key(call: Call) -> Key:
    """The hash is slow because the body may hold passwords and the hash is stored."""
    text = call.request.headers.get("idempotency-key")
    if text is None:
        return Key()
    if not 1 <= len(text) <= 255 or not text.isprintable():
        raise bad_request("Idempotency-Key must be 1 to 255 printable characters.")
    body = msgspec.json.encode(await call.json(), order="deterministic")
    salt = f"{call.project}\n{text}".encode()
    digest = await asyncio.to_thread(hashlib.scrypt, body, salt=salt, n=2**14, r=8, p=1, dklen=32)
    return Key(text, digest.hex())


@contextlib.asynccontextmanager
async def repeatable(call: Call, key: Key, instance: str | None = None) -> AsyncIterator[None]:
    """Around checks: raises Replayed where they refuse a request that was filed before, because what refuses it now
    (the instance is busy, say) may be what it did then. And 422 where the key was used for another request."""
    try:
        yield
    except Problem:
        row = key.text and await call.api.reads.one(_FILED, call.project, instance, key.text, key.request_hash)
        if row:
            raise Replayed(row["id"], row["instance_id"]) from None
        raise
    except KeyReused as reused:
        raise unprocessable(str(reused)) from None


def new(
    call: Call, row: Mapping[str, Any] | asyncpg.Record, kind: str, *, within: timedelta, lifecycle: bool,
    args: dict[str, Any], secret_args: dict[str, Any] | None = None, beside: bool = False, key: Key = Key(),
) -> NewOperation:
    """`row`: of the instance. `within`: in a cloud of usual speed."""
    return NewOperation(
        instance_id=row["id"], project_id=row["project_id"], kind=kind,
        within=within * call.api.settings.patience, lifecycle=lifecycle,
        beside=beside, args=args, secret_args=secret_args, user_id=call.identity.user, request_id=call.request_id,
        idempotency_key=key.text, request_hash=key.request_hash,
    )


def need_action(call: Call, row: asyncpg.Record) -> None:
    """422 unless a task may begin."""
    known, expiry = facts(row), call.api.settings.heartbeat_expiry
    if not action_allowed(known, expiry):
        word = doing(known) if known.task else service(known, expiry)
        raise unprocessable(
            f"Instance {row['id']} is not currently available for an action to be performed "
            f"(instance status was {word}).",
        )


def in_the_way(row: asyncpg.Record, busy: Busy, how: str = "is running") -> Problem:
    return Problem(
        422,
        f"Instance {row['id']} is not currently available for an action to be performed ({busy.kind} {how}).",
        {RETRY: "5"},
    )


def need_serving(call: Call, row: asyncpg.Record) -> None:
    """422 unless the database answers now, as far as its last heartbeat tells."""
    known, expiry = facts(row), call.api.settings.heartbeat_expiry
    if not serving(known, expiry):
        word = service(known, expiry).lower()
        raise unprocessable(f"Instance {row['id']} is not ready, status: {word}.")


async def change(
    call: Call, row: asyncpg.Record, kind: str, args: msgspec.Struct, *, names: dict[str, Any] | None = None,
    words: Words = Words(),
) -> tuple[str, bool]:
    """File a guest command as an operation and wait for its end: its id, and whether it is known to be done.

    With `names` the arguments are secret, and only what `names` holds can be read in the operation. A failure becomes
    the problem that Trove would answer.
    """
    plain = msgspec.to_builtins(args)
    wanted = new(
        call, row, kind, within=CHANGE_WITHIN, lifecycle=False,
        args=plain if names is None else names, secret_args=None if names is None else plain,
    )
    async with call.api.db.begin() as session:
        operation = await operations.file(session, wanted, call.api.master)
    await call.api.wakes.wake(row["id"], operation)
    ended = await call.api.waiter.until_finished(operation, call.api.settings.operation_wait)
    if ended is not None and ended.state is not OperationState.SUCCEEDED:
        _fail(operation, ended.failure_code or Failure.CANCELLED, ended.failure_text or "it was cancelled", words)
    return operation, ended is not None


async def changed(
    call: Call, row: asyncpg.Record, kind: str, args: msgspec.Struct, *, names: dict[str, Any] | None = None,
    words: Words = Words(), status: int = 202,
) -> Response:
    """`change`, answered without a body. When the end is not known in time the operation goes on: 202 all the same."""
    operation, done = await change(call, row, kind, args, names=names, words=words)
    return accepted(operation, status if done else 202)


def accepted(operation: str, status: int = 202) -> Response:
    return empty(status, {HEADER: operation})


def _fail(operation: str, code: str, text: str, words: Words) -> NoReturn:
    problem: Problem
    if code == Failure.NOT_FOUND:
        problem = not_found(words.missing or text)
    elif code == Failure.EXISTS:
        problem = bad_request(words.exists or text)
    elif code == Failure.INVALID:
        problem = bad_request(text)
    elif code == Failure.NOT_READY:
        problem = unprocessable(text)
    elif code == Failure.CANCELLED:
        problem = Problem(409, "The operation was cancelled.")
    elif code == Failure.DEADLINE:
        problem = bad_request(GUEST_TIMEOUT)
    else:
        problem = bad_request(f"An error occurred communicating with the guest: {text}")
    problem.headers[HEADER] = operation
    raise problem
