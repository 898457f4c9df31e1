"""Databases, users, grants and root of a server of the MySQL family; what MariaDB and MySQL have in common.

No statement that makes or grants anything can be undone by a rollback, so a call that changes several things hides what
it makes until the end: databases by a grant to an account that nobody can be, users by a name of Coffer's own. One last
statement shows them. What an interrupted call left is cleared by the next, and by the call itself if it can.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from coffer_datastores.mysql_session import MySQLSession, identifier, literal
from coffer_shared.datastore import Database, Datastore, Engine, EngineError, NewUser, Session, User
from coffer_shared.messages import Failure

OWN_PREFIX = "coffer_"
_NEW_PREFIX = "coffer_new_"
_MAKING = "'coffer_making'@'localhost'"
"""Has a grant to every database that is being made, from before it is there."""
_HOST = re.compile(r"[%_.:/\-\w]{1,255}", re.ASCII)
_LOOKS, _LOOK_SECONDS = 250, 0.02

# A grant names a database by a pattern, in which our own grants escape what would match more than one.
_USERS = """
SELECT u.User AS name, u.Host AS host, s.SCHEMA_NAME AS granted
FROM mysql.user u
LEFT JOIN mysql.db d ON d.User = u.User AND d.Host = u.Host
LEFT JOIN information_schema.SCHEMATA s
  ON CONVERT(s.SCHEMA_NAME USING utf8mb4) COLLATE utf8mb4_bin LIKE CONVERT(d.Db USING utf8mb4) COLLATE utf8mb4_bin
ORDER BY u.User, u.Host, s.SCHEMA_NAME
"""
_DATABASES = """
SELECT SCHEMA_NAME AS name, DEFAULT_CHARACTER_SET_NAME AS charset, DEFAULT_COLLATION_NAME AS collation
FROM information_schema.SCHEMATA ORDER BY SCHEMA_NAME
"""
_SESSIONS = (
    "SELECT ID AS id, USER AS user, DB AS db FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID()"
)
_MARKED = "SELECT Db FROM mysql.db WHERE CONCAT(QUOTE(User), '@', QUOTE(Host)) = %s"
_TABLES = "SELECT 1 FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s LIMIT 1"
_GRANTED = "SELECT User, Host, Db FROM mysql.db WHERE Db IN (%s, %s)"


class Dialect(Protocol):
    """What differs between the servers."""

    @property
    def spec(self) -> Datastore: ...

    def proof(self, password: str) -> str:
        """The clause behind a user's name that makes this its password, without telling it."""
        ...


