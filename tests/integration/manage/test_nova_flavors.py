"""`coffer-manage flavor sync` against a small Nova and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from integration.manage.conftest import Run
from integration.manage.test_offers import table
from support.fake_openstack import FakeOpenStack

if TYPE_CHECKING:
    from support.postgres import Server


@pytest.fixture
def nova() -> Iterator[FakeOpenStack]:
    """On a loop of its own, since the command is not on any."""
    made, loop = FakeOpenStack(), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(made.start(), loop).result(10)
    made.flavors |= {
        "a-1": {"name": "m1", "ram": 1024, "vcpus": 1, "disk": 5, "OS-FLV-EXT-DATA:ephemeral": 0},
        "b-2": {"name": "m2", "ram": 2048, "vcpus": 2, "disk": 5, "OS-FLV-EXT-DATA:ephemeral": 3},
        "c-3": {"name": "m3", "ram": 4096, "vcpus": 2, "disk": 0, "OS-FLV-DISABLED:disabled": True},
    }
    yield made
    asyncio.run_coroutine_threadsafe(made.stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


@pytest.fixture
def sync(nova: FakeOpenStack, run: Run, tmp_path: Path) -> Callable[[], str]:
    run("migrate")
    clouds = nova.clouds(tmp_path)
    return lambda: run(f"flavor sync --clouds {clouds} --cloud coffer --region RegionOne")


def listed(run: Run) -> list[tuple[str, str, str]]:
    return [(row["ID"], row["NAME"], row["RAM"]) for row in table(run("flavor list"))]


def test_flavors_become_novas(sync: Callable[[], str], nova: FakeOpenStack, run: Run):
    run("version flavor add postgresql/17 2")
    said = sync()
    assert listed(run) == [("2", "small", "1024"), ("a-1", "m1", "1024"), ("b-2", "m2", "2048")]
    assert "kept, since an instance has it or a version is tied to it" in said
    assert said.count("removed") == 4
    assert said.count("added") == 2
    (again,) = sync().splitlines()[1:]
    assert again.split()[:2] == ["2", "small"]
    assert "kept" in again
    run("version flavor remove postgresql/17 2")
    nova.flavors["b-2"]["ram"] = 3072
    del nova.flavors["a-1"]
    assert {line.split()[0]: line.split()[-1] for line in sync().splitlines()[1:]} == {
        "2": "removed", "a-1": "removed", "b-2": "changed",
    }
    assert listed(run) == [("b-2", "m2", "3072")]
    assert sync() == "The flavors are Nova's already.\n"


def test_a_name_that_went_to_another_flavor(
    sync: Callable[[], str], nova: FakeOpenStack, run: Run, postgres: Server, empty_database: str,
):
    sync()
    run("version flavor add postgresql/17 a-1")
    nova.flavors = {
        "z-9": {"name": "m1", "ram": 512, "vcpus": 1}, "b-2": {"name": "m4", "ram": 2048, "vcpus": 2},
        "y-8": {"name": "m2", "ram": 256, "vcpus": 1},
    }
    sync()
    assert sorted(listed(run)) == [
        ("a-1", "m1-a-1", "1024"), ("b-2", "m4", "2048"), ("y-8", "m2", "256"), ("z-9", "m1", "512"),
    ]


def test_nothing_is_changed_where_nova_shows_nothing(
    sync: Callable[[], str], nova: FakeOpenStack, run: Run, capsys: pytest.CaptureFixture[str],
):
    before = run("flavor list")
    for prepare, why in (
        (nova.flavors.clear, "shows this user no flavor"),
        (lambda: nova.faults.update({"compute": 503}), "Nova cannot be asked"),
        (nova.people.clear, "Nova cannot be asked"),
    ):
        prepare()
        with pytest.raises(SystemExit):
            sync()
        assert why in capsys.readouterr().err
    nova.faults.clear()
    assert run("flavor list") == before
