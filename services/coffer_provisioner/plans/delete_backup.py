"""Delete one backup: its objects, then its key; or its snapshot. It needs no guest, and its instance may be long gone.
"""

from __future__ import annotations

from datetime import timedelta

from coffer_db.backup_tables import BackupState
from coffer_provisioner import backup_store
from coffer_provisioner.plan import Done, Job, Outcome, Plan
from coffer_provisioner.reach import Reach
from coffer_shared.backups import CINDER


async def remove_stored(job: Job, to: Reach) -> Outcome:
    row = await backup_store.row_if_any(job.args["backup"], to)
    if row is None:
        return Done()
    if row["state"] != BackupState.DELETING:
        await to.backups.set_state(row["id"], BackupState.DELETING)
        row = await backup_store.row_if_any(row["id"], to) or row  # only now is its last grant certain
    if row["storage"] == CINDER:
        await to.cloud.drop_snapshot(row["id"])
        return Done()
    if job.args.get("gone"):
        return Done()  # its owner has removed the container: by whose rights the API looked
    return await backup_store.remove(row, to)


async def forget(job: Job, to: Reach) -> Outcome:
    await to.backups.forget(job.args["backup"])
    return Done()


DELETE_BACKUP = Plan(
    "delete_backup",
    steps=(remove_stored, forget),
    within=timedelta(minutes=10),
    step_limit=timedelta(seconds=180),
    keep_trying=True,
)
