"""Enable root on one instance, and keep who did it when."""

from __future__ import annotations

from datetime import timedelta

from coffer_provisioner.plan import Done, Job, Outcome, Plan
from coffer_provisioner.plans.guest_commands import on_guest
from coffer_provisioner.reach import Reach


async def enable_on_guest(job: Job, to: Reach) -> Outcome:
    return await on_guest(job, to, "enable_root", {**job.args, **job.secret_args})


async def record_root(job: Job, to: Reach) -> Outcome:
    await to.records.note_root_enabled(job.instance, job.id)
    return Done()


ENABLE_ROOT = Plan("enable_root", steps=(enable_on_guest, record_root), within=timedelta(seconds=60))
