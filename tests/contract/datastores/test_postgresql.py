"""What is PostgreSQL's own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from coffer_shared.datastore import Database, EngineError, NewUser
from coffer_shared.messages import Failure

pytestmark = pytest.mark.docker


PASSWORD = "s3cret word"


async def test_nobody_is_trusted_and_the_superuser_has_no_password(postgres: Any) -> None:
    async with postgres.session() as session:
        rules = await session.fetch("SELECT type, auth_method, error FROM pg_hba_file_rules")
        rows = await session.fetch("SELECT FROM pg_authid WHERE rolpassword IS NOT NULL AND rolname = 'postgres'")
    assert not [rule for rule in rules if rule["auth_method"] in {"trust", "md5", "password"} or rule["error"]]
    assert not rows


async def test_the_superuser_does_not_come_in_over_tcp(postgres: Any) -> None:
    for password in ("", "postgres"):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            async with postgres.tenant("postgres", password, "postgres"):
                pass


def test_another_local_user_does_not_come_in_over_the_socket(postgres: Any) -> None:
    run = Path(postgres.order.run)
    closed = [path for path in (run, *run.parents) if not path.stat().st_mode & 0o001]
    for path in closed:
        path.chmod(0o711)
    try:
        done = subprocess.run(
            ["setpriv", "--reuid", "65534", "--clear-groups", "/usr/bin/python3", "-c", _greeting(postgres)],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        for path in closed:
            path.chmod(0o700)
    assert "Peer authentication failed" in done.stdout, done


def _greeting(postgres: Any) -> str:
    """A start-up message for user postgres, by hand: the other user cannot read this environment's libraries."""
    return (
        "import socket\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        f"s.connect({postgres.order.run + '/.s.PGSQL.' + str(postgres.order.port)!r})\n"
        "body = (196608).to_bytes(4, 'big') + b'user\\0postgres\\0database\\0postgres\\0\\0'\n"
        "s.sendall((len(body) + 4).to_bytes(4, 'big') + body)\n"
        "print(s.recv(1000))\n"
    )


async def test_the_cluster_is_made_to_last(postgres: Any, word: str) -> None:
    await postgres.driver.create_databases(postgres, [Database(word)])
    async with postgres.session(word) as session:
        facts = await session.fetch(
            "SELECT current_setting('data_checksums') AS sums, datlocprovider::text AS provider, datlocale AS locale, "
            "pg_encoding_to_char(encoding) AS encoding FROM pg_database WHERE datname = current_database()"
        )
        with pytest.raises(EngineError):
            await session.execute("ALTER SYSTEM SET work_mem = '1GB'")
    assert facts == [{"sums": "on", "provider": "b", "locale": "C.UTF-8", "encoding": "UTF8"}]


async def test_the_servers_files_are_its_own_and_no_password_is_in_them(postgres: Any, word: str) -> None:
    secret = f"{word}-never-in-clear"
    await postgres.driver.create_users(postgres, [NewUser(word, secret)])
    await postgres.driver.set_passwords(postgres, [NewUser(word, secret + "2")])
    await postgres.driver.enable_root(postgres, secret + "3")
    await postgres.driver.disable_root(postgres)
    with pytest.raises(EngineError):
        await postgres.driver.create_users(postgres, [NewUser(word, secret)])
    logs = subprocess.run(["docker", "logs", postgres.container], capture_output=True, text=True, check=True)
    assert secret not in logs.stdout + logs.stderr
    for directory in (postgres.order.config, postgres.order.data):
        assert subprocess.run(["grep", "-rqs", secret, directory], check=False).returncode == 1
    assert Path(postgres.order.data).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("character_set", "collate", "encoding"),
    [
        (None, None, "UTF8"),
        ("utf8", "C.UTF-8", "UTF8"),
        ("UTF-8", "en_US.UTF-8", "UTF8"),
        ("LATIN1", None, "LATIN1"),
        ("latin1", "C", "LATIN1"),
        ("SQL_ASCII", "C", "SQL_ASCII"),
    ],
)
async def test_character_sets_and_collations(
    postgres: Any, word: str, character_set: str | None, collate: str | None, encoding: str
) -> None:
    await postgres.driver.create_databases(postgres, [Database(word, character_set, collate)])
    found = {database.name: database for database in await postgres.driver.list_databases(postgres)}
    assert found[word].character_set == encoding
    await postgres.driver.drop_database(postgres, word)


@pytest.mark.parametrize(
    ("character_set", "collate"),
    [
        ("utf8mb4", None),
        ("SJIS", None),
        (None, "tlh_QO.UTF-8"),
        ("LATIN1", "en_US.UTF-8"),
        ("'; --", None),
        (None, "'"),
    ],
)
async def test_other_character_sets_are_refused_with_a_reason(
    postgres: Any, word: str, character_set: str | None, collate: str | None
) -> None:
    with pytest.raises(EngineError) as failure:
        await postgres.driver.create_databases(postgres, [Database(word, character_set, collate)])
    assert failure.value.code == Failure.INVALID
    assert failure.value.text


