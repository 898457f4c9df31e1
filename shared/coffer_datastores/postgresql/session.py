"""A superuser's session over the local socket, and the text forms of names and values in statements."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg

from coffer_shared.datastore import EngineError, Order
from coffer_shared.messages import Failure

SUPERUSER = "postgres"
BACKUP_USER = "coffer_backup"
"""Whom the backup container is to the server: it replicates and does nothing else."""
_CONNECT_SECONDS = 5.0
_NAME_BYTES = 63
_OWN_SETTINGS = {
    # over what tenants choose for everybody, or for a database of theirs: it would end or refuse what the agent does
    "application_name": "coffer",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
}

_CODES = {
    "42P04": Failure.EXISTS,  # duplicate_database
    "42710": Failure.EXISTS,  # duplicate_object
    "3D000": Failure.NOT_FOUND,  # invalid_catalog_name
    "42704": Failure.NOT_FOUND,  # undefined_object
    "0A000": Failure.INVALID,  # feature_not_supported
    "2BP01": Failure.INVALID,  # dependent_objects_still_exist
}
_CLASSES = {
    "08": Failure.NOT_READY,  # connection
    "22": Failure.INVALID,  # data
    "28": Failure.NOT_READY,  # authorization: the server does not know its own superuser
    "42": Failure.INVALID,  # syntax or access rule
    "53": Failure.NOT_READY,  # resources
    "55": Failure.INVALID,  # object not in the required state
    "57": Failure.NOT_READY,  # operator intervention: starting up, shutting down
}


class PostgresSession:
    """`order` and `cache` let the driver keep facts with the connection they were asked over."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record], order: Order) -> None:
        self._connection = connection
        self.order = order
        self.cache: dict[str, tuple[float, float]] = {}

    async def fetch(self, statement: str, *values: Any) -> Sequence[Mapping[str, Any]]:
        with _engine_errors():
            return [dict(record) for record in await self._connection.fetch(statement, *values)]

    async def execute(self, statement: str, *values: Any) -> None:
        with _engine_errors():
            await self._connection.execute(statement, *values)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        with _engine_errors():
            async with self._connection.transaction():
                yield


@asynccontextmanager
async def connect(order: Order, database: str | None = None) -> AsyncIterator[PostgresSession]:
    """EngineError `not_ready` when the server does not answer, `not_found` when there is no such database."""
    with _engine_errors():
        connection = await asyncpg.connect(
            host=order.run,
            port=order.port,
            user=SUPERUSER,
            database=database or SUPERUSER,
            password="",  # peer authentication; anything but None keeps the client from looking for a password file
            ssl=False,
            timeout=_CONNECT_SECONDS,
            statement_cache_size=0,
            server_settings=_OWN_SETTINGS,
        )
    try:
        yield PostgresSession(connection, order)
    finally:
        # Not the polite close: that waits for an answer, which a frozen server does not give.
        connection.terminate()


def identifier(name: str) -> str:
    """A name, quoted. EngineError if the server would refuse it, or silently shorten it."""
    raw = name.encode(errors="replace")
    if not name or "\x00" in name or len(raw) > _NAME_BYTES or raw.decode() != name:
        raise EngineError(Failure.INVALID, f"not a possible name: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A string constant that reads the same whatever `standard_conforming_strings` says."""
    if "\x00" in value:
        raise EngineError(Failure.INVALID, "a zero byte in a value")
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        code = _CODES.get(state) or _CLASSES.get(state[:2]) or Failure.ENGINE
        raise EngineError(code, str(error.args[0]) if error.args else state) from error
    except (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncio.IncompleteReadError) as error:
        # the internal one is what a connection that the server just ended may give
        raise EngineError(Failure.NOT_READY, f"the server does not answer: {error}") from error