class Accounts:
    """Implements HasDatabases, HasUsers and HasRoot."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._spec = dialect.spec

    # --- databases ---

    async def list_databases(self, engine: Engine) -> list[Database]:
        async with engine.session() as session:
            rows = await self._databases(session)
        return [Database(row["name"], row["charset"], row["collation"]) for row in rows]

    async def create_databases(self, engine: Engine, databases: Sequence[Database]) -> None:
        names = [database.name for database in databases]
        _refuse_twice(names, "database")
        for name in names:
            self._check_database(name)
        async with engine.session() as session:
            await self._refuse_existing_databases(session, names)
            made: list[str] = []
            try:
                await session.execute(f"CREATE USER IF NOT EXISTS {_MAKING} ACCOUNT LOCK")
                for name in names:
                    await _grant(session, _MAKING, name)
                for database in databases:
                    await session.execute(f"CREATE DATABASE {identifier(database.name)} {_options(database)}")
                    made.append(database.name)
                await session.execute(f"DROP USER {_MAKING}")
            except BaseException as error:
                await _undo(engine, session, error, lambda other: _drop_made(other, made))
                raise

    async def drop_database(self, engine: Engine, name: str) -> None:
        self._check_database(name)
        async with engine.session() as session:
            await self._require_database(session, name)
            # a session in it may hold a lock that would keep it
            await end_sessions(session, database=name)
            await session.execute(f"DROP DATABASE {identifier(name)}")
            # a later database of that name is another
            for row in await session.fetch(_GRANTED, *_spellings(name)):
                await _revoke(session, row)

    # --- users ---

    async def list_users(self, engine: Engine) -> list[User]:
        async with engine.session() as session:
            return await self._users(session)

    async def create_users(self, engine: Engine, users: Sequence[NewUser]) -> None:
        _refuse_twice([_account(user.name, user.host) for user in users], "user")
        for user in users:
            self._check_user(user.name, user.host, user.password)
        async with engine.session() as session:
            await _clear_new(session)
            known = {(found.name, found.host) for found in await self._users(session)}
            databases = {row["name"] for row in await self._databases(session)}
            for user in users:
                if (user.name, user.host) in known:
                    raise EngineError(Failure.EXISTS, f"user {user.name!r} exists")
                _require_all(user.databases, databases)
            mark = _NEW_PREFIX + secrets.token_hex(4)
            hidden = {f"{mark}_{number}": user for number, user in enumerate(users)}
            try:
                for name, user in hidden.items():
                    account = _account(name, user.host)
                    await session.execute(f"CREATE USER {account} {self._dialect.proof(user.password)}")
                    for database in user.databases:
                        await _grant(session, account, database)
                if hidden:
                    renamed = (_renamed(name, user.host, user.name, user.host) for name, user in hidden.items())
                    await session.execute(f"RENAME USER {', '.join(renamed)}")
            except BaseException as error:
                await _undo(engine, session, error, _clear_new)
                raise

    async def drop_user(self, engine: Engine, name: str, host: str) -> None:
        """Its objects stay: they belong to their database."""
        async with engine.session() as session:
            await self._require_user(session, name, host)
            await session.execute(f"DROP USER {_account(name, host)}")
            await end_sessions(session, user=name)

    async def set_passwords(self, engine: Engine, users: Sequence[NewUser]) -> None:
        for user in users:
            self._check_user(user.name, user.host, user.password)
        async with engine.session() as session:
            known = {(found.name, found.host) for found in await self._users(session)}
            for user in users:
                if (user.name, user.host) not in known:
                    raise EngineError(Failure.NOT_FOUND, f"user {user.name!r} does not exist")
            proofs = (f"{_account(user.name, user.host)} {self._dialect.proof(user.password)}" for user in users)
            if users:
                await session.execute(f"ALTER USER {', '.join(proofs)}")

    async def change_user(
        self,
        engine: Engine,
        name: str,
        host: str,
        *,
        new_name: str | None,
        new_host: str | None,
        password: str | None,
    ) -> None:
        """The name last: it shows that all of it was done."""
        wanted = (new_name or name, new_host or host)
        self._check_user(*wanted, password)
        async with engine.session() as session:
            await self._require_user(session, name, host)
            if wanted != (name, host) and wanted in {(user.name, user.host) for user in await self._users(session)}:
                raise EngineError(Failure.EXISTS, f"user {wanted[0]!r} exists")
            if password is not None:
                await session.execute(f"ALTER USER {_account(name, host)} {self._dialect.proof(password)}")
            if wanted != (name, host):
                await session.execute(f"RENAME USER {_renamed(name, host, *wanted)}")

    async def grant(self, engine: Engine, name: str, host: str, databases: Sequence[str]) -> None:
        """Beyond what is checked first, only a lost server can leave this half done; it may be repeated."""
        async with engine.session() as session:
            await self._require_user(session, name, host)
            _require_all(databases, [row["name"] for row in await self._databases(session)])
            for database in databases:
                await _grant(session, _account(name, host), database)

    async def revoke(self, engine: Engine, name: str, host: str, database: str) -> None:
        async with engine.session() as session:
            await self._require_user(session, name, host)
            await self._require_database(session, database)
            rows = await session.fetch(
                f"{_GRANTED} AND User = %s AND Host = %s", *_spellings(database), name, host
            )
            if not rows:
                raise EngineError(Failure.NOT_FOUND, f"user {name!r} has no access to database {database!r}")
            for row in rows:
                await _revoke(session, row)
            # a session keeps the rights to the database that it is in
            await end_sessions(session, user=name, database=database)

    # --- root ---

    async def root_enabled(self, engine: Engine) -> bool:
        async with engine.session() as session:
            return bool(await self._roots(session))

    async def enable_root(self, engine: Engine, password: str) -> None:
        """All rights there are, and the right to give them."""
        _check_password(password)
        account = _account(self._spec.root_user, "%")
        async with engine.session() as session:
            await session.execute(f"CREATE USER IF NOT EXISTS {account} {self._dialect.proof(password)}")
            await session.execute(f"ALTER USER {account} {self._dialect.proof(password)} ACCOUNT UNLOCK")
            await session.execute(f"GRANT ALL PRIVILEGES ON *.* TO {account} WITH GRANT OPTION")

    async def disable_root(self, engine: Engine) -> None:
        """At every host that it was given. Other users that root made are the tenant's, and stay."""
        async with engine.session() as session:
            if accounts := await self._roots(session):
                await session.execute(f"DROP USER {', '.join(accounts)}")
            await end_sessions(session, user=self._spec.root_user)

    async def _roots(self, session: Session) -> list[str]:
        rows = await session.fetch("SELECT User, Host FROM mysql.user WHERE User = %s", self._spec.root_user)
        return [_account(row["User"], row["Host"]) for row in rows]

    # --- what is there ---

    async def _users(self, session: Session) -> list[User]:
        found: dict[tuple[str, str], list[str]] = {}
        for row in await session.fetch(_USERS):
            name = row["name"]
            if row["host"] and name not in self._spec.reserved_users and self._spec.user_pattern.fullmatch(name):
                granted = found.setdefault((name, row["host"]), [])
                if row["granted"] is not None and row["granted"] not in self._spec.reserved_databases:
                    granted.append(row["granted"])
        return [User(name, host, tuple(dict.fromkeys(granted))) for (name, host), granted in found.items()]

    async def _databases(self, session: Session) -> list[Mapping[str, Any]]:
        """The tenants', without those that are being made."""
        making = await _making(session)
        hidden = self._spec.reserved_databases | making
        return [row for row in await session.fetch(_DATABASES) if row["name"] not in hidden]

    async def _refuse_existing_databases(self, session: Session, names: Iterable[str]) -> None:
        there = {row["name"] for row in await self._databases(session)}
        for name in names:
            if name in there:
                raise EngineError(Failure.EXISTS, f"database {name!r} exists")
        await _drop_made(session, [])

    async def _require_database(self, session: Session, name: str) -> None:
        _require_all([name], [row["name"] for row in await self._databases(session)])

    async def _require_user(self, session: Session, name: str, host: str) -> None:
        if (name, host) not in {(user.name, user.host) for user in await self._users(session)}:
            raise EngineError(Failure.NOT_FOUND, f"user {name!r} does not exist")

    # --- what is refused before the engine is asked ---

    def _check_database(self, name: str) -> None:
        if name.lower() in self._spec.reserved_databases or not self._spec.database_pattern.fullmatch(name):
            raise EngineError(Failure.INVALID, f"not a possible database name: {name!r}")
        identifier(name)

    def _check_user(self, name: str, host: str, password: str | None) -> None:
        long = len(name) > self._spec.max_user_length
        if name.lower() in self._spec.reserved_users or long or not self._spec.user_pattern.fullmatch(name):
            raise EngineError(Failure.INVALID, f"not a possible user name: {name!r}")
        if not _HOST.fullmatch(host):
            raise EngineError(Failure.INVALID, f"not a possible host: {host!r}")
        if password is not None:
            _check_password(password)


