"""Configuration groups: values for the parameters of one datastore version, kept by name."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import msgspec
from sqlalchemy import text
from starlette.responses import Response

from coffer_api import configuration_documents as documents
from coffer_api import configuration_rows, configuration_values, instance_configuration, versions, views
from coffer_api.bodies import DatastoreSpec
from coffer_api.call import Call, Routes, empty, reply
from coffer_api.configuration_bodies import (
    ChangeConfiguration,
    ConfigurationChange,
    CreateConfiguration,
    MergeConfiguration,
)
from coffer_api.problems import bad_request
from coffer_shared.parameters import Parameter, numbers

ROUTES = Routes("configurations")
_decode = msgspec.json.Decoder().decode
_OFFER = """
    SELECT d.name AS datastore, d.id AS datastore_id, d.default_version_id, v.id, v.name, v.version, v.manager, v.active
    FROM datastores d JOIN datastore_versions v ON v.datastore_id = d.id
    ORDER BY d.name, v.name, v.version
"""
_RULES = """
    SELECT name, data_type, restart_required, rule::text AS rule FROM configuration_parameters WHERE version_id = $1
"""
# the version is held against an administrator who removes it
_INSERT = text("""
    INSERT INTO configurations (id, project_id, name, description, datastore_version_id, values)
    SELECT :id, :project, :name, :description, v.id, CAST(:values AS jsonb)
    FROM (SELECT id FROM datastore_versions WHERE id = :version FOR KEY SHARE) v
    RETURNING id
""")
_MERGE = text("""
    UPDATE configurations SET values = values || CAST(:values AS jsonb), updated_at = now()
    WHERE id = :id AND deleted_at IS NULL RETURNING id
""")
_CHANGE = text("""
    UPDATE configurations
    SET name = coalesce(CAST(:name AS text), name), values = coalesce(CAST(:values AS jsonb), values),
        description = CASE WHEN :describe THEN CAST(:description AS text) ELSE description END, updated_at = now()
    WHERE id = :id AND deleted_at IS NULL RETURNING id
""")
_LOCK = text("SELECT id FROM configurations WHERE id = :id AND deleted_at IS NULL FOR UPDATE")
_USED = text("SELECT EXISTS (SELECT FROM instances WHERE configuration_id = :id AND deleted_at IS NULL)")
_DELETE = text("UPDATE configurations SET deleted_at = now() WHERE id = :id")


@ROUTES.add("GET", "/configurations", rule="configuration:index", reply=documents.Configurations, paged=True)
async def list_configurations(call: Call) -> Response:
    """The project's; for administrators those of all projects."""
    limit = call.limit()
    rows = await configuration_rows.page(call, limit, call.marker())
    more = _more(call, "configurations", "configurations", rows, limit)
    return reply({"configurations": [_item(row) for row in rows[:limit]], **more})


@ROUTES.add(
    "POST", "/configurations", rule="configuration:create", body=CreateConfiguration,
    reply=documents.ConfigurationReply, errors=(422,),
)
async def create_configuration(call: Call) -> Response:
    """For the datastore version that is named, or the default. Names of parameters are kept as they are registered."""
    spec = (await call.body(CreateConfiguration)).configuration
    asked = spec.datastore or DatastoreSpec()
    version = versions.choose(
        await call.api.reads.fetch(_OFFER), asked.type or call.api.settings.default_datastore, asked.version,
        asked.version_number, inactive=True,
    )
    rules = [{**row, "rule": _decode(row["rule"])} for row in await call.api.reads.fetch(_RULES, version["id"])]
    names = version["manager"], version["datastore"], version["name"]
    values = _check(call, configuration_values.rules(rules), spec.values, *names)
    made = str(uuid.uuid4())
    row = {
        "id": made, "project": call.project, "name": spec.name, "description": spec.description,
        "version": version["id"], "values": values,
    }
    async with call.api.db.begin() as session:
        written = (await session.execute(_INSERT, row)).first()
    if written is None:
        raise bad_request(f"Datastore version '{version['name']}' cannot be found.")
    return reply({"configuration": _detail(await configuration_rows.load(call, made))})


@ROUTES.add("GET", "/configurations/{id}", rule="configuration:show", reply=documents.ConfigurationReply)
async def show_configuration(call: Call) -> Response:
    return reply({"configuration": _detail(await configuration_rows.load(call, call.part(1)))})


