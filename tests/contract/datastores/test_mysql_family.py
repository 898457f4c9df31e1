"""What holds for every server of the MySQL family. What one of them has of its own is in a file of its name."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pymysql
import pytest

from coffer_shared.datastore import Database, EngineError, NewUser
from coffer_shared.messages import Failure
from contract.datastores.conftest import Running
from contract.datastores.mysql_family import MEMBERS, Member, ask, can_connect, restart, users

pytestmark = pytest.mark.docker

PASSWORD = "s3cret word"


@pytest.fixture(scope="session", params=sorted(MEMBERS))
def server(request: pytest.FixtureRequest, running: Callable[[str], Running]) -> Running:
    return running(request.param)


@pytest.fixture
def member(server: Running) -> Member:
    return MEMBERS[server.spec.name]


# --- Coffer's own accounts ---


# --- Coffer's own accounts ---


async def test_at_first_nobody_is_there_but_coffer_and_none_of_them_has_a_password(
    server: Running, member: Member
) -> None:
    rows = [row for row in await ask(server, member.accounts) if not row["user"].startswith("t")]
    assert {row["user"] for row in rows} == member.coffers | member.servers
    for row in rows:
        assert row["host"] == "localhost"
        assert (row["plugin"] == member.of_the_socket) == (row["user"] in member.coffers)
        assert bool(int(row["locked"])) == (row["user"] in member.servers)


@pytest.mark.parametrize("user", ["coffer_agent", "coffer_backup"])
async def test_they_do_not_come_in_over_tcp(server: Running, user: str) -> None:
    for password in ("", "root", "mysql"):
        assert not await can_connect(server, user, password, "mysql")


@pytest.mark.parametrize(("uid", "user"), [(65534, "coffer_agent"), (65534, "coffer_backup"), (999, "coffer_agent")])
def test_another_local_user_is_neither(server: Running, member: Member, uid: int, user: str) -> None:
    client = [member.client, "--no-defaults", "--socket", "/run/mysqld/mysqld.sock", "-u", user, "-e", "SELECT 1"]
    Path(server.order.run).chmod(0o711)
    try:
        done = subprocess.run(
            ["docker", "exec", "--user", str(uid), server.container, *client],
            capture_output=True, text=True, check=False,
        )
    finally:
        Path(server.order.run).chmod(0o700)
    assert done.returncode != 0
    assert "Access denied" in done.stderr


async def test_the_servers_files_are_its_own_and_no_password_is_in_them(server: Running, word: str) -> None:
    secret = f"{word}-never-in-clear"
    await server.driver.create_users(server, [NewUser(word, secret)])
    await server.driver.set_passwords(server, [NewUser(word, secret + "2")])
    await server.driver.enable_root(server, secret + "3")
    await server.driver.disable_root(server)
    with pytest.raises(EngineError):
        await server.driver.create_users(server, [NewUser(word, secret)])
    logs = subprocess.run(["docker", "logs", server.container], capture_output=True, text=True, check=True)
    assert secret not in logs.stdout + logs.stderr
    for directory in (server.order.config, server.order.data):
        assert subprocess.run(["grep", "-rqs", secret, directory], check=False).returncode == 1
    assert Path(server.order.data).stat().st_mode & 0o777 == 0o700


# --- root ---


async def test_root_is_a_superuser_but_reads_and_writes_no_files(server: Running, word: str) -> None:
    await server.driver.enable_root(server, PASSWORD)
    try:
        async with server.tenant("root", PASSWORD, "mysql") as root:
            await root.execute(f"CREATE DATABASE {word}")
            await root.execute(f"CREATE USER {word}@'%' IDENTIFIED BY '{PASSWORD}'")
            await root.execute(f"GRANT ALL ON {word}.* TO {word}@'%' WITH GRANT OPTION")
            await root.execute("SET GLOBAL slow_launch_time = 3")
            assert await root.fetchval("SELECT LOAD_FILE('/etc/passwd')") is None
            with pytest.raises(pymysql.MySQLError):
                await root.execute("SELECT 1 INTO OUTFILE '/var/lib/mysql/x'")
            with pytest.raises(pymysql.MySQLError):
                await root.execute("INSTALL PLUGIN x SONAME '../../../../var/lib/mysql/x'")
        assert await users(server, word) == {(word, "%"): (word,)}
    finally:
        await server.driver.disable_root(server)
    # what root made is the tenant's, and in the agent's hands
    assert await can_connect(server, word, PASSWORD, word)
    await server.driver.revoke(server, word, "%", word)
    assert not await can_connect(server, word, PASSWORD, word)
    await server.driver.drop_user(server, word, "%")
    await server.driver.drop_database(server, word)


async def test_disabling_root_ends_it_at_every_host(server: Running) -> None:
    await server.driver.enable_root(server, PASSWORD)
    async with server.tenant("root", PASSWORD, "mysql") as root:
        await root.execute("CREATE USER root@'127.0.0.%' IDENTIFIED BY 'other'")
    await server.driver.disable_root(server)
    assert await ask(server, "SELECT 1 FROM mysql.user WHERE User = 'root'") == []
    assert not await server.driver.root_enabled(server)


async def test_what_root_did_to_coffers_accounts_a_restart_undoes(server: Running, member: Member) -> None:
    before = await ask(server, "SHOW GRANTS")
    await server.driver.enable_root(server, PASSWORD)
    async with server.tenant("root", PASSWORD, "mysql") as root:
        await root.execute("SET SESSION max_error_count = 0")
        for statement in member.harm:
            await root.execute(statement)
    with pytest.raises(EngineError) as failure:
        await server.driver.root_enabled(server)
    assert failure.value.code == Failure.NOT_READY
    await restart(server)
    await server.driver.disable_root(server)
    assert await ask(server, "SHOW GRANTS") == before
    found = await ask(server, "SELECT User AS user FROM mysql.user WHERE User LIKE %s", "coffer%")
    assert {row["user"] for row in found} == member.coffers


async def test_a_user_cannot_give_itself_more(server: Running, word: str) -> None:
    await server.driver.create_databases(server, [Database(word), Database(word + "2")])
    await server.driver.create_users(server, [NewUser(word, "x", databases=(word,))])
    async with server.session() as agent, server.tenant(word, "x", word) as tenant:
        (own,) = await agent.fetch("SELECT CONNECTION_ID() AS id")
        for statement in (
            "CREATE USER x@'%'",
            "CREATE DATABASE x",
            f"GRANT ALL ON {word}2.* TO {word}@'%'",
            f"GRANT SELECT ON {word}.* TO {word}2@'%'",
            "SET GLOBAL max_connections = 1000",
            "SELECT * FROM mysql.user",
            f"USE {word}2",
            "SELECT 1 INTO OUTFILE '/tmp/x'",
            f"KILL {own['id']}",
        ):
            with pytest.raises(pymysql.MySQLError):
                await tenant.execute(statement)
        assert await agent.fetch("SELECT 1 AS one") == [{"one": 1}]


async def test_what_root_chooses_for_everybody_does_not_stop_the_agent(
    server: Running, member: Member, word: str
) -> None:
    async with server.session() as session:
        (before,) = await session.fetch("SELECT @@GLOBAL.sql_mode AS mode")
        try:
            for name, value in member.chosen.items():
                await session.execute(f"SET GLOBAL {name} = {value}")
            async with server.session() as later:
                assert await later.fetch("SELECT SLEEP(0.1) AS was_cut") == [{"was_cut": 0}]
            await server.driver.create_databases(server, [Database(word)])
            await server.driver.create_users(server, [NewUser(word + "'\"", "\\'", databases=(word,))])
            assert await users(server, word) == {(word + "'\"", "%"): (word,)}
        finally:
            for name in member.chosen:
                default = f"'{before['mode']}'" if name == "sql_mode" else "DEFAULT"
                await session.execute(f"SET GLOBAL {name} = {default}")


# --- databases that are being made ---


MAKING = "'coffer_making'@'localhost'"


@pytest.fixture
async def cut_short(server: Running, word: str) -> str:
    """A call to make two databases ended after the first of them."""
    async with server.session() as session:
        await session.execute(f"CREATE USER IF NOT EXISTS {MAKING} ACCOUNT LOCK")
        for name in (f"{word}_1", f"{word}_2"):
            pattern = name.replace("_", r"\_")
            await session.execute(f"GRANT ALL PRIVILEGES ON `{pattern}`.* TO {MAKING}")
        await session.execute(f"CREATE DATABASE {word}_1")
    return f"{word}_1"


async def names(server: Running, word: str) -> list[str]:
    return [one.name for one in await server.driver.list_databases(server) if one.name.startswith(word)]


async def test_a_database_whose_making_was_cut_short_is_hidden_and_cleared_by_the_next_call(
    server: Running, word: str, cut_short: str
) -> None:
    assert await names(server, word) == []
    with pytest.raises(EngineError) as failure:
        await server.driver.drop_database(server, cut_short)
    assert failure.value.code == Failure.NOT_FOUND
    await server.driver.create_databases(server, [Database(f"{word}_3")])
    assert await names(server, word) == [f"{word}_3"]
    assert await ask(server, "SHOW DATABASES LIKE %s", cut_short) == []
    assert await ask(server, "SELECT 1 FROM mysql.user WHERE User = %s", "coffer_making") == []
    await server.driver.create_databases(server, [Database(cut_short)])
    assert await names(server, word) == [cut_short, f"{word}_3"]


async def test_what_has_a_table_in_it_is_the_tenants_whatever_is_said_of_it(
    server: Running, word: str, cut_short: str
) -> None:
    async with server.session() as session:
        await session.execute(f"CREATE TABLE {cut_short}.t AS SELECT 7 AS x")
    assert await names(server, word) == [cut_short]
    with pytest.raises(EngineError) as failure:
        await server.driver.create_databases(server, [Database(f"{word}_3"), Database(cut_short)])
    assert failure.value.code == Failure.EXISTS
    await server.driver.create_databases(server, [Database(f"{word}_3")])
    assert await names(server, word) == [cut_short, f"{word}_3"]
    assert await ask(server, f"SELECT x FROM {cut_short}.t") == [{"x": 7}]
    assert await ask(server, "SELECT 1 FROM mysql.user WHERE User = %s", "coffer_making") == []


# --- hosts, patterns, character sets ---


async def test_users_of_one_name_at_two_hosts_are_two(server: Running, word: str) -> None:
    here, there = "127.0.0.%", "10.%"
    await server.driver.create_databases(server, [Database(word)])
    await server.driver.create_users(server, [NewUser(word, "one", here, (word,)), NewUser(word, "two", there)])
    assert await users(server, word) == {(word, here): (word,), (word, there): ()}
    assert await can_connect(server, word, "one", word)
    assert not await can_connect(server, word, "two", word)
    with pytest.raises(EngineError) as failure:
        await server.driver.change_user(server, word, here, new_name=None, new_host=there, password=None)
    assert failure.value.code == Failure.EXISTS
    await server.driver.drop_user(server, word, there)
    await server.driver.change_user(server, word, here, new_name=None, new_host="192.0.2.1", password=None)
    assert await users(server, word) == {(word, "192.0.2.1"): (word,)}
    assert not await can_connect(server, word, "one", word)
    with pytest.raises(EngineError) as failure:
        await server.driver.grant(server, word, here, [word])
    assert failure.value.code == Failure.NOT_FOUND


@pytest.mark.parametrize("host", ["", "a b", "'", "%'; DROP USER x; --", "x" * 300, "10.0.0.1\n"])
async def test_hosts_that_are_none_are_refused(server: Running, word: str, host: str) -> None:
    with pytest.raises(EngineError) as failure:
        await server.driver.create_users(server, [NewUser(word, PASSWORD, host)])
    assert failure.value.code == Failure.INVALID


@pytest.mark.parametrize("name", ["a_b", "a%b", "%", "_", "a_%"])
async def test_a_grant_is_of_that_database_alone(server: Running, word: str, name: str) -> None:
    mine, other = word + name, word + name.replace("_", "x").replace("%", "yy")
    await server.driver.create_databases(server, [Database(mine), Database(other)])
    await server.driver.create_users(server, [NewUser(word, PASSWORD, databases=(mine,))])
    assert await users(server, word) == {(word, "%"): (mine,)}
    assert await can_connect(server, word, PASSWORD, mine)
    assert not await can_connect(server, word, PASSWORD, other)
    await server.driver.revoke(server, word, "%", mine)
    assert not await can_connect(server, word, PASSWORD, mine)


@pytest.mark.parametrize(
    ("character_set", "collate", "found"),
    [
        (None, None, ("utf8mb4", None)),
        ("utf8mb4", "utf8mb4_bin", ("utf8mb4", "utf8mb4_bin")),
        ("latin1", None, ("latin1", None)),
        (None, "latin1_general_cs", ("latin1", "latin1_general_cs")),
        ("UTF8", None, ("utf8mb3", None)),
    ],
)
async def test_character_sets_and_collations(
    server: Running, member: Member, word: str, character_set: str | None, collate: str | None,
    found: tuple[str, str | None],
) -> None:
    await server.driver.create_databases(server, [Database(word, character_set, collate)])
    listed = {one.name: (one.character_set, one.collate) for one in await server.driver.list_databases(server)}
    assert listed[word] == (found[0], found[1] or member.collations[found[0]])


@pytest.mark.parametrize(
    ("character_set", "collate"),
    [("tlh", None), (None, "tlh_ci"), ("latin1", "utf8mb4_bin"), ("'; --", None), (None, "'"), ("\\", None)],
)
async def test_other_character_sets_are_refused_with_a_reason(
    server: Running, word: str, character_set: str | None, collate: str | None
) -> None:
    with pytest.raises(EngineError) as failure:
        await server.driver.create_databases(server, [Database(word, character_set, collate)])
    assert failure.value.code == Failure.INVALID
    assert failure.value.text


@pytest.mark.parametrize("name", ["MySQL", "SYS", "Information_Schema", "#mysql50#x", "x" * 65, "\U0001f600"])
async def test_databases_that_the_server_would_take_otherwise_are_refused(server: Running, name: str) -> None:
    with pytest.raises(EngineError) as failure:
        await server.driver.create_databases(server, [Database(name)])
    assert failure.value.code == Failure.INVALID


@pytest.mark.parametrize("password", [" pass word ", "\u00e4\u4e2d\U0001f600", "'\"\\%s", "x" * 255])
async def test_the_engines_own_client_logs_in(server: Running, member: Member, word: str, password: str) -> None:
    await server.driver.create_databases(server, [Database(word)])
    await server.driver.create_users(server, [NewUser(word, password, databases=(word,))])
    where = ["-h", server.order.listen[0], "-P", str(server.order.port), "-u", word, "-D", word]
    done = subprocess.run(
        ["docker", "exec", "-e", f"MYSQL_PWD={password}", server.container, member.client, *where, "-Ne",
         "SELECT USER()"],
        capture_output=True, text=True, check=False,
    )
    assert done.stdout.startswith(word + "@"), done.stderr


async def test_nothing_is_left_of_users_and_databases_that_are_gone(server: Running, word: str) -> None:
    await server.driver.create_databases(server, [Database(word)])
    await server.driver.create_users(server, [NewUser(word, PASSWORD, databases=(word,))])
    await server.driver.drop_user(server, word, "%")
    await server.driver.create_users(server, [NewUser(word + "2", PASSWORD, databases=(word,))])
    await server.driver.drop_database(server, word)
    assert await ask(server, "SELECT 1 FROM mysql.db WHERE Db LIKE %s OR User LIKE %s", word + "%", word + "%") == []
    await server.driver.drop_user(server, word + "2", "%")
    assert await ask(server, "SELECT 1 FROM mysql.user WHERE User LIKE %s", word + "%") == []
