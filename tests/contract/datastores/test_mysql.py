"""What is MySQL's own."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pymysql
import pytest

import coffer_datastores
from coffer_datastores.mysql.configuration import files
from coffer_datastores.mysql_session import MySQLError
from coffer_shared.datastore import Database, EngineError, Setting
from coffer_shared.messages import Failure
from coffer_shared.parameters import Parameter, ParameterType
from contract.datastores.mysql_family import ask, restart

pytestmark = pytest.mark.docker

PASSWORD = "s3cret word"
ONLY_AT_START = 1238
KINDS = {
    "Integer": ParameterType.INTEGER, "Numeric": ParameterType.FLOAT, "Boolean": ParameterType.BOOLEAN,
}  # fmt: skip


# --- root ---


async def test_what_root_tells_the_server_to_remember_a_restart_forgets(mysql: Any) -> None:
    await mysql.driver.enable_root(mysql, PASSWORD)
    async with mysql.tenant("root", PASSWORD, "mysql") as root:
        await root.execute("SET PERSIST max_connections = 7")
        await root.execute("SET PERSIST_ONLY innodb_buffer_pool_size = 1099511627776")
        await root.execute("SET PERSIST_ONLY back_log = 1")
        await root.execute("SET PERSIST_ONLY super_read_only = 1")
        await root.execute("DROP USER coffer_agent@localhost")
    with pytest.raises(EngineError) as failure:
        await mysql.driver.root_enabled(mysql)
    assert failure.value.code == Failure.NOT_READY
    await restart(mysql)
    await mysql.driver.disable_root(mysql)
    asked = "SELECT @@max_connections, @@innodb_buffer_pool_size, @@back_log > 1, @@super_read_only"
    (found,) = await ask(mysql, asked)
    told = mysql.spec.defaults(mysql.order.sizes)
    assert list(found.values()) == [told["max_connections"], told["innodb_buffer_pool_size"], 1, 0]


async def test_a_right_that_root_took_from_the_agent_in_one_database_a_restart_gives_back(mysql: Any) -> None:
    await mysql.driver.enable_root(mysql, PASSWORD)
    async with mysql.tenant("root", PASSWORD, "mysql") as root:
        await root.execute("SET SESSION max_error_count = 0")
        await root.execute("SET GLOBAL partial_revokes = 1")
        await root.execute("REVOKE SELECT ON mysql.* FROM coffer_agent@localhost")
    with pytest.raises(EngineError):
        await mysql.driver.list_users(mysql)
    # the first finds that there was such a thing, and has the server mind it until the second
    for _ in range(2):
        await restart(mysql)
    await mysql.driver.disable_root(mysql)
    assert await ask(mysql, "SELECT @@partial_revokes AS minded") == [{"minded": 0}]


@pytest.mark.parametrize("place", ["/tmp", "/var/lib/mysql", "/run/mysqld"])
async def test_tables_are_where_all_tables_are_whatever_root_says(mysql: Any, word: str, place: str) -> None:
    await mysql.driver.create_databases(mysql, [Database(word)])
    await mysql.driver.enable_root(mysql, PASSWORD)
    try:
        async with mysql.tenant("root", PASSWORD, word) as root:
            await root.execute("SET SESSION max_error_count = 0")
            for statement in (
                f"CREATE TABLE t (x int) DATA DIRECTORY = '{place}'",
                f"CREATE TABLESPACE {word} ADD DATAFILE '{place}/{word}.ibd'",
                f"CREATE UNDO TABLESPACE {word} ADD DATAFILE '{place}/{word}.ibu'",
            ):
                with pytest.raises(pymysql.MySQLError, match="known directory"):
                    await root.execute(statement)
            await root.execute(f"CREATE TABLE m (x int) ENGINE = MyISAM DATA DIRECTORY = '{place}'")
    finally:
        await mysql.driver.disable_root(mysql)
    assert (Path(mysql.order.data) / "data" / word / "m.MYD").is_file()
    assert not (Path(mysql.order.data) / "data" / word / "m.MYD").is_symlink()


# --- its start ---


def test_it_starts_without_a_complaint(mysql: Any) -> None:
    done = subprocess.run(["docker", "logs", mysql.container], capture_output=True, text=True, check=True)
    started = re.split(r"starting the server\n", done.stdout)[-1] + done.stderr
    before = started.split("ready for connections")[0]
    assert before
    assert not [line for line in before.splitlines() if "[ERROR]" in line]


# --- parameters ---


@pytest.fixture
def listed() -> list[Parameter]:
    return coffer_datastores.parameters("mysql", "9.7")


async def test_every_shipped_parameter_is_as_the_server_says(mysql: Any, listed: list[Parameter]) -> None:
    rows = await ask(mysql, "SELECT * FROM performance_schema.variables_metadata")
    values = {row["Variable_name"]: row["Value"] for row in await ask(mysql, "SHOW GLOBAL VARIABLES")}
    asked = {row["VARIABLE_NAME"]: row for row in rows}
    for parameter in listed:
        variable = asked[parameter.name]
        kind = KINDS.get(variable["DATA_TYPE"], ParameterType.STRING)
        if kind is ParameterType.STRING and values[parameter.name] in {"ON", "OFF"}:
            kind = ParameterType.BOOLEAN
        assert parameter.type is kind, parameter.name
        if kind in {ParameterType.INTEGER, ParameterType.FLOAT}:
            least, most = float(variable["MIN_VALUE"]), float(variable["MAX_VALUE"])
            assert parameter.min is not None
            assert parameter.min > least if parameter.name == "max_connections" else parameter.min == least
            if parameter.name == "long_query_time":
                assert parameter.max == 31536000, "the server tells microseconds"
            else:
                assert math.isclose(parameter.max, most) if parameter.max is not None else most >= 2**63, parameter.name


async def test_what_needs_a_restart_is_what_the_server_does_not_take(mysql: Any, listed: list[Parameter]) -> None:
    refused = set()
    async with mysql.session() as session:
        for parameter in listed:
            try:
                await session.execute(f"SET GLOBAL {parameter.name} = @@GLOBAL.{parameter.name}")
            except MySQLError as error:
                refused.add((parameter.name, error.number))
    assert refused == {(parameter.name, ONLY_AT_START) for parameter in listed if parameter.restart_required}


async def test_words_to_choose_from_are_all_that_the_server_takes(mysql: Any, listed: list[Parameter]) -> None:
    chosen = [parameter for parameter in listed if parameter.choices]
    assert len(chosen) > 5
    async with mysql.session() as session:
        for parameter in chosen:
            try:
                for number, word in enumerate(parameter.choices):
                    await session.execute(f"SET GLOBAL {parameter.name} = {number}")
                    (found,) = await session.fetch(f"SELECT @@GLOBAL.{parameter.name} AS value")
                    assert found["value"] == word, parameter.name
                with pytest.raises(EngineError):
                    await session.execute(f"SET GLOBAL {parameter.name} = {len(parameter.choices)}")
            finally:
                await session.execute(f"SET GLOBAL {parameter.name} = DEFAULT")


async def test_every_shipped_parameter_can_be_set_while_it_runs(mysql: Any, listed: list[Parameter]) -> None:
    assert await mysql.driver.reconfigure(mysql, mysql.order, [parameter.name for parameter in listed]) == []


def other(parameter: Parameter) -> Setting | None:
    """Than it is by itself."""
    if parameter.choices:
        return next((word for word in parameter.choices if word != parameter.default), None)
    return not parameter.default if parameter.type is ParameterType.BOOLEAN else parameter.min


@pytest.mark.parametrize("value", [lambda parameter: parameter.default, other], ids=["default", "other"])
def test_every_shipped_parameter_can_stand_in_its_files(
    mysql: Any, listed: list[Parameter], value: Callable[[Parameter], Setting | None], tmp_path: Path
) -> None:
    chosen = {parameter.name: found for parameter in listed if (found := value(parameter)) is not None}
    file = next(file for file in files(replace(mysql.order, settings=chosen)) if file.path.endswith(".cnf"))
    (tmp_path / "all.cnf").write_text(file.content)
    done = subprocess.run(
        ["docker", "run", "--rm", "-v", f"{tmp_path / 'all.cnf'}:/all.cnf:ro", "--network", "none", "--user", "999",
         "--entrypoint", "mysqld", mysql.order.image, "--defaults-file=/all.cnf", "--validate-config"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "[ERROR]" not in done.stderr
