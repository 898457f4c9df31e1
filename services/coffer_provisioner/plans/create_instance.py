"""Create one instance: from a row to a healthy database, new or restored from a backup (`args["restore"]`).

The tuples at the end are the order it happens in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from coffer_db.backup_tables import BackupState
from coffer_provisioner import backup_store
from coffer_provisioner.backup_check import recorded
from coffer_provisioner.cloud.interface import CloudBusy, MachineSpec, MachineState, Port, Size, Tags, Volume
from coffer_provisioner.plan import CANCELLED, Done, Job, Outcome, Plan, Wait
from coffer_provisioner.plans.guest_commands import last_word, passed, send
from coffer_provisioner.reach import Reach
from coffer_shared import commands
from coffer_shared.backups import CINDER, RestoreFrom
from coffer_shared.errors import CofferError, GiveUp
from coffer_shared.messages import Engine

GIB = 1024**3
MIB = 1024**2
CONSOLE_LINES = 60
CONSOLE_LENGTH = 4_000
UNREPORTED_SECONDS = 240.0
"""For so long a machine that runs may be without an agent that reports, in a cloud of usual speed."""
_LONG = re.compile(r"[A-Za-z0-9+/_=.-]{40,}")


async def check_backup(job: Job, to: Reach) -> Outcome:
    """Before anything is made: nobody should wait for a machine to learn that there is nothing to fill it with."""
    if "restore" not in job.args:
        return Done()
    backup, row = await to.backups.backup(job.args["restore"]), await to.records.instance(job.instance)
    if backup["project_id"] != job.project:
        raise GiveUp("backup_gone", "the backup is gone")
    if backup["state"] != BackupState.COMPLETED:
        raise GiveUp("backup_not_complete", "the backup is not complete")
    if backup["manager"] != row["manager"]:
        raise GiveUp("wrong_datastore", f"a backup of {backup['manager']} cannot be restored into {row['manager']}")
    if backup["storage"] == CINDER:
        job.context["snapshot"] = await _snapshot(backup, to)
        return Done()
    image_reference(to.registry, backup["backup_image"], backup["backup_image_digest"])
    await backup_store.ensure(backup, to)
    await backup_store.check(backup, recorded(backup), to)
    return Done()


async def ensure_port(job: Job, to: Reach) -> Outcome:
    row = await to.records.instance(job.instance)
    wanted = row["nics"][0] if row["nics"] else {}
    port = await to.cloud.ensure_port(
        tags(job), network=wanted.get("network"), address=wanted.get("address"), subnet=wanted.get("subnet"),
    )
    job.context["address"], job.context["network"] = port.address, port.network
    await to.records.set_instance(
        job.instance, addresses=[{"address": port.address, "type": "private", "network": port.network}],
    )
    return Done()


async def ensure_access(job: Job, to: Reach) -> Outcome:
    row = await to.records.instance(job.instance)
    await to.cloud.ensure_access(tags(job), tcp_port=row["port"], allowed_cidrs=tuple(row["allowed_cidrs"]))
    return Done()


async def ensure_volume(job: Job, to: Reach) -> Outcome:
    row = await to.records.instance(job.instance)
    volume = await to.cloud.ensure_volume(
        tags(job), gib=row["volume_gib"], volume_type=row["volume_type"], availability_zone=row["availability_zone"],
        snapshot=job.context.get("snapshot"),
    )
    if volume.fault:
        raise GiveUp("volume_failed", volume.fault)
    job.context["volume"] = volume.id
    await to.records.set_instance(job.instance, volume_id=volume.id)
    return Done() if volume.ready else Wait(2, "the volume is being made")


async def ensure_machine(job: Job, to: Reach) -> Outcome:
    row = await to.records.instance(job.instance)
    machine = await to.cloud.find_machine(job.instance)
    if row["enrolled"] and machine is not None and machine.state is MachineState.STOPPED:
        await to.cloud.restart_machine(job.instance)  # it has its identity: no second bootstrap credential
        return Wait(1, "the machine is being started again")
    if machine is not None and machine.state is MachineState.BUILDING and machine.id == job.context.get("machine"):
        return Wait(2, "the machine is being made")
    if machine is None or machine.state is not MachineState.ACTIVE:
        port = Port(job.context["address"], job.context["network"])
        machine = await to.cloud.ensure_machine(await machine_spec(job, to, row, port, job.context["volume"]))
        job.context["machine"] = machine.id
        await to.records.set_instance(job.instance, server_id=machine.id)
    if machine.state is MachineState.ERROR:
        raise GiveUp("machine_failed", machine.fault)
    return Done() if machine.state is MachineState.ACTIVE else Wait(2, "the machine is being made")


async def wait_enrolled(job: Job, to: Reach) -> Outcome:
    row = await to.records.instance(job.instance)
    return Done() if row["enrolled"] else await wait_for_agent(job, to)


async def prepare_guest(job: Job, to: Reach) -> Outcome:
    said = await last_word(job, to)
    if said != "done":
        kind, args = _first_data(job), await prepare_args(job, to)
        return await send(job, to, kind, msgspec.to_builtins(args), said)
    await to.records.set_instance(job.instance, formatted=True, started_once=True)
    return Done()


async def mark_volume(job: Job, to: Reach) -> Outcome:
    await to.cloud.mark_volume(tags(job))
    return Done()


async def ensure_public_address(job: Job, to: Reach) -> Outcome:
    row = await to.records.instance(job.instance)
    if not row["is_public"]:
        return Done()
    port = Port(job.context["address"], job.context["network"])
    public = await to.cloud.ensure_public_address(
        tags(job), port=port, tcp_port=row["port"], allowed_cidrs=tuple(row["allowed_cidrs"]),
    )
    addresses = [a for a in row["addresses"] if a["type"] != "public"]
    await to.records.set_instance(
        job.instance, addresses=[*addresses, {"address": public.address, "type": "public"}],
    )
    return Done()


async def wait_healthy(job: Job, to: Reach) -> Outcome:
    beat = await to.records.heartbeat(job.instance)
    if beat is not None and beat["engine"] == Engine.HEALTHY:
        return Done()
    return Wait(1, "waiting for the first healthy report")


async def keep_console(job: Job, to: Reach) -> Outcome:
    """First of an undo: what the machine last said goes with it. For administrators, in the details of the fault."""
    if job.failure_code != CANCELLED and "console" not in job.context:
        try:
            said = await to.cloud.console(job.instance, CONSOLE_LINES)
        except CofferError as why:
            said = f"the console cannot be read: {why}"
        job.context["console"] = without_secrets(said)[-CONSOLE_LENGTH:]
    return Done()


async def drop_public_address(job: Job, to: Reach) -> Outcome:
    await to.cloud.drop_public_address(job.instance)
    return Done()


async def drop_machine(job: Job, to: Reach) -> Outcome:
    await to.cloud.drop_machine(job.instance)
    await to.records.set_instance(job.instance, server_id=None)
    return Done()


async def drop_unused_volume(job: Job, to: Reach) -> Outcome:
    """A volume that has held a started database is left for the tenant's own delete, or for an operator."""
    if await held_a_database(job, to):
        await to.records.set_instance(job.instance, started_once=True)  # the sweeper goes by this
    else:
        await to.cloud.drop_volume(job.instance)
    return Done()


