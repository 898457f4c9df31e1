"""The parameters that a datastore version lets tenants choose, by the names or ids of both."""

from __future__ import annotations

from typing import Any

import asyncpg
import msgspec
from starlette.responses import Response

from coffer_api import configuration_documents as documents
from coffer_api import versions
from coffer_api.call import Call, Routes, reply
from coffer_api.instance_rows import UUID
from coffer_api.problems import Problem, bad_request, not_found
from coffer_shared.parameters import numbers

ROUTES = Routes("configurations")
KEY = "configuration-parameters"
_OF_VERSION = """
    SELECT v.id, p.name AS parameter, p.data_type, p.restart_required, p.rule::text AS rule
    FROM datastore_versions v
    LEFT JOIN configuration_parameters p ON p.version_id = v.id AND ($2::text IS NULL OR lower(p.name) = lower($2))
    WHERE v.id = $1 ORDER BY lower(p.name)
"""
_OF_DATASTORE = """
    SELECT d.name AS datastore, d.id AS datastore_id, d.default_version_id, v.id, v.name, v.version, v.active,
           p.name AS parameter, p.data_type, p.restart_required, p.rule::text AS rule
    FROM datastores d JOIN datastore_versions v ON v.datastore_id = d.id
    LEFT JOIN configuration_parameters p
        ON p.version_id = v.id AND (v.id = lower($2) OR v.name = $2) AND ($3::text IS NULL OR lower(p.name) = lower($3))
    WHERE $1 IN (d.name, d.id) ORDER BY lower(p.name)
"""


@ROUTES.add(
    "GET", "/datastores/versions/{version}/parameters", rule="configuration-parameter:index_by_version",
    reply=documents.ConfigurationParameters,
)
async def list_parameters_of_version(call: Call) -> Response:
    return _list(await of_version(call, call.part(2)))


@ROUTES.add(
    "GET", "/datastores/versions/{version}/parameters/{name}", rule="configuration-parameter:show_by_version",
    reply=documents.ConfigurationParameter,
)
async def show_parameter_of_version(call: Call) -> Response:
    return _one(await of_version(call, call.part(2), call.part(4)), call.part(4))


@ROUTES.add(
    "GET", "/datastores/{datastore}/versions/{version}/parameters", rule="configuration-parameter:index",
    reply=documents.ConfigurationParameters,
)
async def list_parameters(call: Call) -> Response:
    return _list(await _of_datastore(call, None))


@ROUTES.add(
    "GET", "/datastores/{datastore}/versions/{version}/parameters/{name}", rule="configuration-parameter:show",
    reply=documents.ConfigurationParameter,
)
async def show_parameter(call: Call) -> Response:
    return _one(await _of_datastore(call, call.part(5)), call.part(5))


async def of_version(call: Call, version: str, name: str | None = None) -> list[asyncpg.Record]:
    """Those of a version, or the one of that name, in whatever case. 400 if there is no such version."""
    rows = await call.api.reads.fetch(_OF_VERSION, version.lower(), name)
    if not rows:
        raise bad_request(f"Datastore version '{version[:255]}' cannot be found.")
    return [row for row in rows if row["parameter"] is not None]


def missing(name: str) -> Problem:
    return not_found(f"Configuration parameter {name[:255]} could not be found.")


async def _of_datastore(call: Call, name: str | None) -> list[asyncpg.Record]:
    datastore, version = call.part(1), call.part(3)
    rows = await call.api.reads.fetch(_OF_DATASTORE, datastore, version, name)
    if rows and UUID.fullmatch(version) and version.lower() not in {row["id"] for row in rows}:
        raise not_found(f"Datastore version '{version}' cannot be found.")
    first = {row["id"]: row for row in rows}
    chosen = versions.choose(list(first.values()), datastore, version, inactive=True)
    return [row for row in rows if row["id"] == chosen["id"] and row["parameter"] is not None]


def _list(rows: list[asyncpg.Record]) -> Response:
    return reply({KEY: [_view(row) for row in rows]})


def _one(rows: list[asyncpg.Record], name: str) -> Response:
    if not rows:
        raise missing(name)
    return reply(_view(rows[0]))


def _view(row: asyncpg.Record) -> dict[str, Any]:
    return {
        "name": row["parameter"], "datastore_version_id": row["id"], "restart_required": row["restart_required"],
        "type": row["data_type"], **numbers(msgspec.json.decode(row["rule"])),
    }
