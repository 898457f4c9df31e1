"""Grow the data volume of one instance while its database goes on: the device, then the file system on it.

A device cannot shrink. So the row says the new size as soon as the device has it, whatever becomes of the rest, and the
undo looks how far the cloud has come. Neither part needs the database: one that is full or down is why it is grown.
"""

from __future__ import annotations

from datetime import timedelta

from coffer_provisioner.cloud.interface import CloudRefused
from coffer_provisioner.plan import Done, Job, Outcome, Plan, Wait
from coffer_provisioner.plans.create_instance import GIB
from coffer_provisioner.plans.guest_commands import on_guest
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp

_LATER = timedelta(days=1)
"""For so long a guest that was not there is waited for with the file system."""


async def grow_device(job: Job, to: Reach) -> Outcome:
    volume = await to.cloud.grow_volume(job.instance, job.args["volume_gib"])
    if volume.fault:
        raise GiveUp("volume_failed", volume.fault)
    if not volume.ready:
        return Wait(2, "the volume grows")
    await to.records.set_instance(job.instance, volume_gib=volume.gib)
    return Done()


async def grow_file_system(job: Job, to: Reach) -> Outcome:
    """To what the row says."""
    row = await to.records.instance(job.instance)
    return await on_guest(job, to, "grow_volume", {"volume_bytes": row["volume_gib"] * GIB})


async def settle_device(job: Job, to: Reach) -> Outcome:
    """Ask for the size that the row says: the cloud refuses that if it has gone further."""
    row = await to.records.instance(job.instance)
    try:
        volume = await to.cloud.grow_volume(job.instance, row["volume_gib"])
    except CloudRefused as why:
        if why.code == "cannot_shrink":
            await to.records.set_instance(job.instance, volume_gib=job.args["volume_gib"])
        return Done()
    return Done() if volume.ready or volume.fault else Wait(2, "the volume is still growing")


async def settle_file_system(job: Job, to: Reach) -> Outcome:
    row = await to.records.instance(job.instance)
    done = (await to.records.operation(job.id))["guest_state"] == "done"
    if row["volume_gib"] == job.args["volume_gib"] and not done:
        await to.records.file_after(job.id, GROW_FILE_SYSTEM.kind, within=_LATER, beside=True)
    return Done()


RESIZE_VOLUME = Plan(
    "resize_volume",
    steps=(grow_device, grow_file_system),
    undo=(settle_device, settle_file_system),
    within=timedelta(minutes=15),
    step_limit=timedelta(seconds=120),
    cancellable=True,
)

GROW_FILE_SYSTEM = Plan("grow_file_system", steps=(grow_file_system,), within=_LATER, cancellable=True)
"""What is left of a growth whose guest was not there. Filed by its undo."""
