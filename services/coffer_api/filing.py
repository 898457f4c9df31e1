"""Filing operations for handlers, waking the provisioner, and turning how an operation ended into an answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import asyncpg
import msgspec
from starlette.responses import Response

from coffer_api.call import Call, empty
from coffer_api.instance_rows import facts
from coffer_api.problems import Problem, bad_request, not_found, unprocessable
from coffer_api.status import service, serving
from coffer_db import operations
from coffer_db.operations import NewOperation
from coffer_db.tables import OperationState
from coffer_shared.messages import Failure

HEADER = "X-Coffer-Operation"
CHANGE_WITHIN = timedelta(seconds=60)
"""A change of users, databases or root that has not begun by then is not wanted any more."""
GUEST_TIMEOUT = "Timeout trying to connect to the Guest Agent."


@dataclass(frozen=True, slots=True)
class Words:
    """What to say when the guest found that a thing exists or does not; None: what the guest said."""

    missing: str | None = None
    exists: str | None = None


def new(
    call: Call, row: asyncpg.Record, kind: str, *, within: timedelta, lifecycle: bool, args: dict[str, Any],
    secret_args: dict[str, Any] | None = None,
) -> NewOperation:
    return NewOperation(
        instance_id=row["id"], project_id=row["project_id"], kind=kind, within=within, lifecycle=lifecycle, args=args,
        secret_args=secret_args, user_id=call.identity.user, request_id=call.request_id,
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
