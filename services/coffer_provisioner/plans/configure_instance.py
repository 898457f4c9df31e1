"""Have one instance run with the values of its configuration group, or with its defaults alone.

Filed when a group is attached or detached (`args["former"]`: the one it had), and when the values of an attached one
change. The values are read when it runs, so of several the last one always brings the newest.
"""

from __future__ import annotations

from datetime import timedelta

from coffer_provisioner.plan import Done, Job, Outcome, Plan
from coffer_provisioner.plans.guest_commands import on_guest
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp


async def configure(job: Job, to: Reach) -> Outcome:
    row = await to.records.instance(job.instance)
    if row["deleted_at"] is not None:
        raise GiveUp("no_instance", "the instance is deleted")
    return await on_guest(job, to, "configure", {"settings": row["settings"]})


async def attach_former(job: Job, to: Reach) -> Outcome:
    """The database refused the values and goes on with those it had."""
    if "former" in job.args:
        await to.records.exchange_configuration(job.instance, job.args["configuration"], job.args["former"])
    return Done()


CONFIGURE_INSTANCE = Plan(
    "configure_instance",
    steps=(configure,),
    undo=(attach_former,),
    within=timedelta(minutes=10),
    cancellable=True,
)