def _check_password(password: str) -> None:
    if not password:
        raise EngineError(Failure.INVALID, "an empty password lets anybody in")


def _refuse_twice(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise EngineError(Failure.INVALID, f"{what} {name!r} is named twice")


def _require_all(wanted: Iterable[str], there: Iterable[str]) -> None:
    known = set(there)
    for name in wanted:
        if name not in known:
            raise EngineError(Failure.NOT_FOUND, f"database {name!r} does not exist")


# --- statements ---


def _account(name: str, host: str) -> str:
    return f"{literal(name)}@{literal(host)}"


def _renamed(name: str, host: str, new_name: str, new_host: str) -> str:
    return f"{_account(name, host)} TO {_account(new_name, new_host)}"


def _pattern(database: str) -> str:
    """Of that database alone, as grants name it."""
    return re.sub(r"([\\_%])", r"\\\1", database)


def _spellings(database: str) -> tuple[str, str]:
    return database, _pattern(database)


def _quoted_pattern(pattern: str) -> str:
    return "`" + pattern.replace("`", "``") + "`"


def _options(database: Database) -> str:
    charset = f"CHARACTER SET = {literal(database.character_set)} " if database.character_set else ""
    collation = f"COLLATE = {literal(database.collate)} " if database.collate else ""
    return f"{charset}{collation}"


async def _grant(session: Session, account: str, database: str) -> None:
    await session.execute(f"GRANT ALL PRIVILEGES ON {_quoted_pattern(_pattern(database))}.* TO {account}")


async def _revoke(session: Session, row: Mapping[str, Any]) -> None:
    where, account = f"{_quoted_pattern(row['Db'])}.*", _account(row["User"], row["Host"])
    await session.execute(f"REVOKE ALL PRIVILEGES ON {where} FROM {account}")
    with suppress(EngineError):  # the first was all that there was
        await session.execute(f"REVOKE GRANT OPTION ON {where} FROM {account}")


async def _clear_new(session: Session) -> None:
    rows = await session.fetch("SELECT User, Host FROM mysql.user WHERE User LIKE %s", _pattern(_NEW_PREFIX) + "%")
    for row in rows:
        await session.execute(f"DROP USER IF EXISTS {_account(row['User'], row['Host'])}")


async def end_sessions(session: Session, *, user: str | None = None, database: str | None = None) -> None:
    """Those of that user, in that database, or both."""
    for row in await session.fetch(_SESSIONS):
        if user in {None, row["user"]} and database in {None, row["db"]}:
            await _kill(session, row["id"])


async def _kill(session: Session, number: int) -> None:
    with suppress(EngineError):  # it ended by itself
        await session.execute(f"KILL {int(number)}")


async def _making(session: Session) -> set[str]:
    """Databases of which an account that nobody can be says that they are being made; one with a table in it is not."""
    marks = {row["Db"] for row in await session.fetch(_MARKED, _MAKING)}
    if not marks:
        return set()
    marked = [row["name"] for row in await session.fetch(_DATABASES) if _pattern(row["name"]) in marks]
    return {name for name in marked if not await session.fetch(_TABLES, name)}


async def _drop_made(session: Session, made: Iterable[str]) -> None:
    """Those that are said to be in the making, and those of which that is known; then nothing is said any more."""
    making = await _making(session)
    for name in making.union(made):
        await session.execute(f"DROP DATABASE IF EXISTS {identifier(name)}")
    await session.execute(f"DROP USER IF EXISTS {_MAKING}")


async def _undo(
    engine: Engine, session: Session, error: BaseException, undo: Callable[[Session], Awaitable[None]]
) -> None:
    """Over another session, once the first does nothing more: when it was cut off, its statement may still run. What
    cannot be undone now is the next attempt's to clear."""
    with suppress(EngineError):
        async with engine.session() as other:
            if not isinstance(error, EngineError) and isinstance(session, MySQLSession):
                await _end(other, session.id)
            await undo(other)


async def _end(session: Session, number: int) -> None:
    await _kill(session, number)
    for _ in range(_LOOKS):
        if number not in {row["id"] for row in await session.fetch(_SESSIONS)}:
            return
        await asyncio.sleep(_LOOK_SECONDS)
