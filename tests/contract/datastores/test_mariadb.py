"""What is MariaDB's own."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest

import coffer_datastores
from coffer_datastores.mariadb.configuration import files
from coffer_guest.containers import Containers
from coffer_guest.health import Monitor
from coffer_shared.datastore import Database, EngineError, NewUser
from coffer_shared.messages import Engine, Failure
from coffer_shared.parameters import ParameterType

pytestmark = pytest.mark.docker

PASSWORD = "s3cret word"
OWN = {"coffer_agent", "coffer_backup", "mariadb.sys"}


async def ask(mariadb: Any, statement: str, *values: Any) -> list[dict[str, Any]]:
    async with mariadb.session() as session:
        return [dict(row) for row in await session.fetch(statement, *values)]


async def users(mariadb: Any, word: str) -> dict[tuple[str, str], tuple[str, ...]]:
    found = await mariadb.driver.list_users(mariadb)
    return {(user.name, user.host): user.databases for user in found if user.name.startswith(word)}


async def can_connect(mariadb: Any, user: str, password: str, database: str) -> bool:
    try:
        async with mariadb.tenant(user, password, database) as tenant:
            return bool(await tenant.fetchval("SELECT 1") == 1)
    except pymysql.MySQLError:
        return False


# --- Coffer's own accounts ---


async def test_at_first_nobody_is_there_but_coffer_and_none_of_them_has_a_password(mariadb: Any) -> None:
    all_but_tenants = "SELECT User, Host, Priv FROM mysql.global_priv WHERE User NOT LIKE %s"
    rows = await ask(mariadb, all_but_tenants, "t%")
    assert {row["User"] for row in rows} == OWN
    for row in rows:
        known = json.loads(row["Priv"])
        assert row["Host"] == "localhost"
        assert known["plugin"] == "unix_socket" or known["account_locked"]


@pytest.mark.parametrize("user", ["coffer_agent", "coffer_backup"])
async def test_they_do_not_come_in_over_tcp(mariadb: Any, user: str) -> None:
    for password in ("", "root", "mysql"):
        assert not await can_connect(mariadb, user, password, "mysql")


@pytest.mark.parametrize(("uid", "user"), [(65534, "coffer_agent"), (65534, "coffer_backup"), (999, "coffer_agent")])
def test_another_local_user_is_neither(mariadb: Any, uid: int, user: str) -> None:
    client = ["mariadb", "--no-defaults", "--socket", "/run/mysqld/mysqld.sock", "-u", user, "-e", "SELECT 1"]
    Path(mariadb.order.run).chmod(0o711)
    try:
        done = subprocess.run(
            ["docker", "exec", "--user", str(uid), mariadb.container, *client],
            capture_output=True, text=True, check=False,
        )
    finally:
        Path(mariadb.order.run).chmod(0o700)
    assert done.returncode != 0
    assert "Access denied" in done.stderr


async def test_the_servers_files_are_its_own_and_no_password_is_in_them(mariadb: Any, word: str) -> None:
    secret = f"{word}-never-in-clear"
    await mariadb.driver.create_users(mariadb, [NewUser(word, secret)])
    await mariadb.driver.set_passwords(mariadb, [NewUser(word, secret + "2")])
    await mariadb.driver.enable_root(mariadb, secret + "3")
    await mariadb.driver.disable_root(mariadb)
    with pytest.raises(EngineError):
        await mariadb.driver.create_users(mariadb, [NewUser(word, secret)])
    logs = subprocess.run(["docker", "logs", mariadb.container], capture_output=True, text=True, check=True)
    assert secret not in logs.stdout + logs.stderr
    for directory in (mariadb.order.config, mariadb.order.data):
        assert subprocess.run(["grep", "-rqs", secret, directory], check=False).returncode == 1
    assert Path(mariadb.order.data).stat().st_mode & 0o777 == 0o700


# --- root ---


async def test_root_is_a_superuser_but_reads_and_writes_no_files(mariadb: Any, word: str) -> None:
    await mariadb.driver.enable_root(mariadb, PASSWORD)
    try:
        async with mariadb.tenant("root", PASSWORD, "mysql") as root:
            await root.execute(f"CREATE DATABASE {word}")
            await root.execute(f"CREATE USER {word}@'%' IDENTIFIED BY '{PASSWORD}'")
            await root.execute(f"GRANT ALL ON {word}.* TO {word}@'%' WITH GRANT OPTION")
            await root.execute("SET GLOBAL slow_launch_time = 3")
            assert await root.fetchval("SELECT LOAD_FILE('/etc/passwd')") is None
            with pytest.raises(pymysql.MySQLError):
                await root.execute("SELECT 1 INTO OUTFILE '/var/lib/mysql/x'")
            assert await root.fetchval("SELECT @@have_symlink") == "DISABLED"
            await root.execute(f"CREATE TABLE {word}.t (x int) ENGINE = InnoDB DATA DIRECTORY = '/tmp'")
            assert (Path(mariadb.order.data) / "data" / word / "t.ibd").exists(), "it is where all tables are"
            with pytest.raises(pymysql.MySQLError):
                await root.execute("INSTALL SONAME '../../../../var/lib/mysql/x'")
        assert await users(mariadb, word) == {(word, "%"): (word,)}
    finally:
        await mariadb.driver.disable_root(mariadb)
    # what root made is the tenant's, and in the agent's hands
    assert await can_connect(mariadb, word, PASSWORD, word)
    await mariadb.driver.revoke(mariadb, word, "%", word)
    assert not await can_connect(mariadb, word, PASSWORD, word)
    await mariadb.driver.drop_user(mariadb, word, "%")
    await mariadb.driver.drop_database(mariadb, word)


async def test_disabling_root_ends_it_at_every_host(mariadb: Any) -> None:
    await mariadb.driver.enable_root(mariadb, PASSWORD)
    async with mariadb.tenant("root", PASSWORD, "mysql") as root:
        await root.execute("CREATE USER root@'127.0.0.%' IDENTIFIED BY 'other'")
    await mariadb.driver.disable_root(mariadb)
    assert await ask(mariadb, "SELECT 1 FROM mysql.user WHERE User = 'root'") == []
    assert not await mariadb.driver.root_enabled(mariadb)


async def test_what_root_did_to_coffers_accounts_a_restart_undoes(mariadb: Any) -> None:
    await mariadb.driver.enable_root(mariadb, PASSWORD)
    async with mariadb.tenant("root", PASSWORD, "mysql") as root:
        await root.execute("REVOKE ALL PRIVILEGES, GRANT OPTION FROM coffer_agent@localhost")
        await root.execute("ALTER USER coffer_agent@localhost IDENTIFIED BY 'mine' ACCOUNT LOCK")
        await root.execute("DROP USER coffer_backup@localhost")
    with pytest.raises(EngineError) as failure:
        await mariadb.driver.root_enabled(mariadb)
    assert failure.value.code == Failure.NOT_READY
    containers = Containers("/var/run/docker.sock", name=mariadb.container)
    monitor = Monitor(containers, every=30)
    try:
        await containers.stop(60)
        await containers.start()
        await monitor.watch(mariadb.driver, mariadb.order)
        async with asyncio.timeout(30):
            while (await monitor.check()).engine is not Engine.HEALTHY:
                await asyncio.sleep(0.1)
    finally:
        await monitor.close()
        await containers.close()
    await mariadb.driver.disable_root(mariadb)
    await mariadb.driver.before_backup(mariadb, "x")
    found = await ask(mariadb, "SELECT User FROM mysql.user WHERE User LIKE %s", "coffer%")
    assert {row["User"] for row in found} == OWN - {"mariadb.sys"}


async def test_a_user_cannot_give_itself_more(mariadb: Any, word: str) -> None:
    await mariadb.driver.create_databases(mariadb, [Database(word), Database(word + "2")])
    await mariadb.driver.create_users(mariadb, [NewUser(word, "x", databases=(word,))])
    async with mariadb.session() as agent, mariadb.tenant(word, "x", word) as tenant:
        for statement in (
            "CREATE USER x@'%'",
            "CREATE DATABASE x",
            f"GRANT ALL ON {word}2.* TO {word}@'%'",
            f"GRANT SELECT ON {word}.* TO {word}2@'%'",
            "SET GLOBAL max_connections = 1000",
            "SELECT * FROM mysql.global_priv",
            f"USE {word}2",
            "SELECT 1 INTO OUTFILE '/tmp/x'",
        ):
            with pytest.raises(pymysql.MySQLError):
                await tenant.execute(statement)
        await tenant.execute("KILL USER coffer_agent")  # which ends those of them that are the tenant's own: none
        assert await agent.fetch("SELECT 1 AS one") == [{"one": 1}]


async def test_what_root_chooses_for_everybody_does_not_stop_the_agent(mariadb: Any, word: str) -> None:
    async with mariadb.session() as session:
        before = await session.fetch("SELECT @@GLOBAL.sql_mode AS mode")
        chosen = {
            "max_statement_time": "0.01", "tx_read_only": "1", "sql_mode": "'ANSI,NO_BACKSLASH_ESCAPES'",
            "lock_wait_timeout": "0", "sql_safe_updates": "1", "init_connect": "'ROLLBACK AND NOTHING'",
        }
        try:
            for name, value in chosen.items():
                await session.execute(f"SET GLOBAL {name} = {value}")
            async with mariadb.session() as later:
                await later.execute("SELECT SLEEP(0.1)")
            await mariadb.driver.create_databases(mariadb, [Database(word)])
            await mariadb.driver.create_users(mariadb, [NewUser(word + "'\"", "\\'", databases=(word,))])
            assert await users(mariadb, word) == {(word + "'\"", "%"): (word,)}
        finally:
            for name in chosen:
                default = f"'{before[0]['mode']}'" if name == "sql_mode" else "DEFAULT"
                await session.execute(f"SET GLOBAL {name} = {default}")


# --- hosts, patterns, character sets ---


async def test_users_of_one_name_at_two_hosts_are_two(mariadb: Any, word: str) -> None:
    here, there = "127.0.0.%", "10.%"
    await mariadb.driver.create_databases(mariadb, [Database(word)])
    await mariadb.driver.create_users(mariadb, [NewUser(word, "one", here, (word,)), NewUser(word, "two", there)])
    assert await users(mariadb, word) == {(word, here): (word,), (word, there): ()}
    assert await can_connect(mariadb, word, "one", word)
    assert not await can_connect(mariadb, word, "two", word)
    with pytest.raises(EngineError) as failure:
        await mariadb.driver.change_user(mariadb, word, here, new_name=None, new_host=there, password=None)
    assert failure.value.code == Failure.EXISTS
    await mariadb.driver.drop_user(mariadb, word, there)
    await mariadb.driver.change_user(mariadb, word, here, new_name=None, new_host="192.0.2.1", password=None)
    assert await users(mariadb, word) == {(word, "192.0.2.1"): (word,)}
    assert not await can_connect(mariadb, word, "one", word)
    with pytest.raises(EngineError) as failure:
        await mariadb.driver.grant(mariadb, word, here, [word])
    assert failure.value.code == Failure.NOT_FOUND


@pytest.mark.parametrize("host", ["", "a b", "'", "%'; DROP USER x; --", "x" * 300, "10.0.0.1\n"])
async def test_hosts_that_are_none_are_refused(mariadb: Any, word: str, host: str) -> None:
    with pytest.raises(EngineError) as failure:
        await mariadb.driver.create_users(mariadb, [NewUser(word, PASSWORD, host)])
    assert failure.value.code == Failure.INVALID


@pytest.mark.parametrize("name", ["a_b", "a%b", "%", "_", "a_%"])
async def test_a_grant_is_of_that_database_alone(mariadb: Any, word: str, name: str) -> None:
    mine, other = word + name, word + name.replace("_", "x").replace("%", "yy")
    await mariadb.driver.create_databases(mariadb, [Database(mine), Database(other)])
    await mariadb.driver.create_users(mariadb, [NewUser(word, PASSWORD, databases=(mine,))])
    assert await users(mariadb, word) == {(word, "%"): (mine,)}
    assert await can_connect(mariadb, word, PASSWORD, mine)
    assert not await can_connect(mariadb, word, PASSWORD, other)
    await mariadb.driver.revoke(mariadb, word, "%", mine)
    assert not await can_connect(mariadb, word, PASSWORD, mine)


@pytest.mark.parametrize(
    ("character_set", "collate", "found"),
    [
        (None, None, ("utf8mb4", "utf8mb4_uca1400_ai_ci")),
        ("utf8mb4", "utf8mb4_bin", ("utf8mb4", "utf8mb4_bin")),
        ("latin1", None, ("latin1", "latin1_swedish_ci")),
        (None, "latin1_general_cs", ("latin1", "latin1_general_cs")),
        ("UTF8", None, ("utf8mb3", "utf8mb3_uca1400_ai_ci")),
    ],
)
async def test_character_sets_and_collations(
    mariadb: Any, word: str, character_set: str | None, collate: str | None, found: tuple[str, str]
) -> None:
    await mariadb.driver.create_databases(mariadb, [Database(word, character_set, collate)])
    listed = {one.name: (one.character_set, one.collate) for one in await mariadb.driver.list_databases(mariadb)}
    assert listed[word] == found


@pytest.mark.parametrize(
    ("character_set", "collate"),
    [("tlh", None), (None, "tlh_ci"), ("latin1", "utf8mb4_bin"), ("'; --", None), (None, "'"), ("\\", None)],
)
async def test_other_character_sets_are_refused_with_a_reason(
    mariadb: Any, word: str, character_set: str | None, collate: str | None
) -> None:
    with pytest.raises(EngineError) as failure:
        await mariadb.driver.create_databases(mariadb, [Database(word, character_set, collate)])
    assert failure.value.code == Failure.INVALID
    assert failure.value.text


@pytest.mark.parametrize("name", ["MySQL", "SYS", "Information_Schema", "#mysql50#x", "x" * 65, "\U0001f600"])
async def test_databases_that_the_server_would_take_otherwise_are_refused(mariadb: Any, name: str) -> None:
    with pytest.raises(EngineError) as failure:
        await mariadb.driver.create_databases(mariadb, [Database(name)])
    assert failure.value.code == Failure.INVALID


@pytest.mark.parametrize("password", [" pass word ", "\u00e4\u4e2d\U0001f600", "'\"\\%s", "x" * 255])
async def test_the_engines_own_client_logs_in(mariadb: Any, word: str, password: str) -> None:
    await mariadb.driver.create_databases(mariadb, [Database(word)])
    await mariadb.driver.create_users(mariadb, [NewUser(word, password, databases=(word,))])
    where = ["-h", mariadb.order.listen[0], "-P", str(mariadb.order.port), "-u", word, "-D", word]
    done = subprocess.run(
        ["docker", "exec", "-e", f"MYSQL_PWD={password}", mariadb.container, "mariadb", *where, "-Ne", "SELECT USER()"],
        capture_output=True, text=True, check=False,
    )
    assert done.stdout.startswith(word + "@"), done.stderr


async def test_nothing_is_left_of_users_and_databases_that_are_gone(mariadb: Any, word: str) -> None:
    await mariadb.driver.create_databases(mariadb, [Database(word)])
    await mariadb.driver.create_users(mariadb, [NewUser(word, PASSWORD, databases=(word,))])
    await mariadb.driver.drop_user(mariadb, word, "%")
    await mariadb.driver.create_users(mariadb, [NewUser(word + "2", PASSWORD, databases=(word,))])
    await mariadb.driver.drop_database(mariadb, word)
    assert await ask(mariadb, "SELECT 1 FROM mysql.db WHERE Db LIKE %s OR User LIKE %s", word + "%", word + "%") == []
    await mariadb.driver.drop_user(mariadb, word + "2", "%")
    assert await ask(mariadb, "SELECT 1 FROM mysql.user WHERE User LIKE %s", word + "%") == []


# --- parameters ---


async def test_every_shipped_parameter_is_as_the_server_says(mariadb: Any) -> None:
    rows = await ask(mariadb, "SELECT * FROM information_schema.SYSTEM_VARIABLES")
    asked = {row["VARIABLE_NAME"].lower(): row for row in rows}
    for parameter in coffer_datastores.parameters("mariadb", "11.8"):
        variable = asked[parameter.name]
        kind = {"BOOLEAN": ParameterType.BOOLEAN, "DOUBLE": ParameterType.FLOAT}.get(
            variable["VARIABLE_TYPE"],
            ParameterType.INTEGER if "INT" in variable["VARIABLE_TYPE"] else ParameterType.STRING,
        )
        assert parameter.type is kind, parameter.name
        assert parameter.restart_required == (variable["READ_ONLY"] == "YES"), parameter.name
        if variable["VARIABLE_TYPE"] == "ENUM":
            assert ",".join(parameter.choices) == (variable["ENUM_VALUE_LIST"] or ""), parameter.name
        if kind in {ParameterType.INTEGER, ParameterType.FLOAT}:
            assert parameter.min is not None
            assert float(variable["NUMERIC_MIN_VALUE"]) <= parameter.min
            most = float(variable["NUMERIC_MAX_VALUE"])
            assert math.isclose(parameter.max, most) if parameter.max is not None else most >= 2**63, parameter.name


async def test_every_shipped_parameter_can_be_set_while_it_runs_and_in_its_files(mariadb: Any, tmp_path: Path) -> None:
    listed = coffer_datastores.parameters("mariadb", "11.8")
    assert await mariadb.driver.reconfigure(mariadb, mariadb.order, [parameter.name for parameter in listed]) == []
    chosen = {parameter.name: parameter.default for parameter in listed if parameter.default is not None}
    file = next(file for file in files(replace(mariadb.order, settings=chosen)) if file.path.endswith(".cnf"))
    (tmp_path / "all.cnf").write_text(file.content)
    done = subprocess.run(
        ["docker", "run", "--rm", "-v", f"{tmp_path / 'all.cnf'}:/all.cnf:ro", "--network", "none", mariadb.order.image,
         "mariadbd", "--defaults-file=/all.cnf", "--verbose", "--help"],
        capture_output=True, text=True, check=False,
    )
    assert done.returncode == 0, done.stderr
