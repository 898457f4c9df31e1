"""Backups: list, show, make, delete. Where they are stored is chosen in `backup_strategies`; restoring is in
`restoring`."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import asyncpg
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from coffer_api import (
    backup_rows,
    backup_strategies,
    documents,
    filing,
    instance_rows,
    quotas,
    tenant_containers,
    views,
)
from coffer_api.bodies import BackupSpec, CreateBackup
from coffer_api.call import Call, Routes, reply
from coffer_api.identity import allowed
from coffer_api.instance_rows import UUID
from coffer_api.problems import Problem, bad_request, not_found, not_in_this_release, unprocessable
from coffer_db import operations
from coffer_db.backup_tables import BackupState
from coffer_db.operations import Busy, Replayed
from coffer_shared.backups import CINDER
from coffer_shared.datastore import Feature

ROUTES = Routes("backups")
BACKUP_WITHIN = timedelta(hours=12)
DELETE_WITHIN = timedelta(hours=1)
SNAPSHOT_WITHIN = timedelta(hours=1)
SWIFT = "swift"
_TRUE = frozenset({"1", "t", "true", "on", "y", "yes"})
_BEING_MADE = frozenset({BackupState.NEW, BackupState.BUILDING, BackupState.SAVING})
_OPEN = "('pending', 'running', 'waiting', 'undoing')"
_INSERT = text("""
    INSERT INTO backups (id, project_id, instance_id, operation_id, name, description, datastore_version_id, state,
                         storage, container, prefix)
    SELECT :id, i.project_id, i.id, :operation, :name, :description, i.datastore_version_id, :state,
           :storage, :container, :prefix
    FROM instances i WHERE i.id = :instance AND i.deleted_at IS NULL
    RETURNING id
""")
_TREE = text(f"""
    WITH RECURSIVE tree AS (
        SELECT id FROM backups WHERE id = :id
        UNION
        SELECT child.id FROM backups child JOIN tree ON child.parent_id = tree.id
    )
    SELECT b.id, b.project_id, b.instance_id, b.operation_id, b.state, b.container,
           EXISTS (SELECT FROM operations o WHERE o.id = b.operation_id AND o.state IN {_OPEN}) AS busy
    FROM backups b
    WHERE b.id IN (SELECT id FROM tree) AND b.deleted_at IS NULL
    ORDER BY b.id
    FOR UPDATE OF b
""")  # noqa: S608 - a constant
_USES = text(f"""
    SELECT o.id, o.kind, o.instance_id, coalesce(o.args ->> 'restore', o.args ->> 'backup') AS backup
    FROM operations o
    WHERE o.state IN {_OPEN}
      AND (o.kind = 'create_instance' AND o.args ->> 'restore' = ANY(:ids)
           OR o.kind = 'delete_backup' AND o.args ->> 'backup' = ANY(:ids))
""")  # noqa: S608 - a constant
_DELETING = text("UPDATE backups SET state = :state, updated_at = now() WHERE id = ANY(:ids)")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A backup that can be made."""

    id: str
    row: asyncpg.Record
    """Of the instance."""
    storage: str
    container: str
    """Empty in Cinder."""
    spec: BackupSpec


@ROUTES.add(
    "GET", "/backups", rule="backup:index", reply=documents.Backups, paged=True,
    query=("datastore", "instance_id", "project_id", "all_projects"),
)
async def list_backups(call: Call) -> Response:
    """Those that changed last first. The marker is a number: how many to pass over. `project_id` and `all_projects` are
    for administrators."""
    page = backup_rows.Page()
    project, everybody = call.query("project_id"), (call.query("all_projects") or "").lower() in _TRUE
    if project is not None or everybody:
        allowed(call.request, "backup:index:all_projects")
    if project is not None or not everybody:
        page.of_project(project or call.project)
    if (instance := call.query("instance_id")) is not None:
        page.of_instance(instance.lower())
    datastore = call.query("datastore")
    if datastore is not None:
        page.of_datastore(datastore)
    found = await _read(call, page, "backups")
    if found is None:
        raise not_found(f"Datastore '{(datastore or '')[:255]}' cannot be found.")
    return reply(found)


