"""Databases, users, grants and root of one PostgreSQL server.

A database belongs to a role of its own that nobody logs in as (`coffer_<database>_<hash>`). Granting a database to a
user makes the user a member of that role and lets its sessions in that database begin as it (ALTER ROLE .. IN DATABASE
.. SET role). So all users of one database own its objects together, as they would in MySQL: each can create tables and
read, change, alter and drop what the others made, now and later, and a user can be dropped without moving anything.
The price is that `current_user` there shows the shared role; `session_user` shows who it is. Default privileges
instead would share rows but not ALTER and DROP, and need a connection to each database for each grant.

Nobody else may connect: PUBLIC loses CONNECT and TEMP on every database. Several changes in one call are one
transaction; new databases, which cannot be made in one, stay closed until a last transaction opens them together.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress

from coffer_datastores.postgresql.scram import verifier
from coffer_datastores.postgresql.session import SUPERUSER, identifier, literal
from coffer_datastores.postgresql.spec import DATASTORE
from coffer_shared.datastore import Database, Engine, EngineError, NewUser, Session, User
from coffer_shared.messages import Failure

_OWNER_PREFIX = "coffer_"
_ROOT = DATASTORE.root_user
_BUILTIN_LOCALE = "C.UTF-8"

# Those of tenants: neither the server's nor Coffer's own, nor templates, nor a database still in the making.
_DATABASES = """
SELECT datname AS name, pg_get_userbyid(datdba) AS owner, pg_encoding_to_char(encoding) AS encoding,
       coalesce(datlocale, datcollate) AS locale
FROM pg_database
WHERE NOT datistemplate AND datallowconn AND datname <> 'postgres' AND ($1::text IS NULL OR datname = $1)
ORDER BY datname
"""
_USERS = """
SELECT rolname AS name, coalesce((
    SELECT array_agg(datname ORDER BY datname) FROM pg_database
    WHERE NOT datistemplate AND datallowconn AND datname <> 'postgres'
      AND (datdba = r.oid OR datdba IN (SELECT roleid FROM pg_auth_members WHERE member = r.oid))
    ), '{}') AS databases
FROM pg_roles r
WHERE rolcanlogin AND rolname NOT IN ('postgres', 'root') AND rolname !~ '^(pg_|coffer_)'
  AND ($1::text IS NULL OR rolname = $1)
