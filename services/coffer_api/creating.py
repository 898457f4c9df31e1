"""Creating an instance: what is asked for against what is on offer, then one transaction that writes it all."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import asyncpg
import msgspec
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel
from starlette.responses import Response

from coffer_api import (
    backup_rows,
    filing,
    instance_configuration,
    instance_rows,
    names,
    quotas,
    restoring,
    tenant_containers,
    tenant_networks,
    versions,
    views,
)
from coffer_api.bodies import CreateInstance, DatastoreSpec, InstanceSpec
from coffer_api.call import Call, reply
from coffer_api.identity import allowed
from coffer_api.instance_rows import UUID
from coffer_api.problems import Problem, bad_request, not_in_this_release, over_limit
from coffer_db import operations
from coffer_db.operations import Replayed
from coffer_shared.backups import CINDER
from coffer_shared.commands import NewDatabase, UserArgs
from coffer_shared.datastore import Datastore, Feature

CREATE_WITHIN = timedelta(minutes=20)
RESTORE_WITHIN = timedelta(hours=6)
_LATER = ("modules",)
_NOTHING: tuple[Any, ...] = (None, [], "", {})
_OF_THE_SOURCE = ("flavor_ref", "flavor", "datastore", "volume", "locality", "databases", "users")
"""What a replica takes from its source."""
_OFFER = """
    SELECT d.name AS datastore, d.id AS datastore_id, d.default_version_id, v.id, v.name, v.version, v.manager,
           v.active, v.image, v.image_digest, v.backup_image, v.backup_image_digest, f.id AS flavor,
           ARRAY(SELECT a.flavor_id FROM version_flavors a WHERE a.version_id = v.id) AS flavors,
           ARRAY(SELECT a.volume_type FROM version_volume_types a WHERE a.version_id = v.id) AS volume_types
    FROM datastores d JOIN datastore_versions v ON v.datastore_id = d.id
    LEFT JOIN flavors f ON f.id = $1
    ORDER BY d.name, v.name, v.version
"""
_instances = SQLModel.metadata.tables["instances"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that can be carried out."""

    instance: str
    row: dict[str, Any]
    databases: list[NewDatabase]
    users: list[UserArgs]
    backup: asyncpg.Record | None
    """To restore."""


async def create(call: Call) -> Response:
    spec = (await call.body(CreateInstance)).instance
    key = await filing.idempotency_key(call)
    try:
        async with filing.repeatable(call, key):
            wanted = await _plan(call, spec)
            operation = await _write(call, wanted, key)
    except Replayed as before:
        return await _answer(call, before.instance_id, before.operation_id)
    await call.api.wakes.wake(wanted.instance, operation)
    return await _answer(call, wanted.instance, operation)


async def _write(call: Call, wanted: Wanted, key: filing.Key) -> str:
    within = CREATE_WITHIN if wanted.backup is None else RESTORE_WITHIN
    new = filing.new(
        call, wanted.row, "create_instance", within=within, lifecycle=True,
        args={"databases": msgspec.to_builtins(wanted.databases), **restoring.arguments(wanted.backup)},
        secret_args={"users": msgspec.to_builtins(wanted.users)} if wanted.users else None, key=key,
    )
    async with call.api.db.begin() as session:
        await quotas.lock(session, call.project)
        if wanted.backup is not None:
            await restoring.hold(session, wanted.backup["id"])
        if wanted.row["configuration_id"] is not None:
            await instance_configuration.hold(session, wanted.row["configuration_id"])
        try:
            await session.execute(insert(_instances).values(**wanted.row))
        except IntegrityError:
            raise bad_request("The flavor or the datastore version has just been deleted.") from None
        operation = await operations.file(session, new, call.api.master)
        await quotas.check(session, call.project, call.api.settings)
    return operation


async def _answer(call: Call, instance: str, operation: str) -> Response:
    row = await instance_rows.load(call, instance)
    found = views.instance_detail(call, views.Links(call), row)
    return reply({"instance": found}, headers={filing.HEADER: operation})


