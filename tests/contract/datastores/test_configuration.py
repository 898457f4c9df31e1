"""Settings of tenants: at once, at the next start, refused, and such that nothing starts with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from coffer_guest.clock import Clock
from coffer_guest.commands import configure, lifecycle
from coffer_guest.commands.context import Context
from coffer_guest.machine import Machine
from coffer_shared.commands import Configure, Restart
from coffer_shared.datastore import EngineError, Setting
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Engine

from .conftest import another, machine_with, start

pytestmark = pytest.mark.docker


@dataclass(frozen=True)
class Material:
    """Of one datastore."""

    ask: str
    """The statement that tells a setting, as `value`."""
    live: tuple[str, Setting, str]
    """One that acts at once: its name, a value, and what the server then calls it."""
    static: tuple[str, Setting, str]
    default: Mapping[str, str] = field(default_factory=dict)
    """What the server calls those two without them."""
    refused: tuple[tuple[str, Setting, str], ...] = ()
    """What the server does not take, and a word of its reason."""
    fatal: tuple[str, Setting] = ("", "")
    """What it takes, and does not start with."""


MATERIAL = {
    "mariadb": Material(
        ask="SELECT @@GLOBAL.{} AS value",
        live=("sort_buffer_size", 4194304, "4194304"),
        static=("ft_min_word_len", 5, "5"),
        default={"sort_buffer_size": "2097152", "ft_min_word_len": "4"},
        refused=(
            ("sql_mode", "NO_SUCH_MODE", "NO_SUCH_MODE"),
            ("time_zone", "Nowhere/None", "Nowhere/None"),
            ("collation_server", "tlh_ci", "tlh_ci"),
            ("query_cache_min_res_unit", 4099, "instead of 4099"),
            ("no_such_setting", 1, "no_such_setting"),
        ),
        fatal=("plugin_maturity", "no_such_word"),
    ),
    "mysql": Material(
        ask="SELECT @@GLOBAL.{} AS value",
        live=("sort_buffer_size", 4194304, "4194304"),
        static=("ft_min_word_len", 5, "5"),
        default={"sort_buffer_size": "262144", "ft_min_word_len": "4"},
        refused=(
            ("sql_mode", "NO_SUCH_MODE", "NO_SUCH_MODE"),
            ("time_zone", "Nowhere/None", "Nowhere/None"),
            ("collation_server", "tlh_ci", "tlh_ci"),
            ("net_buffer_length", 4099, "instead of 4099"),
            ("no_such_setting", 1, "no_such_setting"),
        ),
        fatal=("innodb_data_home_dir", "/nowhere"),
    ),
    "postgresql": Material(
        ask="SELECT current_setting('{}') AS value",
        live=("work_mem", "12MB", "12MB"),
        static=("max_connections", 77, "77"),
        default={"work_mem": "4MB", "max_connections": "100"},
        refused=(
            ("default_text_search_config", "nowhere.nothing", "nowhere.nothing"),
            ("timezone_abbreviations", "no such", "no such"),
            ("synchronous_standby_names", "FIRST (", "synchronous_standby_names"),
        ),
        fatal=("shared_preload_libraries", "no_such_library"),
    ),
}


async def _ignore(*_: Any) -> None:
    pass


async def _never() -> Any:
    raise AssertionError("nothing is asked of the control plane")


def _context(machine: Machine) -> Context:
    return Context(
        machine=machine, operation="op", clock=Clock(), progress=_ignore, write_note=_ignore, renew_grant=_never,
        is_copied=_never, ending=lambda: False,
    )


async def _value(machine: Machine, material: Material, name: str) -> str:
    async with machine.session() as session:
        return str((await session.fetch(material.ask.format(name)))[0]["value"])


@pytest.fixture
def place() -> Iterator[tuple[Path, str, int]]:
    with another() as found:
        yield found


@pytest.fixture(params=MATERIAL)
async def running(
    request: pytest.FixtureRequest, place: tuple[Path, str, int],
) -> AsyncIterator[tuple[Machine, Material]]:
    directory, container, port = place
    await start(request.param, *place)
    async with machine_with(request.param, directory, container=container, port=port) as machine:
        await machine.record(msgspec.structs.replace(machine.prepared, complete=True))
        await machine.boot()
        await machine.wait_healthy()
        yield machine, MATERIAL[request.param]


async def test_some_act_at_once_and_some_at_the_next_start(running: tuple[Machine, Material]) -> None:
    machine, material = running
    (live, value, called), (static, other, called_too) = material.live, material.static
    done = await configure.configure(_context(machine), Configure({live: value, static: other}))
    assert done.waiting == machine.waiting == [static]
    assert await _value(machine, material, live) == called
    assert await _value(machine, material, static) == material.default[static]
    await lifecycle.restart(_context(machine), Restart())
    assert machine.waiting == []
    assert await _value(machine, material, live) == called
    assert await _value(machine, material, static) == called_too
    done = await configure.configure(_context(machine), Configure({}))
    assert done.waiting == [static]
    assert await _value(machine, material, live) == material.default[live]


async def test_what_the_server_refuses_leaves_all_as_it_was(running: tuple[Machine, Material]) -> None:
    machine, material = running
    live, value, called = material.live
    await configure.configure(_context(machine), Configure({live: value}))
    for name, bad, reason in material.refused:
        caught: pytest.ExceptionInfo[EngineError | GiveUp]
        with pytest.raises((EngineError, GiveUp)) as caught:
            await configure.configure(_context(machine), Configure({name: bad, material.static[0]: material.static[1]}))
        assert (caught.value.code, reason in caught.value.text) == ("invalid", True), caught.value.text
        assert machine.prepared.order.settings == {live: value}
        assert machine.waiting == []
        assert await _value(machine, material, live) == called
    await lifecycle.restart(_context(machine), Restart())
    assert await _value(machine, material, live) == called


async def test_a_database_that_does_not_start_with_them_starts_without(running: tuple[Machine, Material]) -> None:
    machine, material = running
    (live, value, called), (name, bad) = material.live, material.fatal
    await configure.configure(_context(machine), Configure({live: value}))
    done = await configure.configure(_context(machine), Configure({live: value, name: bad}))
    assert done.waiting == [name]
    with pytest.raises(GiveUp, match="runs with the former ones") as caught:
        await lifecycle.restart(_context(machine), Restart())
    assert str(bad) in caught.value.text
    assert (await machine.monitor.check()).engine is Engine.HEALTHY
    assert machine.prepared.order.settings == {live: value}
    assert await _value(machine, material, live) == called


async def test_nor_does_a_machine_that_restarts_meanwhile(running: tuple[Machine, Material]) -> None:
    """The agent starts the database again and again; after it has ended once with them, without them."""
    machine, material = running
    name, bad = material.fatal
    await configure.configure(_context(machine), Configure({name: bad}))
    await machine.stop_engine()
    await machine.boot()
    with pytest.raises(GiveUp):
        await machine.wait_healthy()
    assert machine.monitor.facts.engine is Engine.CRASHED
    await machine.boot()
    await machine.wait_healthy()
    assert machine.prepared.order.settings == {}