@ROUTES.add(
    "GET", "/configurations/{id}/instances", rule="configuration:instances", reply=documents.ConfiguredInstances,
    paged=True,
)
async def list_instances_of_configuration(call: Call) -> Response:
    limit, group = call.limit(), call.part(1)
    rows = await configuration_rows.instances(call, group, limit, call.marker())
    more = _more(call, "instances", f"configurations/{group}/instances", rows, limit)
    return reply({"instances": [{"id": row["id"], "name": row["name"]} for row in rows[:limit]], **more})


@ROUTES.add(
    "PATCH", "/configurations/{id}", rule="configuration:edit", body=MergeConfiguration, status=200, errors=(422,),
)
async def edit_configuration(call: Call) -> Response:
    """Values that are given are put beside, or in the place of, those that are there. They go to every instance that
    has the group, by an operation for each."""
    spec = (await call.body(MergeConfiguration)).configuration
    row = await configuration_rows.load(call, call.part(1), rules=True)
    values = {"id": row["id"], "values": _check_stored(call, row, spec.values)}
    await _write(call, row, _MERGE, values, apply=bool(spec.values))
    return empty(200)


@ROUTES.add("PUT", "/configurations/{id}", rule="configuration:update", body=ChangeConfiguration, status=202,
            errors=(422,))
async def update_configuration(call: Call) -> Response:
    """`values` takes the place of all that are there; what is not given stays as it is. The values go to every instance
    that has the group, by an operation for each."""
    spec = (await call.body(ChangeConfiguration)).configuration
    row = await configuration_rows.load(call, call.part(1), rules=True)
    await _write(call, row, _CHANGE, {
        "id": row["id"], "name": spec.name, "describe": "description" in spec.model_fields_set,
        "description": spec.description, "values": _new_values(call, row, spec),
    }, apply=spec.values is not None)
    return empty()


@ROUTES.add("DELETE", "/configurations/{id}", rule="configuration:delete", status=202)
async def delete_configuration(call: Call) -> Response:
    """400 while an instance has it."""
    row = await configuration_rows.load(call, call.part(1))
    own = {"id": row["id"]}
    async with call.api.db.begin() as session:
        if (await session.execute(_LOCK, own)).first() is None:
            raise configuration_rows.missing(row["id"])
        if (await session.execute(_USED, own)).scalar_one():
            raise bad_request(
                "A configuration group cannot be deleted if it is associated with one or more non-terminated "
                "instances. Detach the configuration group from all non-terminated instances and please try again.",
            )
        await session.execute(_DELETE, own)
    return empty()


async def _write(call: Call, row: asyncpg.Record, statement: Any, values: dict[str, Any], *, apply: bool) -> None:
    """`apply`: and have every instance that has the group take on what it says now."""
    async with call.api.db.begin() as session:
        if (await session.execute(statement, values)).first() is None:
            raise configuration_rows.missing(row["id"])
        filed = await instance_configuration.apply_to_all(call, session, row["id"]) if apply else []
    for instance, operation in filed:
        await call.api.wakes.wake(instance, operation)


def _new_values(call: Call, row: asyncpg.Record, spec: ConfigurationChange) -> str | None:
    return None if spec.values is None else _check_stored(call, row, spec.values)


def _check_stored(call: Call, row: asyncpg.Record, given: Mapping[str, Any]) -> str:
    rules = configuration_values.rules(_decode(row["rules"]))
    return _check(call, rules, given, row["manager"], row["datastore"], row["version"])


def _check(
    call: Call, rules: Sequence[Parameter], given: Mapping[str, Any], manager: str, datastore: str, version: str,
) -> str:
    """The values as they are stored."""
    spec = call.api.specs.get(manager)
    units = spec.units if spec is not None else {}
    return msgspec.json.encode(configuration_values.check(rules, given, datastore, version, units)).decode()


def _more(call: Call, collection: str, path: str, rows: Sequence[asyncpg.Record], limit: int) -> dict[str, Any]:
    return call.next_links(collection, path, limit, rows[limit - 1]["id"]) if len(rows) > limit else {}


def _item(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "created": views.time(row["created_at"]),
        "updated": views.time(row["updated_at"]),
        "datastore_version_id": row["version_id"],
        "datastore_name": row["datastore"],
        "datastore_version_name": row["version"],
        "datastore_version_number": row["number"],
        "instance_count": row["instance_count"],
        "project_id": row["project_id"],
    }


def _detail(row: asyncpg.Record) -> dict[str, Any]:
    return {**_item(row), "values": numbers(_decode(row["values"]))}