@ROUTES.add("GET", "/instances/{id}/backups", rule="instance:backups", reply=documents.Backups, paged=True)
async def list_backups_of_instance(call: Call) -> Response:
    """As the list of all."""
    wanted = call.part(1)
    found: dict[str, Any] | None = None
    if UUID.fullmatch(wanted):
        page = backup_rows.Page()
        page.of_live_instance(wanted.lower(), None if call.identity.admin else call.project)
        found = await _read(call, page, f"instances/{wanted.lower()}/backups")
    if found is None:
        raise not_found(f"Resource {wanted[:255]} cannot be found.")
    return reply(found)


@ROUTES.add("GET", "/backups/{id}", rule="backup:show", reply=documents.BackupReply)
async def show_backup(call: Call) -> Response:
    return reply({"backup": views.backup(await backup_rows.load(call, call.part(1)))})


@ROUTES.add(
    "POST", "/backups", rule="backup:create", body=CreateBackup, reply=documents.BackupReply, status=202,
    errors=(409, 501), repeatable=True,
)
async def create_backup(call: Call) -> Response:
    """A full backup of an instance, which goes on serving: in the object store, or with the storage driver `cinder` as
    a snapshot of its volume, where the cloud takes such. The same request again under the same `Idempotency-Key`
    answers with the backup it made the first time."""
    spec = (await call.body(CreateBackup)).backup
    if spec.restore_from is not None:
        raise not_in_this_release("Registering a backup that is stored elsewhere (restore_from)")
    instance = spec.instance or spec.instance_id
    if instance is None:
        raise bad_request("instance is missing.")
    await _refuse_incremental(call, spec, instance)
    key = await filing.idempotency_key(call)
    try:
        async with filing.repeatable(call, key, instance):
            wanted = await _plan(call, spec, instance)
            operation = await _write(call, wanted, key)
    except Replayed as before:
        return _made(await backup_rows.made_by(call, before.instance_id, before.operation_id))
    await call.api.wakes.wake(instance, operation)
    return _made(await backup_rows.load(call, wanted.id))


@ROUTES.add("DELETE", "/backups/{id}", rule="backup:delete", status=202, errors=(422,))
async def delete_backup(call: Call) -> Response:
    """With those that are increments to it. 404 once its objects are gone; asked again before that, it changes
    nothing."""
    row = await backup_rows.load(call, call.part(1))
    stored = row["storage"] != CINDER
    gone = stored and await tenant_containers.is_gone(call, row["project_id"], row["container"])
    async with call.api.db.begin() as session:
        filed = await _delete(call, session, row["id"], {row["container"]} if gone else set())
    for instance, operation in filed.values():
        await call.api.wakes.wake(instance, operation)
    return filing.accepted(filed[row["id"]][1])


async def _read(call: Call, page: backup_rows.Page, path: str) -> dict[str, Any] | None:
    limit, offset = call.limit(), backup_rows.offset(call)
    rows = await page.read(call, limit, offset)
    if rows is None:
        return None
    more = call.next_links("backups", path, limit, str(offset + limit)) if len(rows) > limit else {}
    return {"backups": [views.backup(row) for row in rows[:limit]], **more}


async def _refuse_incremental(call: Call, spec: BackupSpec, instance: str) -> None:
    """What is wrong in itself is told first: a parent that is not there, not complete, or of another instance."""
    if spec.parent_id is None and not spec.incremental:
        return
    await instance_rows.load(call, instance)
    if spec.parent_id is not None:
        parent = await backup_rows.load(call, spec.parent_id)
        if parent["instance_id"] != instance:
            raise bad_request(f"Backup {parent['id']} is not of instance {instance}.")
        if parent["state"] != BackupState.COMPLETED:
            raise Problem(409, f"Backup {parent['id']} cannot have increments: its state is {parent['state']}.")
    raise not_in_this_release("An incremental backup")


async def _plan(call: Call, spec: BackupSpec, instance: str) -> Wanted:
    """Everything that can be refused without writing is refused here."""
    row = await instance_rows.load(call, instance)
    datastore = call.api.specs.get(row["manager"])
    snapshot = spec.storage_driver == CINDER
    feature = Feature.SNAPSHOT if snapshot else Feature.BACKUP
    if datastore is None or feature not in datastore.features:
        raise bad_request(f"The '{feature}' operation is not supported for the '{row['datastore']}' datastore.")
    if snapshot:
        return _plan_snapshot(call, row, spec)
    if not row["backup_image"]:
        raise bad_request(
            f"The 'backup' operation is not supported for version '{row['version']}' of the '{row['datastore']}' "
            "datastore.",
        )
    container = await backup_strategies.container_of(call, row, spec.swift_container)
    filing.need_action(call, row)
    await tenant_containers.ensure(call, row["project_id"], container)
    return Wanted(str(uuid.uuid4()), row, SWIFT, container, spec)


