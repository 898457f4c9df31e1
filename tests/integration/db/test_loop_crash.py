"""A worker is killed at every point of an operation's life; whoever comes next ends it, once and cleanly."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from coffer_db.database import Database
from coffer_db.tables import OperationState
from coffer_provisioner import turn
from coffer_provisioner.loop import Loop
from coffer_provisioner.plan import Job
from integration.db.rows import KEY, FileOperation, MakeInstance, end_leases, instance_row, row
from integration.db.toy import REACH, Death, Killed, World, ending
from support.postgres import Server

CASES = {
    "clean": ("", "succeeded", {"volume", "machine"}),
    "passing": ("passing", "succeeded", {"volume", "machine"}),
    "no machine": ("machine", "failed", set[str]()),
    "prepare fails": ("prepare", "failed", set[str]()),
}

CODES = {"machine": "no_capacity", "prepare": "engine"}


async def live(db: Database, world: World) -> None:
    """One worker's life: until an operation has ended or the worker is killed."""
    ended = asyncio.Event()

    def end(job: Job, state: OperationState) -> dict[str, Any]:
        ended.set()
        return ending(job, state)

    loop = Loop(db, {"toy": world.plan()}, REACH, KEY, sweep=3600, ending=end, worker="w")
    running = asyncio.create_task(loop.run())
    waiting = asyncio.create_task(ended.wait())
    try:
        async with asyncio.timeout(30):
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
            loop.stop()
            await running
    finally:
        for task in (running, waiting):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Killed):
                await task


@pytest.mark.parametrize("case", CASES)
async def test_killed_at_every_point_it_ends_once_and_cleanly(
    db: Database, postgres: Server, empty_database: str, make_instance: MakeInstance, file: FileOperation, case: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turn, "LONGEST_PAUSE", 0.0)
    fault, state, left = CASES[case]
    death = Death()
    victim = Database(postgres.settings(empty_database), name="victim")
    death.haunt(victim)
    kills = 0
    while True:
        said = f"killed at point {kills + 1}"
        instance = await make_instance()
        op = await file(instance_id=instance, secret_args={"password": "s3cret"})
        world = World(death, fault)
        death.points, death.at = 0, kills + 1
        try:
            await live(victim, world)
        except Killed:
            survived = False
            death.at = None
            await end_leases(db)
            if (await row(db, op)).finished_at is None:
                await live(db, world)
        else:
            survived = True
        found, changed = await row(db, op), await instance_row(db, instance)
        assert found.state == state, said
        assert sorted(world.there) == sorted((what, instance) for what in left), said
        assert (found.secret_args, found.lease_token) == (None, None), said
        assert changed.failed is (state == "failed"), said
        if state == "failed":
            assert changed.fault_message == found.failure_code == CODES[fault], said
        if survived:
            break
        kills += 1
    await victim.close()
    assert kills >= 12
