"""Have one instance run another version of its datastore.

The agent does it, and goes back by itself if the database does not become healthy. The row says the version that runs:
it changes after the agent has said so, and also where the operation ends in between.
"""

from __future__ import annotations

from datetime import timedelta

from coffer_provisioner.plan import Done, Job, Outcome, Plan
from coffer_provisioner.plans.create_instance import image_reference
from coffer_provisioner.plans.guest_commands import last_word, send_while_it_can, stop
from coffer_provisioner.reach import Reach


async def upgrade(job: Job, to: Reach) -> Outcome:
    said = await last_word(job, to)
    if said == "done":
        return Done()
    version = await to.records.version(job.args["version"])
    image = image_reference(to.registry, version["image"], version["image_digest"])

    async def args() -> dict[str, str]:
        return {"version": version["version"], "image": image}

    return await send_while_it_can(job, to, "upgrade", args, said)


async def record_version(job: Job, to: Reach) -> Outcome:
    await to.records.set_instance(job.instance, datastore_version_id=job.args["version"])
    return Done()


async def stop_guest(job: Job, to: Reach) -> Outcome:
    return await stop(job, to)


async def record_what_runs(job: Job, to: Reach) -> Outcome:
    """What the agent ended with, in spite of all."""
    if (await to.records.operation(job.id))["guest_state"] == "done":
        return await record_version(job, to)
    return Done()


UPGRADE_INSTANCE = Plan(
    "upgrade_instance",
    steps=(upgrade, record_version),
    undo=(stop_guest, record_what_runs),
    within=timedelta(minutes=30),
    cancellable=True,
)
