"""PostgreSQL's list of parameters against what its server says of them, and what tenants may do with them."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

import coffer_datastores
from coffer_shared.parameters import ParameterType

pytestmark = pytest.mark.docker

_SETTINGS = (
    "SELECT name, vartype, context, min_val, max_val, enumvals, unit, boot_val, setting FROM pg_settings"
)
TYPES = {"bool": "boolean", "integer": "integer", "real": "float", "string": "string", "enum": "string"}
NARROWER = {"max_connections"}


@pytest.fixture
async def asked(postgres: Any) -> dict[str, dict[str, Any]]:
    async with postgres.session() as session:
        return {row["name"]: dict(row) for row in await session.fetch(_SETTINGS)}


async def test_every_shipped_parameter_is_as_the_server_says(postgres: Any, asked: dict[str, dict[str, Any]]) -> None:
    listed = coffer_datastores.parameters(postgres.spec.name, postgres.spec.default_version)
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


async def test_what_tenants_choose_for_everybody_does_not_stop_the_agent(postgres: Any, word: str) -> None:
    async with postgres.session() as session:
        for setting in ("statement_timeout = '20ms'", "default_transaction_read_only = on", "lock_timeout = '1ms'"):
            await session.execute(f"ALTER DATABASE postgres SET {setting}")
        try:
            async with postgres.session() as later:
                await later.execute("SELECT pg_sleep(0.1)")
                await later.execute(f"CREATE ROLE {word}")
                await later.execute(f"DROP ROLE {word}")
        finally:
            await session.execute("ALTER DATABASE postgres RESET ALL")


def _default(kind: ParameterType, text: str | None) -> Any:
    if text is None or kind is ParameterType.STRING:
        return text
    return text == "on" if kind is ParameterType.BOOLEAN else float(text)
