"""Remove what a backup that failed has left in the object store. Filed with its failure; the row stays, as FAILED."""

from __future__ import annotations

from datetime import timedelta

from coffer_db.backup_tables import BackupState
from coffer_provisioner import backup_store
from coffer_provisioner.plan import Done, Job, Outcome, Plan
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp


async def remove_objects(job: Job, to: Reach) -> Outcome:
    row = await backup_store.row_if_any(job.args["backup"], to)
    if row is None:
        return Done()
    if row["state"] not in {BackupState.FAILED, BackupState.DELETING}:
        raise GiveUp("backup_not_failed", "the backup has not failed")
    return await backup_store.remove(row, to)


CLEAR_BACKUP = Plan(
    "clear_backup",
    steps=(remove_objects,),
    within=timedelta(minutes=10),
    step_limit=timedelta(seconds=180),
    keep_trying=True,
)
