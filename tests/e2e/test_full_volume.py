"""A volume that is full is survived, whatever the engine makes of it, and healed by growing it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from support.engines import CLIENTS
from support.instances import Database
from support.stack import Api, Stack

ENGINES = sorted(CLIENTS) if os.environ.get("DEPTH", "short") == "full" else ["postgresql"]
FILL = """
room=$(df --output=avail -B1 /data | tail -n 1)
fallocate -l $((room - 1048576)) /data/filler
"""
ROW_BYTES, MOST_ROWS = 500_000, 300
"""More than what the engine has set aside for its logs."""


@pytest.fixture(params=ENGINES)
def one(request: pytest.FixtureRequest, api: Api) -> Iterator[Database]:
    made = Database.make(api, request.param)
    yield made
    api.delete(made.id)


def written(one: Database) -> int:
    """Rows that were committed before one was refused, or waited for room for so long that nobody would."""
    refused = (*CLIENTS[one.engine].ended, TimeoutError)
    for n in range(MOST_ROWS):
        try:
            one.ask(f"INSERT INTO much VALUES ({n}, '{os.urandom(ROW_BYTES // 2).hex()}')")
        except refused:
            return n
    raise AssertionError("the volume was not full")


def test_it_is_healed_by_growing(api: Api, stack: Stack, one: Database) -> None:
    one.ask("CREATE TABLE much (n int PRIMARY KEY, t text)" if one.engine == "postgresql" else
            "CREATE TABLE much (n int PRIMARY KEY, t longtext)")
    stack.inside(one.id, "sh", "-c", FILL)
    rows = written(one)
    api("POST", f"/instances/{one.id}/action", {"resize": {"volume": {"size": 2}}}).must(202)
    api.until_ready(one.id)
    assert one.ask("SELECT count(*) FROM much") in {rows, rows + 1}, "one may have been committed though nobody heard"
    one.ask(f"INSERT INTO much VALUES ({MOST_ROWS}, 'there is room')")
