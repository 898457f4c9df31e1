"""The one statement behind every view of a configuration group, and the pages of them."""

from __future__ import annotations

import asyncpg

from coffer_api.call import Call
from coffer_api.instance_rows import UUID
from coffer_api.problems import Problem, not_found

_COUNT = """
           (SELECT count(*) FROM instances i WHERE i.configuration_id = c.id AND i.deleted_at IS NULL)
               AS instance_count"""
_RULES = """
           (SELECT coalesce(json_agg(p), '[]') FROM (
               SELECT name, data_type, restart_required, rule FROM configuration_parameters
               WHERE version_id = c.datastore_version_id
           ) p)::text AS rules"""
_FIELDS = f"""
    SELECT c.id, c.project_id, c.name, c.description, c.values::text AS values, c.created_at, c.updated_at,
           c.datastore_version_id AS version_id, d.name AS datastore, v.name AS version, v.version AS number,
           v.manager,{_COUNT}"""
_FROM = """
    FROM configurations c
    JOIN datastore_versions v ON v.id = c.datastore_version_id
    JOIN datastores d ON d.id = v.datastore_id
    WHERE c.deleted_at IS NULL"""
_ONE = f"{_FIELDS}{_FROM} AND c.id = $1"
_ONE_WITH_RULES = f"{_FIELDS},{_RULES}{_FROM} AND c.id = $1"
_PAGE = f"{_FIELDS}{_FROM} AND ($1::text IS NULL OR c.project_id = $1) AND c.id > $3 ORDER BY c.id LIMIT $2"
_INSTANCES = """
    SELECT i.id, i.name FROM configurations c
    LEFT JOIN LATERAL (
        SELECT id, name FROM instances
        WHERE configuration_id = c.id AND deleted_at IS NULL AND ($2::text IS NULL OR project_id = $2) AND id > $4
        ORDER BY id LIMIT $3
    ) i ON true
    WHERE c.id = $1 AND c.deleted_at IS NULL AND ($2::text IS NULL OR c.project_id = $2)
    ORDER BY i.id
"""


async def page(call: Call, limit: int, marker: str | None) -> list[asyncpg.Record]:
    """In the order of ids; one more than `limit` if there are more. An administrator's are those of all projects."""
    return await call.api.reads.fetch(_PAGE, _project(call), limit + 1, marker or "")


async def instances(call: Call, group: str, limit: int, marker: str | None) -> list[asyncpg.Record]:
    """As `page`: those that it is attached to. 404 if this caller sees no such group."""
    rows = []
    if UUID.fullmatch(group):
        rows = await call.api.reads.fetch(_INSTANCES, group.lower(), _project(call), limit + 1, marker or "")
    if not rows:
        raise missing(group)
    return [row for row in rows if row["id"] is not None]


async def find(call: Call, group: str, *, rules: bool = False) -> asyncpg.Record | None:
    """One that this caller may see; with the parameters of its version. An id of any other form is simply not found."""
    if not UUID.fullmatch(group):
        return None
    row = await call.api.reads.one(_ONE_WITH_RULES if rules else _ONE, group.lower())
    return None if row is None or (row["project_id"] != call.project and not call.identity.admin) else row


async def load(call: Call, group: str, *, rules: bool = False) -> asyncpg.Record:
    row = await find(call, group, rules=rules)
    if row is None:
        raise missing(group)
    return row


def missing(group: str) -> Problem:
    return not_found(f"Configuration group with ID {group[:255]} could not be found.")


def _project(call: Call) -> str | None:
    return None if call.identity.admin else call.project