async def drop_identity(job: Job, to: Reach) -> Outcome:
    await to.records.revoke_guest(job.instance, job.kind)
    return Done()


async def drop_port(job: Job, to: Reach) -> Outcome:
    await to.cloud.drop_port(job.instance)
    await to.records.set_instance(job.instance, addresses=[])
    return Done()


async def held_a_database(job: Job, to: Reach) -> bool:
    row: dict[str, Any] = await to.records.instance(job.instance)
    if row["started_once"]:
        return True
    if (await to.records.operation(job.id))["guest_state"] == "done" or await to.cloud.volume_is_marked(job.instance):
        return True
    beat = await to.records.heartbeat(job.instance)
    return beat is not None and beat["engine"] == Engine.HEALTHY


async def wait_for_agent(job: Job, to: Reach) -> Outcome:
    """GiveUp where no agent is to be expected any more. One that takes too long gets a second chance: its machine may
    have started before its network was there, or its user data could be read."""
    machine = await to.cloud.find_machine(job.instance)
    if machine is None or machine.state is MachineState.ERROR:
        fault = machine.fault if machine else "it is gone"
        raise GiveUp("machine_failed", f"the machine failed before its agent reported: {fault}")
    if passed(job, "unreported_since", UNREPORTED_SECONDS * to.patience) and "restarted" not in job.context:
        await to.cloud.restart_machine(job.instance)
        job.context["restarted"] = True
        return Wait(2, "the machine is started once more: its agent has not reported")
    return Wait(2, "waiting for the agent's first report")


