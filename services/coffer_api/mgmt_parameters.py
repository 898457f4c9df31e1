"""The parameters of a datastore version as administrators manage them: under other names for the ends of a range."""

from __future__ import annotations

from typing import Any

import asyncpg
import msgspec
from sqlalchemy import text
from starlette.responses import Response

from coffer_api import configuration_documents as documents
from coffer_api import parameters
from coffer_api.call import Call, Routes, empty, reply
from coffer_api.configuration_bodies import ParameterSpec, SetParameter
from coffer_api.identity import MANAGEMENT
from coffer_api.problems import bad_request
from coffer_shared.parameters import numbers

ROUTES = Routes("management")
_PATH = "/mgmt/datastores/versions/{version}/parameters"
_ENDS = (("min", "min_size"), ("max", "max_size"))
_INSERT = text("""
    INSERT INTO configuration_parameters (version_id, name, data_type, restart_required, rule)
    SELECT v.id, :name, :type, :restart, CAST(:ends AS jsonb)
    FROM (SELECT id FROM datastore_versions WHERE id = :version FOR KEY SHARE) v
    ON CONFLICT DO NOTHING RETURNING name
""")
# what the body cannot say of a parameter holds only for the type that it had
_UPDATE = text("""
    UPDATE configuration_parameters
    SET data_type = CAST(:type AS text), restart_required = :restart,
        rule = CASE WHEN data_type = CAST(:type AS text) THEN rule - 'min' - 'max' ELSE '{}' END || CAST(:ends AS jsonb)
    WHERE version_id = :version AND lower(name) = lower(:name) RETURNING name
""")
_DELETE = text("""
    DELETE FROM configuration_parameters WHERE version_id = :version AND lower(name) = lower(:name) RETURNING name
""")


@ROUTES.add("GET", _PATH, rule=MANAGEMENT, reply=documents.ManagedParameters)
async def list_managed_parameters(call: Call) -> Response:
    rows = await parameters.of_version(call, call.part(3))
    return reply({parameters.KEY: [_stored(row) for row in rows]})


@ROUTES.add("POST", _PATH, rule=MANAGEMENT, body=SetParameter, reply=documents.ManagedParameter)
async def create_managed_parameter(call: Call) -> Response:
    """400 if there is one of that name, in whatever case."""
    version, spec = call.part(3).lower(), (await call.body(SetParameter)).parameter
    await parameters.of_version(call, version, spec.name)
    if await _write(call, _INSERT, version, spec) is None:
        raise bad_request(f"Configuration parameter {spec.name} already exists for datastore version {version}.")
    return reply(_view(spec.name, version, spec))


@ROUTES.add("GET", _PATH + "/{name}", rule=MANAGEMENT, reply=documents.ManagedParameter)
async def show_managed_parameter(call: Call) -> Response:
    rows = await parameters.of_version(call, call.part(3), call.part(5))
    if not rows:
        raise parameters.missing(call.part(5))
    return reply(_stored(rows[0]))


@ROUTES.add("PUT", _PATH + "/{name}", rule=MANAGEMENT, body=SetParameter, reply=documents.ManagedParameter)
async def update_managed_parameter(call: Call) -> Response:
    """Its name cannot be changed. Choices, unit and default stay while its type does."""
    version, name = call.part(3).lower(), call.part(5)
    spec = (await call.body(SetParameter)).parameter
    if spec.name.lower() != name.lower():
        raise bad_request("The name of a configuration parameter cannot be changed.")
    await parameters.of_version(call, version)
    written = await _write(call, _UPDATE, version, spec)
    if written is None:
        raise parameters.missing(name)
    return reply(_view(written, version, spec))


@ROUTES.add("DELETE", _PATH + "/{name}", rule=MANAGEMENT, status=204)
async def delete_managed_parameter(call: Call) -> Response:
    """400 if there is none. Groups that have a value for it keep it."""
    version, name = call.part(3).lower(), call.part(5)
    async with call.api.db.begin() as session:
        gone = (await session.execute(_DELETE, {"version": version, "name": name})).first()
    if gone is None:
        raise bad_request(f"Configuration parameter {name[:255]} could not be found.")
    return empty(204)


async def _write(call: Call, statement: Any, version: str, spec: ParameterSpec) -> str | None:
    """The name as it is registered; None if nothing was written."""
    values = {
        "version": version, "name": spec.name, "type": str(spec.data_type), "restart": spec.restart_required,
        "ends": msgspec.json.encode(spec.ends()).decode(),
    }
    async with call.api.db.begin() as session:
        row = (await session.execute(statement, values)).first()
    return None if row is None else str(row[0])


def _stored(row: asyncpg.Record) -> dict[str, Any]:
    rule = numbers(msgspec.json.decode(row["rule"]))
    return {
        "name": row["parameter"], "datastore_version_id": row["id"], "restart_required": row["restart_required"],
        "type": row["data_type"], **{shown: rule[end] for end, shown in _ENDS if end in rule},
    }


def _view(name: str, version: str, spec: ParameterSpec) -> dict[str, Any]:
    ends = spec.ends()
    return {
        "name": name, "datastore_version_id": version, "restart_required": spec.restart_required,
        "type": str(spec.data_type), **{shown: ends[end] for end, shown in _ENDS if end in ends},
    }
