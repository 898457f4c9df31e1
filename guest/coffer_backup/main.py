"""Entry point: `coffer-backup`. One job from the job directory, one outcome into it, exit status 0 or 1.

Nothing is logged: what there is to say is the outcome, and progress while it runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from pathlib import Path

import coffer_datastores
from coffer_backup.backup import back_up
from coffer_backup.errors import GiveUp
from coffer_backup.job import GrantFile, Meter, read_job, write_outcome
from coffer_backup.restore import restore
from coffer_backup.store import open_store
from coffer_backup.store.interface import Store
from coffer_backup.store.patience import Patience
from coffer_shared.backups import JOB_DIRECTORY, BackupTool, Job, Outcome
from coffer_shared.messages import Failure

_DIRECTORY = "COFFER_JOB_DIRECTORY"


def main() -> None:
    os.umask(0o077)
    directory = Path(os.environ.get(_DIRECTORY, JOB_DIRECTORY))
    status = asyncio.Runner().run(_main(directory, Patience()))
    # Not by way of the interpreter's end: a look-up of a name in a thread can take minutes and cannot be ended.
    os._exit(status)


async def _main(directory: Path, patience: Patience) -> int:
    task = asyncio.create_task(run(directory, patience))
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, _cancel_once, task)
    outcome = await task
    write_outcome(directory, outcome)
    return 1 if outcome.code else 0


async def run(directory: Path, patience: Patience) -> Outcome:
    """The job, however it ends. Cancelling it is asking it to stop."""
    meter = Meter()
    reporting = asyncio.create_task(meter.report(directory))
    try:
        job, key = read_job(directory)
        store = open_store(GrantFile(directory), patience, meter.say)
        try:
            return await _done(job, key, _tool(job.datastore), store, meter)
        finally:
            await store.close()
    except GiveUp as error:
        return Outcome(code=error.code, text=error.text)
    except asyncio.CancelledError:
        return Outcome(code=Failure.CANCELLED, text="the job was stopped")
    except Exception as error:  # noqa: BLE001 - the top: whatever it is, the agent is told
        return Outcome(code=Failure.INTERNAL, text=_where(error))
    finally:
        reporting.cancel()


async def _done(job: Job, key: bytes, tool: BackupTool, store: Store, meter: Meter) -> Outcome:
    if job.action == "backup":
        return Outcome(backed_up=await back_up(job, key, tool, store, meter))
    if job.action == "restore":
        return Outcome(restored_bytes=await restore(job, key, tool, store, meter))
    raise GiveUp(Failure.INVALID, f"there is no action called {job.action}")


def _tool(datastore: str) -> BackupTool:
    try:
        return coffer_datastores.tool(datastore)
    except KeyError:
        raise GiveUp(Failure.INVALID, f"there is no datastore called {datastore}") from None


def _cancel_once(task: asyncio.Task[Outcome]) -> None:
    """A second time it would end the ending of the programs."""
    if not task.cancelling():
        task.cancel()


def _where(error: Exception) -> str:
    """Without the error's own text, which may hold anything."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"unexpected {type(error).__name__} in {Path(last.filename).name}, line {last.lineno}"


if __name__ == "__main__":
    main()
