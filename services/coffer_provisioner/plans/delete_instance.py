"""Delete one instance and everything under it. It has no undo: once begun, it goes on until nothing is left."""

from __future__ import annotations

from datetime import timedelta

from coffer_provisioner.plan import Done, Job, Outcome, Plan
from coffer_provisioner.plans.create_instance import drop_identity, drop_machine, drop_port, drop_public_address
from coffer_provisioner.reach import Reach


async def drop_volume(job: Job, to: Reach) -> Outcome:
    """The tenant asked for the data to go; no other plan deletes a volume that has held a database. Snapshots are
    backups, which stay, and need the volume that they are of: it goes with the last of them, on a keeper's round."""
    if await to.backups.has_snapshots(job.instance):
        return Done()
    await to.cloud.drop_volume(job.instance)
    return Done()


DELETE_INSTANCE = Plan(
    "delete_instance",
    steps=(drop_public_address, drop_machine, drop_identity, drop_volume, drop_port),
    within=timedelta(minutes=10),
    step_limit=timedelta(seconds=180),
    keep_trying=True,
)
