"""Back up one instance: keys, the guest's work, and only then what is stored is compared and the backup is complete.

What the undo leaves in the object store, `clear_backup` removes. The tuples at the end are the order it happens in.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec

from coffer_db.backup_tables import BackupState
from coffer_provisioner import backup_store
from coffer_provisioner.backup_check import Absent, reported
from coffer_provisioner.plan import Done, Job, Outcome, Plan, Wait
from coffer_provisioner.plans.create_instance import image_reference
from coffer_provisioner.plans.guest_commands import last_word, passed, send_while_it_can, stop
from coffer_provisioner.reach import Reach
from coffer_provisioner.storage.interface import Closed
from coffer_shared.backups import BackUp

ABSENT_SECONDS = 90.0
"""For so long a listing may lack what was stored."""
ABSENT_AGAIN_SECONDS = 3.0
CLOSED_SECONDS = 30.0
"""For so long a container that its owner has opened may seem closed."""
CLOSED_AGAIN_SECONDS = 3.0


async def ensure_store(job: Job, to: Reach) -> Outcome:
    """A container that was opened just now may seem closed to a proxy of the store that remembers how it was."""
    try:
        await backup_store.ensure(await _row(job, to), to)
    except Closed as closed:
        if passed(job, "closed_since", CLOSED_SECONDS):
            raise
        return Wait(CLOSED_AGAIN_SECONDS, closed.text)
    return Done()


async def draw_key(job: Job, to: Reach) -> Outcome:
    await to.backups.data_key(await _row(job, to))
    return Done()


async def back_up(job: Job, to: Reach) -> Outcome:
    said = await last_word(job, to)
    if said == "done":
        return Done()
    return await send_while_it_can(job, to, "backup", lambda: _order(job, to), said)


async def settle(job: Job, to: Reach) -> Outcome:
    """From now on no grant to write is given out; those that were must have expired before anything is compared.

    An upload begun before may still drag on. Its sender made this very backup and could have stored anything in the
    first place; whatever it replaces no longer has the checksum that is recorded now."""
    row = await _row(job, to)
    if row["state"] != BackupState.SAVING:
        await to.backups.set_state(row["id"], BackupState.SAVING)
        row = await _row(job, to)  # only now is its last grant certain
    return backup_store.locked(row)


async def check_stored(job: Job, to: Reach) -> Outcome:
    found = reported((await to.records.operation(job.id))["guest_result"])
    try:
        await backup_store.check(await _row(job, to), found, to)
    except Absent as absent:
        if passed(job, "absent_since", ABSENT_SECONDS):
            raise
        return Wait(ABSENT_AGAIN_SECONDS, absent.text)
    return Done()


async def record(job: Job, to: Reach) -> Outcome:
    found, row = reported((await to.records.operation(job.id))["guest_result"]), await _row(job, to)
    await to.backups.complete(row["id"], found, await backup_store.manifest_address(row, to))
    return Done()


async def stop_guest(job: Job, to: Reach) -> Outcome:
    """It works for nothing from here on. That it stops is good manners; what keeps it out is that its grants end, and
    they live much shorter than what is waited for here."""
    row = await backup_store.row_if_any(job.args["backup"], to)
    if row is None or row["grant_until"] is None:
        return Done()
    if row["state"] == BackupState.COMPLETED:  # cancelled, or killed, between the record and the end
        await to.backups.set_state(row["id"], BackupState.DELETING)
    return await stop(job, to)


async def mark_failed(job: Job, to: Reach) -> Outcome:
    """What is stored of it is removed by an operation of its own, so that a store that is away keeps no instance from
    being used."""
    await to.backups.fail(job.args["backup"], job.failure_text)
    return Done()


async def _row(job: Job, to: Reach) -> dict[str, Any]:
    return await to.backups.backup(job.args["backup"])


async def _order(job: Job, to: Reach) -> dict[str, Any]:
    """Goes into the sealed command and nowhere else: it holds the data key and a grant."""
    row = await _row(job, to)
    image = image_reference(to.registry, row["backup_image"], row["backup_image_digest"])
    key = await to.backups.data_key(row)
    if row["state"] != BackupState.BUILDING:
        await to.backups.set_state(row["id"], BackupState.BUILDING)
    grant = await backup_store.write_grant(row, to.backups, to.storages)
    order: dict[str, Any] = msgspec.to_builtins(BackUp(backup=row["id"], image=image, key=key.hex(), grant=grant))
    return order


CREATE_BACKUP = Plan(
    "create_backup",
    steps=(ensure_store, draw_key, back_up, settle, check_stored, record),
    undo=(stop_guest, mark_failed),
    within=timedelta(hours=12),
    step_limit=timedelta(seconds=120),
    cancellable=True,
)
