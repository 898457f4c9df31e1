"""The shipped lists of parameters, and the defaults that are told, against what running servers say.

The lists are made by deploy/parameters/.
"""

from __future__ import annotations

from typing import Any

import pytest

import coffer_datastores
from coffer_shared.datastore import Setting


@pytest.mark.docker
async def test_what_coffer_owns_is_not_offered(database: Any) -> None:
    offered = {p.name.lower() for p in coffer_datastores.parameters(database.spec.name, database.spec.default_version)}
    known = await database.client.settings(database)
    assert set(database.client.owned) <= known.keys()
    assert len(offered) > 150
    assert offered <= known.keys()
    assert not offered & set(database.client.owned)


@pytest.mark.docker
async def test_the_defaults_that_are_told_are_those_of_the_running_server(database: Any) -> None:
    told = database.spec.defaults(database.order.sizes)
    assert len(told) > 15
    has = await database.client.settings(database)
    assert {name: has[name].lower() for name in told} == {name: written(value).lower() for name, value in told.items()}


def written(value: Setting) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def test_what_is_not_shipped_is_empty() -> None:
    assert coffer_datastores.parameters("postgresql", "9") == []
    assert coffer_datastores.parameters("nothing", "17") == []
    assert coffer_datastores.parameters("postgresql", "../../x") == []