async def machine_spec(job: Job, to: Reach, row: dict[str, Any], port: Port, volume: str) -> MachineSpec:
    """`volume`: its id."""
    return MachineSpec(
        tags=tags(job),
        name=row["name"],
        size=size_of(row["flavor_id"], row),
        port=port,
        volume=Volume(volume, row["volume_gib"], ready=True),
        user_data=await to.identities.user_data(job.instance, job.id),
        manager=row["manager"],
        user=row["user_id"],
        availability_zone=row["availability_zone"],
        locality=row["locality"],
    )


def size_of(flavor: str, row: Mapping[str, Any]) -> Size:
    """`row` has the flavor's columns."""
    return Size(flavor, row["ram_mb"], row["vcpus"])


def without_secrets(console: str) -> str:
    """What a machine prints may hold its user data, in whatever writing: nothing that is long enough to be a key, and
    nothing that steers a terminal."""
    shown = "".join(c for c in console if c.isprintable() or c in "\n\t")
    return _LONG.sub("[...]", shown)


async def prepare_args(job: Job, to: Reach) -> commands.Prepare:
    row = await to.records.instance(job.instance)
    return commands.Prepare(
        datastore=row["manager"],
        version=row["version"],
        image=image_reference(to.registry, row["image"], row["image_digest"]),
        port=row["port"],
        listen=[job.context["address"]],
        memory_bytes=row["ram_mb"] * MIB,
        vcpus=row["vcpus"],
        fs_uuid=row["fs_uuid"],
        format=not row["formatted"],
        volume_bytes=row["volume_gib"] * GIB,
        allowed_cidrs=row["allowed_cidrs"],
        databases=msgspec.convert(job.args.get("databases", []), list[commands.NewDatabase]),
        users=msgspec.convert(job.secret_args.get("users", []), list[commands.UserArgs]),
        settings=row["settings"],
        restore=await _restore(job, to) if _first_data(job) == "restore" else None,
    )


def _first_data(job: Job) -> str:
    """The guest command that sees to them."""
    if "snapshot" in job.context:
        return "adopt"
    return "restore" if "restore" in job.args else "prepare"


async def _snapshot(backup: dict[str, Any], to: Reach) -> str:
    """Its id. What the API has recorded of the instance that is made of it has to fit it."""
    found = await to.cloud.find_snapshot(backup["id"])
    if found is None or found.fault:
        raise GiveUp("damaged", f"the snapshot is lost: {found.fault}" if found else "the snapshot is gone")
    if not found.ready:
        raise CloudBusy("the snapshot is not ready")
    return found.id


async def _restore(job: Job, to: Reach) -> RestoreFrom:
    """Goes into the sealed command and nowhere else: it holds the data key and a grant."""
    backup = await to.backups.backup(job.args["restore"])
    return RestoreFrom(
        backup=backup["id"],
        image=image_reference(to.registry, backup["backup_image"], backup["backup_image_digest"]),
        key=(await to.backups.data_key(backup)).hex(),
        grant=await backup_store.read_grant(backup, to.backups, to.storages),
        manifest_sha256=backup["manifest_sha256"],
    )


def image_reference(registry: str, image: str, digest: str) -> str:
    """By digest always: a tag may move between two guests."""
    if not image or not digest:
        raise GiveUp("image_missing", "no digest is recorded for the image of this datastore version")
    return f"{registry}/{image.split('@', maxsplit=1)[0].split(':', maxsplit=1)[0]}@{digest}"


def tags(job: Job) -> Tags:
    return Tags(instance=job.instance, operation=job.id, project=job.project)


CREATE_INSTANCE = Plan(
    "create_instance",
    steps=(
        check_backup, ensure_port, ensure_access, ensure_volume, ensure_machine, wait_enrolled, prepare_guest,
        mark_volume, ensure_public_address, wait_healthy,
    ),
    undo=(keep_console, drop_public_address, drop_machine, drop_unused_volume, drop_identity, drop_port),
    within=timedelta(minutes=20),
    step_limit=timedelta(seconds=150),
    cancellable=True,
)
