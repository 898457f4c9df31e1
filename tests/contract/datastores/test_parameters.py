"""The shipped lists of parameters, and the defaults that are told, against what running servers say.

The lists are made by deploy/parameters/.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

import coffer_datastores
from coffer_shared.parameters import ParameterType

_SETTINGS = (
    "SELECT name, vartype, context, min_val, max_val, enumvals, unit, boot_val, setting FROM pg_settings"
)
TYPES = {"bool": "boolean", "integer": "integer", "real": "float", "string": "string", "enum": "string"}
NARROWER = {"max_connections"}
OWNED = (
    "data_directory", "hba_file", "listen_addresses", "port", "ssl", "archive_command", "restore_command",
    "shared_preload_libraries", "allow_alter_system", "unix_socket_directories", "max_replication_slots", "wal_level",
    "fsync", "search_path", "log_destination", "zero_damaged_pages",
)


@pytest.fixture
async def asked(database: Any) -> dict[str, dict[str, Any]]:
    assert database.spec.name == "postgresql", "how to ask this server is still to be said"
    async with database.session() as session:
        return {row["name"]: dict(row) for row in await session.fetch(_SETTINGS)}


@pytest.mark.docker
async def test_every_shipped_parameter_is_as_the_server_says(database: Any, asked: dict[str, dict[str, Any]]) -> None:
    listed = coffer_datastores.parameters(database.spec.name, database.spec.default_version)
    assert len(listed) > 150
    for parameter in listed:
        setting = asked[parameter.name]
        assert parameter.type == TYPES[setting["vartype"]], parameter.name
        assert setting["context"] not in {"internal", "backend"}
        assert parameter.restart_required == (setting["context"] == "postmaster"), parameter.name
        assert parameter.unit == setting["unit"], parameter.name
        assert list(parameter.choices) == (setting["enumvals"] or []), parameter.name
        assert _default(parameter.type, setting["boot_val"]) == parameter.default, parameter.name
        if parameter.name in NARROWER:
            assert float(setting["min_val"]) < parameter.min < parameter.max == float(setting["max_val"])
            continue
        for own, said in ((parameter.min, setting["min_val"]), (parameter.max, setting["max_val"])):
            # the server says the largest float where there is no bound, with less digits than it has
            bound = None if said is None or abs(float(said)) > sys.float_info.max / 1.01 else float(said)
            assert (own is None and bound is None) or math.isclose(own, bound), parameter.name


@pytest.mark.docker
async def test_what_coffer_owns_is_not_offered(database: Any, asked: dict[str, dict[str, Any]]) -> None:
    offered = {p.name for p in coffer_datastores.parameters(database.spec.name, database.spec.default_version)}
    assert set(OWNED) <= asked.keys()
    assert not offered & set(OWNED)


@pytest.mark.docker
async def test_the_defaults_that_are_told_are_those_of_the_running_server(database: Any) -> None:
    told = database.spec.defaults(database.order.sizes)
    assert len(told) > 15
    async with database.session() as session:
        for name, value in told.items():
            (row,) = await session.fetch("SELECT current_setting($1) AS has", name)
            wanted = ("off", "on")[value] if isinstance(value, bool) else str(value)
            assert row["has"] == wanted, name


@pytest.mark.docker
async def test_what_tenants_choose_for_everybody_does_not_stop_the_agent(database: Any, word: str) -> None:
    async with database.session() as session:
        for setting in ("statement_timeout = '20ms'", "default_transaction_read_only = on", "lock_timeout = '1ms'"):
            await session.execute(f"ALTER DATABASE postgres SET {setting}")
        try:
            async with database.session() as later:
                await later.execute("SELECT pg_sleep(0.1)")
                await later.execute(f"CREATE ROLE {word}")
                await later.execute(f"DROP ROLE {word}")
        finally:
            await session.execute("ALTER DATABASE postgres RESET ALL")


def test_what_is_not_shipped_is_empty() -> None:
    assert coffer_datastores.parameters("postgresql", "9") == []
    assert coffer_datastores.parameters("nothing", "17") == []
    assert coffer_datastores.parameters("postgresql", "../../x") == []


def _default(kind: ParameterType, text: str | None) -> Any:
    if text is None or kind is ParameterType.STRING:
        return text
    return text == "on" if kind is ParameterType.BOOLEAN else float(text)