ORDER BY rolname
"""


class Accounts:
    """Implements HasDatabases, HasUsers and HasRoot. PostgreSQL has no hosts: `host` is ignored everywhere."""

    # --- databases ---

    async def list_databases(self, engine: Engine) -> list[Database]:
        async with engine.session() as session:
            rows = await session.fetch(_DATABASES, None)
        return [Database(row["name"], row["encoding"], row["locale"]) for row in rows]

    async def create_databases(self, engine: Engine, databases: Sequence[Database]) -> None:
        names = [database.name for database in databases]
        _refuse_twice(names, "database")
        for name in names:
            _check_database(name)
        async with engine.session() as session:
            await _refuse_existing_databases(session, names)
            try:
                for database in databases:
                    await _make_closed_database(session, database)
                async with session.transaction():
                    for name in names:
                        await session.execute(f"REVOKE ALL ON DATABASE {identifier(name)} FROM PUBLIC")
                        await session.execute(f"ALTER DATABASE {identifier(name)} ALLOW_CONNECTIONS true")
            except BaseException:
                with suppress(EngineError):  # what cannot be undone now is the next attempt's to clear
                    for name in names:
                        await _clear_closed_database(session, name)
                raise

    async def drop_database(self, engine: Engine, name: str) -> None:
        _check_database(name)
        async with engine.session() as session:
            owner = await _owner(session, name)
            await session.execute(f"DROP DATABASE {identifier(name)} WITH (FORCE)")
            if owner.startswith(_OWNER_PREFIX):
                await _drop_role(engine, session, owner)

    # --- users ---

    async def list_users(self, engine: Engine) -> list[User]:
        async with engine.session() as session:
            rows = await session.fetch(_USERS, None)
        return [User(row["name"], databases=tuple(row["databases"])) for row in rows]

    async def create_users(self, engine: Engine, users: Sequence[NewUser]) -> None:
        _refuse_twice([user.name for user in users], "user")
        for user in users:
            _check_user(user.name)
        verifiers = await _verifiers(users)
        async with engine.session() as session, session.transaction():
            for user, secret in zip(users, verifiers, strict=True):
                if await _role_exists(session, user.name):
                    raise EngineError(Failure.EXISTS, f"user {user.name!r} exists")
                await session.execute(f"CREATE ROLE {identifier(user.name)} LOGIN PASSWORD {literal(secret)}")
                for database in user.databases:
                    await _grant(session, user.name, database)

    async def drop_user(self, engine: Engine, name: str, host: str) -> None:
        del host
        async with engine.session() as session:
            await _require_user(session, name)
            await session.execute(f"ALTER ROLE {identifier(name)} NOLOGIN")
            await _end_sessions(session, name)
            await _drop_role(engine, session, name)

    async def set_passwords(self, engine: Engine, users: Sequence[NewUser]) -> None:
        verifiers = await _verifiers(users)
        async with engine.session() as session, session.transaction():
            for user, secret in zip(users, verifiers, strict=True):
                await _require_user(session, user.name)
                await session.execute(f"ALTER ROLE {identifier(user.name)} PASSWORD {literal(secret)}")

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
        del host, new_host
        secret = None if password is None else (await asyncio.to_thread(verifier, password))
        async with engine.session() as session, session.transaction():
            await _require_user(session, name)
            if secret is not None:
                await session.execute(f"ALTER ROLE {identifier(name)} PASSWORD {literal(secret)}")
            if new_name is not None and new_name != name:
                _check_user(new_name)
                await session.execute(f"ALTER ROLE {identifier(name)} RENAME TO {identifier(new_name)}")

    async def grant(self, engine: Engine, name: str, host: str, databases: Sequence[str]) -> None:
        del host
        async with engine.session() as session, session.transaction():
            await _require_user(session, name)
            for database in databases:
                await _grant(session, name, database)

    async def revoke(self, engine: Engine, name: str, host: str, database: str) -> None:
        del host
        async with engine.session() as session:
            await _require_user(session, name)
            owner = await _owner(session, database)
            if not await _is_member(session, name, owner):
                raise EngineError(Failure.NOT_FOUND, f"user {name!r} has no access to database {database!r}")
            async with session.transaction():
                await session.execute(f"REVOKE {identifier(owner)} FROM {identifier(name)}")
                await session.execute(f"ALTER ROLE {identifier(name)} IN DATABASE {identifier(database)} RESET role")
            await _end_sessions(session, name, database)

    # --- root ---

    async def root_enabled(self, engine: Engine) -> bool:
        async with engine.session() as session:
            rows = await session.fetch(
                "SELECT FROM pg_authid WHERE rolname = $1 AND rolcanlogin AND rolpassword IS NOT NULL", _ROOT
            )
        return bool(rows)

    async def enable_root(self, engine: Engine, password: str) -> None:
        secret = await asyncio.to_thread(verifier, password)
        async with engine.session() as session, session.transaction():
            if not await _role_exists(session, _ROOT):
                await session.execute(f"CREATE ROLE {identifier(_ROOT)}")
            await session.execute(
                f"ALTER ROLE {identifier(_ROOT)} SUPERUSER CREATEDB CREATEROLE REPLICATION BYPASSRLS "
                f"LOGIN PASSWORD {literal(secret)}"
            )

    async def disable_root(self, engine: Engine) -> None:
        """The role stays, since it may own things, but without login and rights: others may be members of it."""
        async with engine.session() as session:
            if not await _role_exists(session, _ROOT):
                return
            await session.execute(
                f"ALTER ROLE {identifier(_ROOT)} NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS "
                "NOLOGIN PASSWORD NULL"
            )
            await _end_sessions(session, _ROOT)


# --- databases, one at a time ---


def _owner_name(database: str) -> str:
    readable = database.encode()[:47].decode(errors="ignore")
    return f"{_OWNER_PREFIX}{readable}_{hashlib.sha256(database.encode()).hexdigest()[:8]}"


async def _make_closed_database(session: Session, database: Database) -> None:
    owner = _owner_name(database.name)
    if not await _role_exists(session, owner):
        await session.execute(f"CREATE ROLE {identifier(owner)} NOLOGIN")
    await session.execute(
        f"CREATE DATABASE {identifier(database.name)} OWNER {identifier(owner)} TEMPLATE template0 "
        f"ALLOW_CONNECTIONS false {await _locale(session, database)}"
    )


async def _locale(session: Session, database: Database) -> str:
    """The clause for character set and collation. The engine refuses a locale that it does not have."""
    encoding = "UTF8"
    if database.character_set:
        rows = await session.fetch(
            # 34 is the last encoding that a server can have; those above are for clients only
            "SELECT pg_encoding_to_char(n) AS name FROM pg_char_to_encoding($1) AS n WHERE n BETWEEN 0 AND 34",
            database.character_set,
        )
        if not rows:
            raise EngineError(Failure.INVALID, f"unknown character set: {database.character_set}")
        encoding = rows[0]["name"]
    wanted = database.collate or (_BUILTIN_LOCALE if encoding == "UTF8" else "C")
    clause = f"ENCODING {literal(encoding)} "
    if wanted.lower().replace("-", "") == "c.utf8" and encoding == "UTF8":
        return clause + f"LOCALE_PROVIDER builtin BUILTIN_LOCALE '{_BUILTIN_LOCALE}' LOCALE '{_BUILTIN_LOCALE}'"
    return clause + f"LOCALE_PROVIDER libc LOCALE {literal(wanted)}"


async def _refuse_existing_databases(session: Session, names: Sequence[str]) -> None:
    for name in names:
        await _clear_closed_database(session, name)
        if await session.fetch("SELECT FROM pg_database WHERE datname = $1", name):
            raise EngineError(Failure.EXISTS, f"database {name!r} exists")


async def _clear_closed_database(session: Session, name: str) -> None:
    """Remove what an interrupted creation left: ours by its owner, and never opened to anybody."""
    owner = _owner_name(name)
    rows = await session.fetch(
        "SELECT datallowconn, pg_get_userbyid(datdba) AS owner FROM pg_database WHERE datname = $1", name
    )
    if rows and not rows[0]["datallowconn"] and rows[0]["owner"] == owner:
        await session.execute(f"DROP DATABASE {identifier(name)} WITH (FORCE)")
        rows = []
    if not rows:
        await session.execute(f"DROP ROLE IF EXISTS {identifier(owner)}")


async def _owner(session: Session, database: str) -> str:
    """Its name, from the catalogue: a tenant with root may have renamed the database."""
    rows = await session.fetch(_DATABASES, database)
    if not rows:
        raise EngineError(Failure.NOT_FOUND, f"database {database!r} does not exist")
    return str(rows[0]["owner"])


# --- grants ---


async def _grant(session: Session, user: str, database: str) -> None:
    owner = await _owner(session, database)
    if not owner.startswith(_OWNER_PREFIX):
        owner = await _adopt(session, database, owner)
    await session.execute(f"GRANT {identifier(owner)} TO {identifier(user)} WITH INHERIT TRUE, SET TRUE")
    await session.execute(
        f"ALTER ROLE {identifier(user)} IN DATABASE {identifier(database)} SET role = {literal(owner)}"
    )


async def _adopt(session: Session, database: str, owner: str) -> str:
    """Give a database that root made an owning role, and its owner membership in that. Objects keep their owners."""
    shared = _owner_name(database)
    if not await _role_exists(session, shared):
        await session.execute(f"CREATE ROLE {identifier(shared)} NOLOGIN")
    await session.execute(f"ALTER DATABASE {identifier(database)} OWNER TO {identifier(shared)}")
    if owner not in {SUPERUSER, _ROOT}:
        await _grant(session, owner, database)
    return shared


async def _is_member(session: Session, user: str, role: str) -> bool:
    return bool(
        await session.fetch(
            "SELECT FROM pg_auth_members WHERE roleid = (SELECT oid FROM pg_roles WHERE rolname = $1) "
            "AND member = (SELECT oid FROM pg_roles WHERE rolname = $2)",
            role,
            user,
        )
    )


# --- roles ---


async def _role_exists(session: Session, name: str) -> bool:
    return bool(await session.fetch("SELECT FROM pg_roles WHERE rolname = $1", name))


async def _require_user(session: Session, name: str) -> None:
    if not await session.fetch(_USERS, name):
        raise EngineError(Failure.NOT_FOUND, f"user {name!r} does not exist")


async def _drop_role(engine: Engine, session: Session, name: str) -> None:
    """What the role owns goes to the owner of the database that it is in; its privileges go with it."""
    role = identifier(name)
    rows = await session.fetch(
        "SELECT DISTINCT d.datname, pg_get_userbyid(d.datdba) AS owner, d.datdba = r.oid AS own "
        "FROM pg_roles r JOIN pg_shdepend s ON s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid "
        "JOIN pg_database d ON d.oid = s.dbid WHERE r.rolname = $1 AND d.datallowconn",
        name,
    )
    for row in rows:
        heir = SUPERUSER if row["own"] else row["owner"]
        async with engine.session(row["datname"]) as inside, inside.transaction():
            await inside.execute(f"REASSIGN OWNED BY {role} TO {identifier(heir)}")
            await inside.execute(f"DROP OWNED BY {role}")
    async with session.transaction():
        # here what belongs to no database: databases themselves, and privileges on them
        await session.execute(f"REASSIGN OWNED BY {role} TO {identifier(SUPERUSER)}")
        await session.execute(f"DROP OWNED BY {role}")
        await session.execute(f"DROP ROLE {role}")


async def _end_sessions(session: Session, user: str, database: str | None = None) -> None:
    await session.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE usename = $1 AND ($2::text IS NULL OR datname = $2) AND pid <> pg_backend_pid()",
        user,
        database,
    )


# --- what is refused before the engine is asked ---


def _check_user(name: str) -> None:
    if name in DATASTORE.reserved_users or not DATASTORE.user_pattern.fullmatch(name):
        raise EngineError(Failure.INVALID, f"not a possible user name: {name!r}")
    identifier(name)


def _check_database(name: str) -> None:
    if name in DATASTORE.reserved_databases or not DATASTORE.database_pattern.fullmatch(name):
        raise EngineError(Failure.INVALID, f"not a possible database name: {name!r}")
    identifier(name)


def _refuse_twice(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise EngineError(Failure.INVALID, f"{what} {name!r} is named twice")


async def _verifiers(users: Iterable[NewUser]) -> list[str]:
    return [await asyncio.to_thread(verifier, user.password) for user in users]
