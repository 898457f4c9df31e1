"""`coffer-backup-scheduler`: decides what is due. What is due so far is housekeeping of the database.

Any number of replicas may run; see `rounds`.
"""

from __future__ import annotations

import asyncio

import uvloop

from coffer_backup_scheduler.chores import CHORES
from coffer_backup_scheduler.rounds import Rounds
from coffer_db.database import Database, DatabaseSettings
from coffer_db.observe import Levels, Observer, Tallies
from coffer_shared import log, settings
from coffer_shared.lifetime import until_signalled

NAME = "backup-scheduler"
_log = log.get(__name__)


class SchedulerSettings(DatabaseSettings, frozen=True, kw_only=True):
    metrics_host: str = "0.0.0.0"
    metrics_port: int = 9101
    log_level: str = "info"


def main() -> None:
    chosen = settings.load(SchedulerSettings)
    log.configure(NAME, chosen.log_level)
    uvloop.run(serve(chosen))


async def serve(chosen: SchedulerSettings) -> None:
    db = Database(chosen, name=f"coffer-{NAME}")
    rounds = Rounds(db, CHORES)
    observer = Observer(
        NAME, host=chosen.metrics_host, port=chosen.metrics_port, checks={"database": db.ready},
        collectors=(
            Levels("coffer_scheduler_due", "What is due and not begun", (), rounds.due_count),
            Levels("coffer_scheduler_last_run_timestamp_seconds", "When it was last done here", ("what",),
                   rounds.last_runs),
            Tallies("coffer_scheduler_runs", "Runs by outcome", ("what", "outcome"), rounds.runs),
            Tallies("coffer_scheduler_removed_rows", "Rows removed", ("what",), rounds.removed),
        ),
    )
    await observer.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(rounds.run())
            name = await until_signalled()
            _log.info("stopping", signal=name)
            work.cancel()
    finally:
        await observer.stop()
        await db.close()
