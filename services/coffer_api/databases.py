"""The databases inside an instance."""

from __future__ import annotations

from starlette.responses import Response

from coffer_api import bodies, documents, instance_rows, names
from coffer_api.call import Call, Routes, empty, reply
from coffer_api.filing import Words, changed, need_serving
from coffer_api.problems import Problem
from coffer_shared.commands import CreateDatabases, DatabaseFound, DropDatabase
from coffer_shared.datastore import Feature

ROUTES = Routes("databases")
_PATH = "/instances/{id}/databases"
_REFUSED = (409, 422)
"""Cancelled; the database does not serve, or its datastore does not do this."""


@ROUTES.add(
    "GET", _PATH, rule="instance:extension:database:index", reply=documents.Databases, paged=True, errors=(422,),
)
async def list_databases(call: Call) -> Response:
    row = await instance_rows.load(call)
    spec = instance_rows.spec_of(call, row, Feature.DATABASES)
    limit, marker = call.limit(), call.marker()
    need_serving(call, row)
    found: list[DatabaseFound] = await call.api.guests.query(row["id"], "databases")
    shown = sorted(item.name for item in found if item.name not in spec.reserved_databases)
    after = None if marker is None else names.marker(marker, shown)
    rest = [name for name in shown if after is None or name > after]
    more = call.next_links("databases", f"instances/{row['id']}/databases", limit, rest[limit - 1]) \
        if len(rest) > limit else {}
    return reply({"databases": [{"name": name} for name in rest[:limit]], **more})


@ROUTES.add(
    "POST", _PATH, rule="instance:extension:database:create", body=bodies.CreateDatabases, status=202,
    errors=_REFUSED,
)
async def create_databases(call: Call) -> Response:
    """Answered when they exist, or after the time that answers wait."""
    row = await instance_rows.load(call)
    spec = instance_rows.spec_of(call, row, Feature.DATABASES)
    given = names.databases(spec, (await call.body(bodies.CreateDatabases)).databases)
    need_serving(call, row)
    if not given:
        return empty()
    return await changed(call, row, "create_databases", CreateDatabases(given))


@ROUTES.add("GET", _PATH + "/{name}", rule="instance:extension:database:index", status=501)
async def show_database(_call: Call) -> Response:
    """Not in the Trove API either."""
    raise Problem(501, "Showing one database is not implemented.")


@ROUTES.add("DELETE", _PATH + "/{name}", rule="instance:extension:database:delete", status=202, errors=_REFUSED)
async def delete_database(call: Call) -> Response:
    row = await instance_rows.load(call)
    spec = instance_rows.spec_of(call, row, Feature.DATABASES)
    name = names.database(spec, call.part(3))
    need_serving(call, row)
    words = Words(missing=f"Database {name} cannot be found on the instance.")
    return await changed(call, row, "drop_database", DropDatabase(name), words=words)
