"""Where backups are stored: the strategies of a project and of its instances, and the container that a backup gets."""

from __future__ import annotations

import asyncpg
from sqlalchemy import text
from starlette.responses import Response

from coffer_api import documents, instance_rows
from coffer_api.bodies import SetStrategy
from coffer_api.call import Call, Routes, empty, reply
from coffer_api.problems import Problem, bad_request
from coffer_api.settings import is_container_name

ROUTES = Routes("backups")
BACKEND = "swift"
_PATH = "/backup_strategies"
_QUERY = ("instance_id", "project_id")
_LIST = """
    SELECT s.project_id, s.instance_id, s.backend, s.swift_container FROM backup_strategies s
    WHERE s.project_id = $1 AND ($2::text IS NULL OR s.instance_id = $2)
      AND (s.instance_id = '' OR EXISTS (SELECT FROM instances i WHERE i.id = s.instance_id AND i.deleted_at IS NULL))
    ORDER BY s.instance_id
"""
_CHOSEN = """
    SELECT swift_container FROM backup_strategies WHERE project_id = $1 AND instance_id IN ($2, '')
    ORDER BY instance_id DESC LIMIT 1
"""
_SET = text("""
    INSERT INTO backup_strategies (project_id, instance_id, backend, swift_container)
    VALUES (:project, :instance, :backend, :container)
    ON CONFLICT (project_id, instance_id)
        DO UPDATE SET backend = excluded.backend, swift_container = excluded.swift_container
""")
_DROP = text("DELETE FROM backup_strategies WHERE project_id = :project AND instance_id = :instance")


@ROUTES.add("GET", _PATH, rule="backup_strategy:index", reply=documents.BackupStrategies, query=_QUERY)
async def list_backup_strategies(call: Call) -> Response:
    """The project's default and those of its instances, or with `instance_id` that one."""
    rows = await call.api.reads.fetch(_LIST, _project(call), _instance(call))
    return reply({"backup_strategies": [dict(row) for row in rows]})


@ROUTES.add(
    "POST", _PATH, rule="backup_strategy:create", body=SetStrategy, reply=documents.BackupStrategyReply, status=202,
)
async def set_backup_strategy(call: Call) -> Response:
    """Takes the place of the one there was. Without an instance it is the project's default."""
    given = (await call.body(SetStrategy)).backup_strategy
    container = allowed_container(given.swift_container)
    project = call.project
    if given.instance_id is not None:
        project = (await instance_rows.load(call, given.instance_id))["project_id"]
    found = {"project_id": project, "instance_id": given.instance_id or "", "backend": BACKEND}
    values = {"project": project, "instance": found["instance_id"], "backend": BACKEND, "container": container}
    async with call.api.db.begin() as session:
        await session.execute(_SET, values)
    return reply({"backup_strategy": {**found, "swift_container": container}}, 202)


@ROUTES.add("DELETE", _PATH, rule="backup_strategy:delete", status=202, query=_QUERY)
async def delete_backup_strategy(call: Call) -> Response:
    """The project's default, or with `instance_id` that one. That there is none is fine."""
    values = {"project": _project(call), "instance": _instance(call) or ""}
    async with call.api.db.begin() as session:
        await session.execute(_DROP, values)
    return empty()


async def container_of(call: Call, instance: asyncpg.Record, asked: str | None) -> str:
    """As the request says, else the instance's strategy, else the project's, else the setting."""
    if asked is not None:
        return allowed_container(asked)
    row = await call.api.reads.one(_CHOSEN, instance["project_id"], instance["id"])
    found: str = call.api.settings.backup_container if row is None else row["swift_container"]
    return found


def allowed_container(name: str) -> str:
    """The name itself, or 400."""
    if not is_container_name(name):
        raise bad_request(f"The value is not allowed: {name}")
    return name


def _project(call: Call) -> str:
    """Whose strategies: an administrator may name a project."""
    named = call.query("project_id")
    if named is not None and not call.identity.admin:
        raise Problem(403, f"Operation not allowed for tenant {call.project}.")
    return named or call.project


def _instance(call: Call) -> str | None:
    named = call.query("instance_id")
    return None if named is None else named.lower()
