"""The one statement behind every view of an instance, and the facts that its status is derived from.

Administrators see deleted instances too; what those had may not be on offer any more, hence the outer joins.
"""

from __future__ import annotations

import re

import asyncpg

from coffer_api.call import Call
from coffer_api.problems import Problem, not_found
from coffer_api.status import Facts
from coffer_shared.datastore import Datastore, Feature

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_BYTES = re.compile(r"[0-9]{1,18}", re.ASCII)

SELECT = """
    SELECT i.id, i.name, i.project_id, i.flavor_id, i.volume_gib, i.region, i.is_public,
           i.allowed_cidrs::text AS allowed_cidrs, i.addresses::text AS addresses, i.locality, i.server_id,
           i.volume_id, i.root_enabled_at, i.failed, i.fault_message, i.fault_details,
           i.fault_at, i.created_at, i.updated_at, d.name AS datastore, v.name AS version, v.version AS number,
           v.id AS version_id, v.manager,
           CASE WHEN v.backup_image_digest <> '' THEN v.backup_image END AS backup_image,
           h.engine, h.received_at,
           CASE WHEN i.reset_at IS NULL OR h.received_at > i.reset_at THEN
               extract(epoch FROM now() - h.received_at)::float8 END AS age,
           h.facts #>> '{volume,used_bytes}' AS used_bytes, h.facts #>> '{volume,total_bytes}' AS total_bytes,
           coalesce(h.facts -> 'restart_required', '[]') <> '[]'::jsonb AS restart_required,
           (h.facts -> 'restart_required')::text AS waiting, c.id AS configuration_id, c.name AS configuration,
           o.kind AS task, o.id AS task_id, o.cancel_requested AS cancelling,
           i.deleted_at, i.root_enabled_by, i.availability_zone
    FROM instances i
    LEFT JOIN datastore_versions v ON v.id = i.datastore_version_id
    LEFT JOIN datastores d ON d.id = v.datastore_id
    LEFT JOIN heartbeats h ON h.instance_id = i.id
    LEFT JOIN configurations c ON c.id = i.configuration_id AND c.deleted_at IS NULL
    LEFT JOIN operations o ON o.instance_id = i.id AND o.lifecycle
        AND o.state IN ('pending', 'running', 'waiting', 'undoing')
"""
_SELECT = SELECT + "WHERE i.deleted_at IS NULL "
_PAGE = _SELECT + "AND i.project_id = $1 ORDER BY i.id LIMIT $2"
_NEXT_PAGE = _SELECT + "AND i.project_id = $1 AND i.id > $3 ORDER BY i.id LIMIT $2"
_ONE = _SELECT + "AND i.id = $1"


async def page(call: Call, limit: int, marker: str | None) -> list[asyncpg.Record]:
    """In the order of ids; one more than `limit` if there are more."""
    if marker is None:
        return await call.api.reads.fetch(_PAGE, call.project, limit + 1)
    return await call.api.reads.fetch(_NEXT_PAGE, call.project, limit + 1, marker)


async def load(call: Call, instance: str | None = None) -> asyncpg.Record:
    """The instance of the path, if this caller may see it. An id of any other form is simply not found."""
    wanted = call.part(1) if instance is None else instance
    row = await call.api.reads.one(_ONE, wanted.lower()) if UUID.fullmatch(wanted) else None
    if row is None or (row["project_id"] != call.project and not call.identity.admin):
        raise not_found(f"Resource {wanted[:255]} cannot be found.")
    return row


def facts(row: asyncpg.Record) -> Facts:
    used, total = volume_bytes(row)
    return Facts(
        task=row["task"],
        failed=row["failed"],
        engine=row["engine"],
        age=row["age"],
        machine=row["server_id"] is not None,
        restart_required=row["restart_required"],
        volume_use=used / total if total else 0.0,
    )


def volume_bytes(row: asyncpg.Record) -> tuple[int, int]:
    """Used and in all, as the guest said. Guests may say anything: what is no sensible number counts as nothing."""
    used, total = row["used_bytes"], row["total_bytes"]
    return (
        int(used) if used is not None and _BYTES.fullmatch(used) else 0,
        int(total) if total is not None and _BYTES.fullmatch(total) else 0,
    )


def spec_of(call: Call, row: asyncpg.Record, feature: Feature) -> Datastore:
    """The facts of the instance's datastore; 422 if it does not do this."""
    spec = call.api.specs.get(row["manager"])
    if spec is None or feature not in spec.features:
        raise Problem(422, f"Operation not supported for datastore {row['datastore']}.")
    return spec