def _plan_snapshot(call: Call, row: asyncpg.Record, spec: BackupSpec) -> Wanted:
    if call.api.settings.cloud != "openstack":
        raise bad_request("The storage driver 'cinder' is not supported: this cloud takes no snapshots of volumes.")
    if spec.swift_container is not None:
        raise bad_request("A swift_container cannot be given with the storage driver 'cinder'.")
    filing.need_action(call, row)
    return Wanted(str(uuid.uuid4()), row, CINDER, "", spec)


async def _write(call: Call, wanted: Wanted, key: filing.Key) -> str:
    row, snapshot = wanted.row, wanted.storage == CINDER
    new = filing.new(
        call, row, "create_snapshot" if snapshot else "create_backup",
        within=SNAPSHOT_WITHIN if snapshot else BACKUP_WITHIN, lifecycle=True, beside=True,
        args={"backup": wanted.id}, key=key,
    )
    values = {
        "id": wanted.id, "instance": row["id"], "name": wanted.spec.name, "description": wanted.spec.description,
        "state": str(BackupState.NEW), "storage": wanted.storage, "container": wanted.container,
        "prefix": "" if snapshot else f"{row['id']}/{wanted.id}/",
    }
    try:
        async with call.api.db.begin() as session:
            await quotas.lock(session, row["project_id"])
            operation = await operations.file(session, new, None)
            made = (await session.execute(_INSERT, {**values, "operation": operation})).first()
            if made is None:
                raise not_found(f"Resource {row['id']} cannot be found.")
            await quotas.check_backups(session, row["project_id"], call.api.settings)
    except Busy as busy:
        raise filing.in_the_way(row, busy) from None
    return operation


def _made(row: asyncpg.Record) -> Response:
    return reply({"backup": views.backup(row)}, 202, {filing.HEADER: row["operation_id"]})


async def _delete(
    call: Call, session: AsyncSession, backup: str, gone: set[str],
) -> dict[str, tuple[str, str]]:
    """The instance and the operation of each deletion, by backup: those that were under way and those filed now.
    `gone`: containers that are there no more.

    The rows are locked before it is looked whether anything restores from them, and a restore locks its backup before
    it is filed: whichever comes second sees the other.
    """
    tree = (await session.execute(_TREE, {"id": backup})).mappings().all()
    if backup not in {row["id"] for row in tree}:
        raise backup_rows.missing(backup)
    for row in tree:
        if row["busy"] and row["state"] in _BEING_MADE:
            raise unprocessable(
                f"Backup {row['id']} cannot be deleted because it is running; its operation {row['operation_id']} can "
                "be cancelled.",
            )
    filed: dict[str, tuple[str, str]] = {}
    for use in (await session.execute(_USES, {"ids": [row["id"] for row in tree]})).mappings():
        if use["kind"] == "create_instance":
            raise unprocessable(
                f"Backup {use['backup']} cannot be deleted because instance {use['instance_id']} is being restored "
                "from it.",
            )
        filed[use["backup"]] = use["instance_id"], use["id"]
    fresh = [row for row in tree if row["id"] not in filed]
    if fresh:
        await session.execute(_DELETING, {"state": str(BackupState.DELETING), "ids": [row["id"] for row in fresh]})
    for row in fresh:
        instance = {"id": row["instance_id"], "project_id": row["project_id"]}
        new = filing.new(
            call, instance, "delete_backup", within=DELETE_WITHIN, lifecycle=False, beside=True,
            args=_deletion(row, gone),
        )
        filed[row["id"]] = row["instance_id"], await operations.file(session, new, None)
    return filed


def _deletion(row: RowMapping, gone: set[str]) -> dict[str, Any]:
    return {"backup": row["id"], "gone": True} if row["container"] in gone else {"backup": row["id"]}
