"""A session of the agent with a server of the MySQL family, over its local socket.

The agent is the machine's root, which the server learns from the socket: there is no password. Values are bound by the
client, which knows from each reply how the server reads a backslash; names are quoted by `identifier`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import aiomysql
import pymysql

from coffer_shared.datastore import EngineError, Order
from coffer_shared.messages import Failure

AGENT = "coffer_agent"
"""The agent's account, at localhost."""
BACKUP_USER = "coffer_backup"
"""Whom the backup container is to the server, at localhost."""
SOCKET_NAME = "mysqld.sock"
_CONNECT_SECONDS = 5.0
_NAME_CHARACTERS = 64
_SETTINGS = {
    # over what tenants choose for everybody: it would end or refuse what the agent does, or read it differently
    "sql_mode": "'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION'",
    "lock_wait_timeout": "10",
    "wait_timeout": "28800",
    "sql_safe_updates": "0",
    "sql_select_limit": "18446744073709551615",  # none; by default it would be what they chose
    "max_error_count": "0",  # no list of warnings: the client would ask for it, and make Python's of them
}

_CODES = {
    1007: Failure.EXISTS,  # database exists
    1008: Failure.NOT_FOUND,  # no database to drop
    1049: Failure.NOT_FOUND,  # unknown database
    1133: Failure.NOT_FOUND,  # no such user
    1141: Failure.NOT_FOUND,  # no such grant
    1396: Failure.INVALID,  # an operation on users failed
    1040: Failure.NOT_READY,  # too many connections
    1045: Failure.NOT_READY,  # access denied: the server does not know its own agent
    1053: Failure.NOT_READY,  # it shuts down
    1205: Failure.NOT_READY,  # a lock was not to be had in time
    1698: Failure.NOT_READY,  # access denied
    1927: Failure.NOT_READY,  # the connection was killed
}
_INVALID = {
    1006,  # a database cannot be created: its directory has no possible name
    1059,  # a name is too long
    1064,  # syntax
    1102,  # not a name for a database
    1115,  # unknown character set
    1231,  # a variable does not take that value
    1232,  # a variable does not take values of that type
    1253,  # a collation of another character set
    1273,  # unknown collation
    1298,  # unknown time zone
    1300,  # not a string of that character set
    1366,  # not a value for that column
    1372,  # not a password's hash
    1451,  # foreign keys refer to what is to go
    1470,  # a user's name is too long
}


class MySQLError(EngineError):
    """`number`: the server's own for what is wrong; 0 if it said nothing."""

    def __init__(self, code: str, text: str, number: int) -> None:
        super().__init__(code, text)
        self.number = number


class MySQLSession:
    """`order` and `cache` let the driver keep facts with the connection they were asked over."""

    def __init__(self, connection: aiomysql.Connection, order: Order) -> None:
        self._connection = connection
        self.order = order
        self.cache: dict[str, tuple[float, float]] = {}

    @property
    def id(self) -> int:
        """The server's number for the connection."""
        return int(self._connection.thread_id())

    async def fetch(self, statement: str, *values: Any) -> Sequence[Mapping[str, Any]]:
        """`%s` stands for a value, where there are any."""
        with _engine_errors():
            async with self._connection.cursor(aiomysql.DictCursor) as cursor:
                await cursor.execute(statement, values or None)
                return list(await cursor.fetchall() or ())

    async def execute(self, statement: str, *values: Any) -> None:
        await self.fetch(statement, *values)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Of rows only: the server ends it at each statement that defines something."""
        await self.execute("START TRANSACTION")
        try:
            yield
        except BaseException:
            with suppress(EngineError):
                await self.execute("ROLLBACK")
            raise
        await self.execute("COMMIT")


@asynccontextmanager
async def connect(
    order: Order, database: str | None = None, settings: Mapping[str, str] | None = None
) -> AsyncIterator[MySQLSession]:
    """EngineError `not_ready` when the server does not answer, `not_found` when there is no such database. `settings`
    are those of the session, over what tenants choose for everybody."""
    own = ", ".join(f"SESSION {name} = {value}" for name, value in (_SETTINGS | dict(settings or {})).items())
    connection = aiomysql.Connection(
        unix_socket=f"{order.run}/{SOCKET_NAME}",
        user=AGENT,
        password="",
        db=database,
        charset="utf8mb4",
        autocommit=True,
        connect_timeout=_CONNECT_SECONDS,
        init_command=f"SET {own}",
    )
    try:
        with _engine_errors():
            # This connects, and unlike `aiomysql.connect` leaves a connection to close when it is cancelled meanwhile.
            await connection.ping(reconnect=True)
        yield MySQLSession(connection, order)
    finally:
        # Not the polite close: that waits for an answer, which a frozen server does not give.
        connection.close()


def identifier(name: str) -> str:
    """A name, quoted. EngineError if the server would refuse it, or silently change it."""
    if not name or len(name) > _NAME_CHARACTERS or name.endswith(" ") or not _is_plain(name):
        raise EngineError(Failure.INVALID, f"not a possible name: {name!r}")
    return "`" + name.replace("`", "``") + "`"


def literal(value: str) -> str:
    """A string constant, for statements that take no bound value, in a session of the agent."""
    if "\x00" in value:
        raise EngineError(Failure.INVALID, "a zero byte in a value")
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


async def greets(address: str, port: int) -> bool:
    """Whether a server answers there. It speaks first; what it says when it takes no more connections is an answer."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection(address, port)
        head = await reader.readexactly(5)
    except (OSError, asyncio.IncompleteReadError):
        return False
    else:
        return head[3] == 0 and head[4] in {0x0A, 0xFF}
    finally:
        if writer is not None:
            writer.transport.abort()


def _is_plain(name: str) -> bool:
    """The server's names know nothing beyond the first plane of Unicode."""
    return all("\x00" < char <= "\uffff" and not "\ud800" <= char <= "\udfff" for char in name)


@contextmanager
def _engine_errors() -> Iterator[None]:
    try:
        yield
    except pymysql.MySQLError as error:
        number, text = (error.args[0], str(error.args[1])) if len(error.args) > 1 else (0, str(error))
        code = _CODES.get(number) or (Failure.INVALID if number in _INVALID else _by_kind(error, number))
        raise MySQLError(code, text, number) from error
    except (OSError, RuntimeError, asyncio.IncompleteReadError, TimeoutError) as error:
        # a runtime error is what the client gives when the connection ends under it
        raise EngineError(Failure.NOT_READY, f"the server does not answer: {error}") from error


def _by_kind(error: pymysql.MySQLError, number: int) -> Failure:
    if number < 1000 or 2000 <= number < 3000:  # the client's own: no answer, or none that it understands
        return Failure.NOT_READY
    return Failure.INVALID if isinstance(error, (pymysql.ProgrammingError, pymysql.DataError)) else Failure.ENGINE
