"""Back up one instance by a snapshot of its volume: the guest holds its file system still until the cloud has it.

Which it proves: its command is done only if nothing was written from before the snapshot was begun until after it was
there. The tuples at the end are the order it happens in.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from coffer_db.backup_tables import BackupState
from coffer_provisioner import backup_store
from coffer_provisioner.cloud.interface import Tags
from coffer_provisioner.plan import Done, Job, Outcome, Plan, Wait
from coffer_provisioner.plans.guest_commands import (
    give_up_if_it_cannot_go_on,
    last_word,
    send_while_it_can,
    stop,
)
from coffer_provisioner.reach import Reach
from coffer_shared.commands import Snapshot, Snapshotted
from coffer_shared.errors import GiveUp

STILL_SECONDS = 60.0
"""For so long at most the database's writers wait."""
FROZEN = "frozen"
"""What the guest last said, beside the words that end a command: see `coffer_provisioner.freezes`."""
_LOOK_SECONDS = 0.3
_AGAIN_SECONDS = 2.0
_MOST_BYTES = 1 << 60


async def freeze(job: Job, to: Reach) -> Outcome:
    said = await last_word(job, to)
    if said in {FROZEN, "done"}:
        return Done()

    async def order() -> dict[str, Any]:
        await to.backups.set_state(job.args["backup"], BackupState.BUILDING)
        return msgspec.to_builtins(Snapshot(STILL_SECONDS))  # type: ignore[no-any-return]

    return await send_while_it_can(job, to, "snapshot", order, said)


async def take_snapshot(job: Job, to: Reach) -> Outcome:
    """Once it is there the guest is told so, by the state of the backup."""
    if await last_word(job, to) == "done":
        return Done()
    found = await to.cloud.ensure_snapshot(
        Tags(instance=job.instance, operation=job.id, project=job.project), backup=job.args["backup"],
    )
    if found.fault:
        raise GiveUp("snapshot_failed", found.fault)
    if not found.ready:
        return Wait(_LOOK_SECONDS, "the snapshot is being taken")
    await to.backups.set_state(job.args["backup"], BackupState.SAVING)
    return Done()


async def wait_written(job: Job, to: Reach) -> Outcome:
    if await last_word(job, to) == "done":
        return Done()
    await give_up_if_it_cannot_go_on(job, to, "it does not say that its volume is written to again")
    return Wait(_AGAIN_SECONDS, "the guest lets its volume be written to again")


async def record(job: Job, to: Reach) -> Outcome:
    found = await to.cloud.find_snapshot(job.args["backup"])
    if found is None or not found.ready:
        raise GiveUp("no_snapshot", "the snapshot is gone")
    told = _told((await to.records.operation(job.id))["guest_result"])
    await to.backups.complete_snapshot(job.args["backup"], found.id, gib=found.gib, used_bytes=told.used_bytes)
    return Done()


async def stop_guest(job: Job, to: Reach) -> Outcome:
    """It lets its volume be written to again by itself, too, after a while."""
    row = await backup_store.row_if_any(job.args["backup"], to)
    if row is not None and row["state"] == BackupState.COMPLETED:  # cancelled between the record and the end
        await to.backups.set_state(row["id"], BackupState.DELETING)
    return await stop(job, to)


async def drop_snapshot(job: Job, to: Reach) -> Outcome:
    await to.cloud.drop_snapshot(job.args["backup"])
    return Done()


async def mark_failed(job: Job, to: Reach) -> Outcome:
    await to.backups.fail(job.args["backup"], job.failure_text)
    return Done()


def _told(result: dict[str, Any]) -> Snapshotted:
    """It comes from a machine that may be hostile."""
    try:
        told = msgspec.convert(result, Snapshotted)
    except (msgspec.ValidationError, RecursionError):
        raise GiveUp("bad_result", "the guest's result is not that of a snapshot") from None
    if not 0 <= told.used_bytes <= _MOST_BYTES:
        raise GiveUp("bad_result", "the guest's result cannot be that of a snapshot")
    return told


CREATE_SNAPSHOT = Plan(
    "create_snapshot",
    steps=(freeze, take_snapshot, wait_written, record),
    undo=(stop_guest, drop_snapshot, mark_failed),
    within=timedelta(hours=1),
    step_limit=timedelta(seconds=120),
    cancellable=True,
)
