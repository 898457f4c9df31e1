"""Chores run when due, are given up to another scheduler, and are tried again after a failure."""

from __future__ import annotations

from typing import Any, cast

import pytest

from coffer_backup_scheduler.chores import Chore
from coffer_backup_scheduler.due import Rhythm
from coffer_backup_scheduler.rounds import Rounds
from coffer_db.database import Database
from coffer_shared.errors import Unavailable


class Connections:
    """A database that gives connections, on which the lock is free or not."""

    def __init__(self) -> None:
        self.free = True
        self.away = False
        self.open = 0

    async def connect_alone(self) -> Connections:
        if self.away:
            raise Unavailable("away")
        self.open += 1
        return self

    async def fetchval(self, _statement: str, _name: str) -> bool:
        return self.free

    def terminate(self) -> None:
        self.open -= 1


class Scene:
    def __init__(self) -> None:
        self.db = Connections()
        self.now = 1000.0
        self.left = [1000, 12]
        self.fails = False
        chore = Chore(Rhythm("prune", 3600.0), self.batch)
        self.rounds = Rounds(cast("Database", self.db), (chore,), clock=lambda: self.now)

    async def batch(self, _connection: Any) -> int:
        if self.fails:
            raise OSError("broken")
        return self.left.pop(0) if self.left else 0


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_batches_until_nothing_is_left(scene: Scene) -> None:
    assert scene.rounds.due_count() == {(): 1}
    assert await scene.rounds.turn() == ["prune"]
    assert scene.rounds.removed() == {("prune",): 1012}
    assert scene.rounds.last_runs() == {("prune",): 1000.0}
    assert scene.rounds.due_count() == {(): 0}
    assert await scene.rounds.turn() == []
    assert scene.db.open == 0


async def test_another_scheduler_at_it_is_as_good(scene: Scene) -> None:
    scene.db.free = False
    await scene.rounds.turn()
    assert scene.rounds.runs() == {("prune", "elsewhere"): 1}
    assert scene.left == [1000, 12]
    assert await scene.rounds.turn() == []
    assert scene.db.open == 0


@pytest.mark.parametrize("how", ["away", "fails"])
async def test_a_failure_is_tried_again_soon(scene: Scene, how: str) -> None:
    scene.db.away, scene.fails = how == "away", how == "fails"
    await scene.rounds.turn()
    assert scene.rounds.last_runs() == {}
    scene.db.away = scene.fails = False
    scene.now += 29.0
    assert await scene.rounds.turn() == []
    scene.now += 1.0
    assert await scene.rounds.turn() == ["prune"]
    assert scene.rounds.runs() == {("prune", "failed"): 1, ("prune", "done"): 1}
    assert scene.db.open == 0
