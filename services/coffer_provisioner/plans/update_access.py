"""Change who may reach one instance: the ranges of addresses, and whether it has a public address.

The row says what is wanted before anything else does, because an agent that asks meanwhile goes by it. The cloud's own
filter lets in those of before and those to come while the guest, which is exact, changes over: a death in between shuts
out nobody who is allowed, and lets in nobody who is not. The public address comes last: what would have to be taken
back after it was given up, cannot fail any more.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from coffer_provisioner.cloud.interface import MachineState, Port
from coffer_provisioner.plan import Done, Job, Outcome, Plan
from coffer_provisioner.plans.create_instance import tags
from coffer_provisioner.plans.guest_commands import ACCEPT_SECONDS, on_guest
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp, TryAgain
from coffer_shared.messages import Cancel, Probe


async def note_access(job: Job, to: Reach) -> Outcome:
    """A step of its own: once the row has changed, only this tells what it was. What is not asked for stays."""
    machine = await to.cloud.find_machine(job.instance)
    if machine is None or machine.state is not MachineState.ACTIVE:
        raise GiveUp("machine_down", "the machine does not run")
    row = await to.records.instance(job.instance)
    before = {name: row[name] for name in ("is_public", "allowed_cidrs")}
    job.context |= {"before": before, "wanted": {name: job.args.get(name, known) for name, known in before.items()}}
    return Done()


async def record_access(job: Job, to: Reach) -> Outcome:
    await to.records.set_instance(job.instance, **job.context["wanted"])
    return Done()


async def open_filter(job: Job, to: Reach) -> Outcome:
    before, wanted = (job.context[which]["allowed_cidrs"] for which in ("before", "wanted"))
    await _filter(job, to, [*before, *wanted] if before and wanted else [])
    return Done()


async def set_access_on_guest(job: Job, to: Reach) -> Outcome:
    return await on_guest(job, to, "set_access", {"allowed_cidrs": job.context["wanted"]["allowed_cidrs"]})


async def close_filter(job: Job, to: Reach) -> Outcome:
    await _filter(job, to, job.context["wanted"]["allowed_cidrs"])
    return Done()


async def set_public_address(job: Job, to: Reach) -> Outcome:
    await _publish(job, to, job.context["wanted"])
    return Done()


async def restore_access(job: Job, to: Reach) -> Outcome:
    if "before" in job.context:
        await to.records.set_instance(job.instance, **job.context["before"])
    return Done()


async def restore_public_address(job: Job, to: Reach) -> Outcome:
    if "before" in job.context:
        await _publish(job, to, job.context["before"])
    return Done()


async def tell_guest(job: Job, to: Reach) -> Outcome:
    """It asks for what the row says: now if it hears this, else when it is back, and every few minutes."""
    with suppress(TryAgain):
        await to.guests.send(job.instance, Cancel(op=job.id), within=ACCEPT_SECONDS)
        await to.guests.send(job.instance, Probe(), within=ACCEPT_SECONDS)
    return Done()


async def restore_filter(job: Job, to: Reach) -> Outcome:
    if "before" in job.context:
        await _filter(job, to, job.context["before"]["allowed_cidrs"])
    return Done()


async def _filter(job: Job, to: Reach, allowed: list[str]) -> None:
    row = await to.records.instance(job.instance)
    await to.cloud.ensure_access(tags(job), tcp_port=row["port"], allowed_cidrs=tuple(dict.fromkeys(allowed)))


async def _publish(job: Job, to: Reach, access: dict[str, Any]) -> None:
    row = await to.records.instance(job.instance)
    addresses = [known for known in row["addresses"] if known["type"] != "public"]
    if access["is_public"]:
        own = addresses[0]
        public = await to.cloud.ensure_public_address(
            tags(job), port=Port(own["address"], own["network"]), tcp_port=row["port"],
            allowed_cidrs=tuple(access["allowed_cidrs"]),
        )
        addresses.append({"address": public.address, "type": "public"})
    else:
        await to.cloud.drop_public_address(job.instance)
    if addresses != row["addresses"]:
        await to.records.set_instance(job.instance, addresses=addresses)


UPDATE_ACCESS = Plan(
    "update_access",
    steps=(note_access, record_access, open_filter, set_access_on_guest, close_filter, set_public_address),
    undo=(restore_access, restore_public_address, tell_guest, restore_filter),
    within=timedelta(minutes=5),
    cancellable=True,
)
