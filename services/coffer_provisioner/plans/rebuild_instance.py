"""Give one instance a new machine around its data: today's image, a new agent with an identity of its own.

The cloud shuts the old machine down first, and its agent stops the database. The old identity ends when the new agent
enrols, in the same transaction. Nothing is taken back when it fails: the data are where they were, and it can be done
again.
"""

from __future__ import annotations

from datetime import timedelta

import msgspec

from coffer_provisioner.cloud.interface import MachineState, Port
from coffer_provisioner.plan import Done, Job, Outcome, Plan, Wait
from coffer_provisioner.plans.create_instance import (
    image_reference,
    keep_console,
    machine_spec,
    prepare_args,
    wait_for_agent,
)
from coffer_provisioner.plans.guest_commands import last_word, send
from coffer_provisioner.plans.recover_instance import wait_reported
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp


async def check_data(job: Job, to: Reach) -> Outcome:
    """And note who reports now, who is another one later."""
    row, beat = await to.records.instance(job.instance), await to.records.heartbeat(job.instance)
    own = [known for known in row["addresses"] if known["type"] == "private"]
    if not row["started_once"] or not own or row["volume_id"] is None:
        raise GiveUp("no_data", "there was never a database here that a new machine could run")
    image_reference(to.registry, row["image"], row["image_digest"])
    job.context |= {
        "address": own[0]["address"], "network": own[0]["network"],
        "boot": beat["facts"].get("boot", "") if beat else "",
    }
    return Done()


async def rebuild_machine(job: Job, to: Reach) -> Outcome:
    job.context["begun"] = True
    row = await to.records.instance(job.instance)
    port = Port(job.context["address"], job.context["network"])
    machine = await to.cloud.rebuild_machine(await machine_spec(job, to, row, port, row["volume_id"]))
    if machine.id != row["server_id"]:
        await to.records.set_instance(job.instance, server_id=machine.id)
    if machine.state is MachineState.ERROR:
        raise GiveUp("machine_failed", machine.fault)
    if machine.state is MachineState.STOPPED:  # it was so before, and some clouds keep that
        await to.cloud.restart_machine(job.instance)
    return Done() if machine.state is MachineState.ACTIVE else Wait(2, "the machine is being rebuilt")


async def wait_enrolled(job: Job, to: Reach) -> Outcome:
    """By the credential of this operation: the former agent has an identity, too."""
    row = await to.records.instance(job.instance)
    return Done() if row["credential_used"] else await wait_for_agent(job, to)


async def prepare_guest(job: Job, to: Reach) -> Outcome:
    """The agent finds a database on the volume and runs it as it is."""
    said = await last_word(job, to)
    if said == "done":
        return Done()
    args = msgspec.structs.replace(await prepare_args(job, to), format=False)
    return await send(job, to, "prepare", msgspec.to_builtins(args), said)


REBUILD_INSTANCE = Plan(
    "rebuild_instance",
    steps=(check_data, rebuild_machine, wait_enrolled, prepare_guest, wait_reported),
    undo=(keep_console,),
    within=timedelta(minutes=20),
    step_limit=timedelta(seconds=240),
    cancellable=True,
)
