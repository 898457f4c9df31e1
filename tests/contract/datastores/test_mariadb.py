"""What is MariaDB's own."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import coffer_datastores
from coffer_datastores.mariadb.configuration import files
from coffer_shared.datastore import Database, NewUser
from coffer_shared.parameters import ParameterType
from contract.datastores.mysql_family import ask

pytestmark = pytest.mark.docker

PASSWORD = "s3cret word"


async def test_a_table_is_where_all_tables_are_whatever_root_says(mariadb: Any, word: str) -> None:
    await mariadb.driver.create_databases(mariadb, [Database(word)])
    await mariadb.driver.enable_root(mariadb, PASSWORD)
    try:
        async with mariadb.tenant("root", PASSWORD, "mysql") as root:
            assert await root.fetchval("SELECT @@have_symlink") == "DISABLED"
            await root.execute(f"CREATE TABLE {word}.t (x int) ENGINE = InnoDB DATA DIRECTORY = '/tmp'")
    finally:
        await mariadb.driver.disable_root(mariadb)
    assert (Path(mariadb.order.data) / "data" / word / "t.ibd").exists()


async def test_a_user_ends_no_session_by_the_agents_name(mariadb: Any, word: str) -> None:
    await mariadb.driver.create_databases(mariadb, [Database(word)])
    await mariadb.driver.create_users(mariadb, [NewUser(word, "x", databases=(word,))])
    async with mariadb.session() as agent, mariadb.tenant(word, "x", word) as tenant:
        await tenant.execute("KILL USER coffer_agent")  # which ends those of them that are the tenant's own: none
        assert await agent.fetch("SELECT 1 AS one") == [{"one": 1}]


async def test_the_next_backup_finds_its_account_after_root_dropped_it(mariadb: Any) -> None:
    async with mariadb.session() as session:
        await session.execute("DROP USER coffer_backup@localhost")
    await mariadb.driver.before_backup(mariadb, "x")
    assert await ask(mariadb, "SELECT Host FROM mysql.user WHERE User = %s", "coffer_backup") == [{"Host": "localhost"}]


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