async def _plan(call: Call, spec: InstanceSpec) -> Wanted:
    """Everything that can be refused without writing is refused here."""
    await _refuse_later(call, spec)
    settings = call.api.settings
    ref = spec.flavor_ref or spec.flavor
    backup = None if spec.restore_point is None else await _backup(call, spec.restore_point.backup_ref)
    rows = await call.api.reads.fetch(_OFFER, ref or "")
    version = _version(rows, spec, settings.default_datastore, backup)
    datastore = call.api.specs.get(version["manager"])
    if datastore is None:
        raise bad_request(f"Datastore version '{version['name']}' cannot be used by this release.")
    if ref is None or version["flavor"] is None:
        raise bad_request(f"Resource {ref} cannot be found.")
    _need_association(version, spec)
    if spec.volume is None:
        raise bad_request("Volume size was not specified.")
    if spec.volume.size > settings.max_volume_gib:
        raise over_limit(f"Volume 'size' cannot exceed maximum of {settings.max_volume_gib} GB.")
    if spec.region_name not in {None, settings.region}:
        raise bad_request(f"Region {spec.region_name} is not known.")
    if backup is not None:
        restoring.need_feature(datastore, backup)
        restoring.need_room(backup, spec.volume.size)
    if spec.databases:
        _need(call, datastore, Feature.DATABASES, "instance:extension:database:create")
    if spec.users:
        _need(call, datastore, Feature.USERS, "instance:extension:user:create")
    databases = names.databases(datastore, spec.databases)
    users = names.users(datastore, spec.users, frozenset(item.name for item in databases))
    group = await instance_configuration.choose(call, version["id"], spec.configuration)
    await tenant_networks.need_flavor(call, version["flavor"])
    nics = await tenant_networks.place(call, spec.nics)
    if backup is not None and backup["storage"] != CINDER:
        await tenant_containers.ensure(call, backup["project_id"], backup["container"], make=False)
    instance = str(uuid.uuid4())
    row = _row(call, spec, instance, nics)
    row |= {"flavor_id": version["flavor"], "datastore_version_id": version["id"], "volume_gib": spec.volume.size,
            "volume_type": spec.volume.type, "configuration_id": group, **restoring.columns(backup)}
    return Wanted(instance, row, databases, users, backup)


async def _backup(call: Call, wanted: str) -> asyncpg.Record:
    allowed(call.request, "backup:show")
    backup = await backup_rows.load(call, wanted)
    if backup["project_id"] != call.project:  # an administrator sees it, but the data stay in their project
        raise backup_rows.missing(wanted)
    restoring.need_completed(backup["id"], backup["state"])
    return backup


def _row(call: Call, spec: InstanceSpec, instance: str, nics: list[dict[str, str]]) -> dict[str, Any]:
    access = spec.access
    return {
        "id": instance,
        "project_id": call.project,
        "user_id": call.identity.user,
        "name": spec.name,
        "fs_uuid": str(uuid.uuid4()),
        "formatted": False,
        "started_once": False,
        "region": call.api.settings.region,
        "availability_zone": spec.availability_zone,
        "locality": spec.locality,
        "nics": nics,
        "is_public": access.is_public if access else False,
        "allowed_cidrs": access.allowed_cidrs if access else [],
        "addresses": [],
        "failed": False,
    }


async def _refuse_later(call: Call, spec: InstanceSpec) -> None:
    source = spec.replica_of if spec.replica_of not in _NOTHING else spec.slave_of
    if source not in _NOTHING:
        await _refuse_replica(call, spec, source)
    for field in _LATER:
        if getattr(spec, field) not in _NOTHING:
            raise not_in_this_release(f"Creating an instance with {field}")
    if spec.replica_count is not None and spec.replica_count > 1:
        raise bad_request("replica_count needs replica_of.")


async def _refuse_replica(call: Call, spec: InstanceSpec, source: Any) -> NoReturn:
    """What would be wrong with it in any release comes first."""
    given = [InstanceSpec.model_fields[name].alias or name for name in _OF_THE_SOURCE if getattr(spec, name)]
    if any(nic.ip_address is not None for nic in spec.nics):
        given.append("nics.ip_address")
    if given:
        raise bad_request(f"A replica takes after its source: {', '.join(given)} cannot be given.")
    if not isinstance(source, str) or not UUID.fullmatch(source):
        raise bad_request("Validation error: instance['replica_of'] must be the id of an instance.")
    await instance_rows.load(call, source)
    raise not_in_this_release("Creating an instance with replica_of")


def _need_association(version: asyncpg.Record, spec: InstanceSpec) -> None:
    """400 for what the version is not tied to, and while nothing says what its guests run."""
    called = f"datastore {version['datastore']} version {version['name']}"
    if version["flavors"] and version["flavor"] not in version["flavors"]:
        raise bad_request(f"Flavor {version['flavor']} is not supported for {called}.")
    kind = spec.volume.type if spec.volume else None
    if kind is not None and kind not in version["volume_types"]:
        known = ", ".join(sorted(version["volume_types"])) or "none has a name"
        raise bad_request(f"The volume type {kind} is not valid for {called}; valid types: {known}.")
    if not version["image_digest"]:
        raise bad_request(
            f"Instances of {called} cannot be created yet: no digest is recorded for its image {version['image']}. "
            "An administrator records it with coffer-manage.",
        )


def _version(
    rows: list[asyncpg.Record], spec: InstanceSpec, default: str, backup: asyncpg.Record | None,
) -> asyncpg.Record:
    """The datastore version that was asked for, or the default; that of the backup to restore."""
    if backup is not None:
        return restoring.version(rows, spec.datastore, backup)
    asked = spec.datastore or DatastoreSpec()
    return versions.choose(rows, asked.type or default, asked.version, asked.version_number)


def _need(call: Call, datastore: Datastore, feature: Feature, rule: str) -> None:
    allowed(call.request, rule)
    if feature not in datastore.features:
        raise Problem(422, f"Operation not supported for datastore {datastore.name}.")