@pytest.mark.parametrize(
    ("name", "password"), [(",", "a,b"), ("n=x,r=y", "="), ("a b", " pass word "), ("ä", "\u00aa\u2168\u00a0x\u00ad")]
)
async def test_the_engines_own_client_logs_in(postgres: Any, word: str, name: str, password: str) -> None:
    """libpq prepares passwords as the standard says; the verifier must agree with it."""
    await postgres.driver.create_databases(postgres, [Database(word)])
    await postgres.driver.create_users(postgres, [NewUser(name, password, databases=(word,))])
    where = ["-h", postgres.order.listen[0], "-p", str(postgres.order.port), "-U", name, "-d", word]
    psql = ["psql", *where, "-Atc", "SELECT session_user"]
    done = subprocess.run(
        ["docker", "exec", "-e", f"PGPASSWORD={password}", postgres.container, *psql],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == name + "\n", done.stderr
    await postgres.driver.drop_user(postgres, name, "%")


async def test_no_role_is_left_when_databases_and_users_are_gone(postgres: Any, word: str) -> None:
    async def roles() -> list[str]:
        async with postgres.session() as session:
            return [row["rolname"] for row in await session.fetch("SELECT rolname FROM pg_roles ORDER BY 1")]

    before = await roles()
    await postgres.driver.create_databases(postgres, [Database(word), Database(word + "2")])
    await postgres.driver.create_users(postgres, [NewUser(word, "x", databases=(word, word + "2"))])
    async with postgres.tenant(word, "x", word) as tenant:
        await tenant.execute("SET ROLE NONE")
        await tenant.execute("CREATE TABLE own (x int); CREATE SCHEMA mine; CREATE TABLE mine.own (x int)")
    await postgres.driver.drop_user(postgres, word, "%")
    for name in (word, word + "2"):
        await postgres.driver.drop_database(postgres, name)
    assert await roles() == before


async def test_a_renamed_database_can_still_be_granted_and_dropped(postgres: Any, word: str) -> None:
    new = word + "n"
    await postgres.driver.create_databases(postgres, [Database(word)])
    await postgres.driver.create_users(postgres, [NewUser(word, "x", databases=(word,))])
    async with postgres.session() as session:
        await session.execute(f"ALTER DATABASE {word} RENAME TO {new}")
    await postgres.driver.create_users(postgres, [NewUser(word + "2", "x", databases=(new,))])
    assert {user.name: user.databases for user in await postgres.driver.list_users(postgres)}[word] == (new,)
    await postgres.driver.drop_database(postgres, new)
    await postgres.driver.create_databases(postgres, [Database(word)])


async def test_a_user_cannot_give_itself_more(postgres: Any, word: str) -> None:
    await postgres.driver.create_databases(postgres, [Database(word), Database(word + "2")])
    await postgres.driver.create_users(postgres, [NewUser(word, "x", databases=(word,))])
    async with postgres.session() as session:
        (other,) = await session.fetch(
            "SELECT pg_get_userbyid(datdba) AS owner FROM pg_database WHERE datname = $1", word + "2"
        )
    async with postgres.tenant(word, "x", word) as tenant:
        for statement in (
            "CREATE ROLE x",
            "CREATE DATABASE x",
            "SET ROLE postgres",
            f'SET ROLE "{other["owner"]}"',
            "ALTER ROLE postgres PASSWORD 'x'",
            "COPY (SELECT 1) TO PROGRAM 'id'",
            "SELECT pg_read_file('/etc/passwd')",
            "ALTER SYSTEM SET work_mem = '1GB'",
        ):
            for role in ("RESET ROLE", "SET ROLE NONE"):
                await tenant.execute(role)
                with pytest.raises(asyncpg.PostgresError):
                    await tenant.execute(statement)

# --- accounts ---


async def users(postgres: Any) -> dict[str, tuple[str, ...]]:
    return {user.name: user.databases for user in await postgres.driver.list_users(postgres)}


async def test_users_of_one_database_share_its_schemas(postgres: Any, word: str) -> None:
    await postgres.driver.create_databases(postgres, [Database(word)])
    one, two = word + "1", word + "2"
    for name in (one, two):
        await postgres.driver.create_users(postgres, [NewUser(name, PASSWORD, databases=(word,))])
    async with postgres.tenant(one, PASSWORD, word) as first, postgres.tenant(two, PASSWORD, word) as second:
        await second.execute("CREATE SCHEMA s")
        await second.execute("CREATE TABLE s.t (x int)")
        await first.execute("DROP TABLE s.t")


@pytest.mark.parametrize("name", ["pg_x", "x" * 64, "ж" * 32])
async def test_names_that_the_server_would_take_otherwise_are_refused(postgres: Any, name: str) -> None:
    with pytest.raises(EngineError) as failure:
        await postgres.driver.create_users(postgres, [NewUser(name, PASSWORD)])
    assert failure.value.code == Failure.INVALID


async def test_what_root_made_can_be_granted_and_dropped(postgres: Any, word: str) -> None:
    root = postgres.spec.root_user
    await postgres.driver.enable_root(postgres, PASSWORD)
    async with postgres.tenant(root, PASSWORD, "postgres") as tenant:
        await tenant.execute(f"CREATE DATABASE {word}")
        await tenant.execute(f"CREATE ROLE {word} LOGIN")
        await tenant.execute(f"CREATE DATABASE {word}own OWNER {word}")
    await postgres.driver.disable_root(postgres)
    assert (await users(postgres))[word] == (word + "own",)
    await postgres.driver.set_passwords(postgres, [NewUser(word, PASSWORD)])
    await postgres.driver.create_users(postgres, [NewUser(word + "u", PASSWORD)])
    await postgres.driver.grant(postgres, word + "u", "%", [word, word + "own"])
    async with postgres.tenant(word + "u", PASSWORD, word) as tenant:
        assert await tenant.fetchval("SELECT 1") == 1
    assert (await users(postgres))[word] == (word + "own",)
    for user in (word, word + "u"):
        async with postgres.tenant(user, PASSWORD, word + "own") as tenant:
            await tenant.execute("CREATE TABLE IF NOT EXISTS t (x int)")
            await tenant.execute("INSERT INTO t VALUES (1)")
    for user in (word, word + "u"):
        await postgres.driver.drop_user(postgres, user, "%")
    for name in (word, word + "own"):
        await postgres.driver.drop_database(postgres, name)
