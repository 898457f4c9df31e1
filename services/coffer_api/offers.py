"""What there is to choose from: datastores with their versions, and flavors.

Others than administrators see versions in use only, and datastores that have one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import asyncpg
import msgspec
from starlette.responses import Response

from coffer_api import documents, tenant_networks, views
from coffer_api.call import Call, Routes, reply
from coffer_api.instance_rows import UUID
from coffer_api.problems import bad_request, not_found
from coffer_api.views import Links

ROUTES = Routes("datastores")
FLAVORS = Routes("flavors")
_VERSIONS = """
    SELECT d.id AS datastore_id, d.name AS datastore, d.default_version_id, v.id, v.name, v.version, v.active,
           v.traits::text AS traits
    FROM datastores d LEFT JOIN datastore_versions v ON v.datastore_id = d.id AND (v.active OR $1)
    WHERE v.id IS NOT NULL OR $1
    ORDER BY d.name, v.name, v.version
"""
_FLAVORS = "SELECT id, name, ram_mb, vcpus, disk_gib, ephemeral_gib FROM flavors ORDER BY ram_mb, vcpus, id"
_FLAVOR = "SELECT id, name, ram_mb, vcpus, disk_gib, ephemeral_gib FROM flavors WHERE id = $1"
_FLAVORS_OF = """
    SELECT f.id, f.name, f.ram_mb, f.vcpus, f.disk_gib, f.ephemeral_gib FROM flavors f
    WHERE NOT EXISTS (SELECT FROM version_flavors a WHERE a.version_id = $1)
       OR EXISTS (SELECT FROM version_flavors a WHERE a.version_id = $1 AND a.flavor_id = f.id)
    ORDER BY f.ram_mb, f.vcpus, f.id
"""
_VOLUME_TYPES_OF = "SELECT volume_type FROM version_volume_types WHERE version_id = $1 ORDER BY volume_type"


@ROUTES.add("GET", "/datastores", rule="datastore:index", reply=documents.Datastores)
async def list_datastores(call: Call) -> Response:
    rows, links = await _versions(call), Links(call)
    groups = [list(group) for _, group in groupby(rows, lambda row: row["datastore_id"])]
    return reply({"datastores": [_datastore(call, links, group) for group in groups]})


@ROUTES.add(
    "GET", "/datastores/versions/{version}", rule="datastore:version_show_by_uuid", reply=documents.VersionReply,
)
async def show_version_by_id(call: Call) -> Response:
    wanted = call.part(2)
    for row in await _versions(call):
        if row["id"] == wanted.lower():
            return reply({"version": _version(call, Links(call), row)})
    raise bad_request(f"Datastore version '{wanted[:255]}' cannot be found.")


@ROUTES.add("GET", "/datastores/{datastore}", rule="datastore:show", reply=documents.DatastoreReply)
async def show_datastore(call: Call) -> Response:
    """By name or id, as for the versions below."""
    return reply({"datastore": _datastore(call, Links(call), await _of_datastore(call))})


@ROUTES.add("GET", "/datastores/{datastore}/versions", rule="datastore:version_index", reply=documents.Versions)
async def list_versions(call: Call) -> Response:
    links = Links(call)
    return reply({"versions": [_version(call, links, row) for row in await _of_datastore(call) if row["id"]]})


@ROUTES.add(
    "GET", "/datastores/{datastore}/versions/{version}", rule="datastore:version_show", reply=documents.VersionReply,
)
async def show_version(call: Call) -> Response:
    return reply({"version": _version(call, Links(call), await _one_version(call))})


@ROUTES.add(
    "GET", "/datastores/{datastore}/versions/{version}/flavors", rule="datastore:list_associated_flavors",
    reply=documents.Flavors, errors=(501,),
)
async def list_flavors_of_version(call: Call) -> Response:
    """Every flavor, where the version is not tied to some of them."""
    rows = await tenant_networks.seen_flavors(
        call, await call.api.reads.fetch(_FLAVORS_OF, (await _one_version(call))["id"]),
    )
    links = Links(call)
    return reply({"flavors": [views.flavor(links, row) for row in rows]})


@ROUTES.add(
    "GET", "/datastores/{datastore}/versions/{version}/volume-types", rule="datastore:list_associated_volume_types",
    reply=documents.VolumeTypes,
)
async def list_volume_types_of_version(call: Call) -> Response:
    """Those that the version is tied to. Without any there is one kind of volume, which needs no name."""
    rows = await call.api.reads.fetch(_VOLUME_TYPES_OF, (await _one_version(call))["id"])
    names = [row["volume_type"] for row in rows]
    found = [{"id": name, "name": name, "is_public": True, "description": None} for name in names]
    return reply({"volume_types": found})


@FLAVORS.add("GET", "/flavors", rule="flavor:index", reply=documents.Flavors, errors=(501,))
async def list_flavors(call: Call) -> Response:
    """Those that the caller may use."""
    rows, links = await tenant_networks.seen_flavors(call, await call.api.reads.fetch(_FLAVORS)), Links(call)
    return reply({"flavors": [views.flavor(links, row) for row in rows]})


@FLAVORS.add("GET", "/flavors/{id}", rule="flavor:show", reply=documents.FlavorReply, errors=(501,))
async def show_flavor(call: Call) -> Response:
    row = await call.api.reads.one(_FLAVOR, call.part(1))
    if row is None or not await tenant_networks.sees_flavor(call, row["id"]):
        raise not_found(f"Flavor {call.part(1)[:255]} cannot be found.")
    return reply({"flavor": views.flavor(Links(call), row)})


async def _versions(call: Call) -> list[asyncpg.Record]:
    """Of all datastores, in the order of their names. For administrators those out of use too, and a row without a
    version for a datastore that has none."""
    return await call.api.reads.fetch(_VERSIONS, call.identity.admin)


async def _of_datastore(call: Call) -> list[asyncpg.Record]:
    wanted = call.part(1)
    rows = [row for row in await _versions(call) if wanted in {row["datastore"], row["datastore_id"]}]
    if not rows:
        raise not_found(f"Datastore '{wanted[:255]}' cannot be found.")
    return rows


async def _one_version(call: Call) -> asyncpg.Record:
    """By id, or by a name that no other version of the datastore has."""
    wanted = call.part(3)
    rows = [row for row in await _of_datastore(call) if row["id"]]
    found = [row for row in rows if row["id"] == wanted.lower()] or [row for row in rows if row["name"] == wanted]
    if not found and UUID.fullmatch(wanted):
        raise not_found(f"Datastore version '{wanted}' cannot be found.")
    if not found:
        raise bad_request(f"Datastore version '{wanted[:255]}' cannot be found.")
    if len(found) > 1:
        raise bad_request(f"Several datastore versions are named '{wanted[:255]}'; use the id of one.")
    return found[0]


def _datastore(call: Call, links: Links, rows: Sequence[asyncpg.Record]) -> dict[str, Any]:
    first = rows[0]
    found: dict[str, Any] = {
        "id": first["datastore_id"],
        "name": first["datastore"],
        "links": links.to("datastores", first["datastore_id"]),
        "versions": [_version(call, links, row, embedded=True) for row in rows if row["id"]],
    }
    if first["default_version_id"] and any(row["id"] == first["default_version_id"] for row in rows):
        found["default_version"] = first["default_version_id"]
    return found


def _version(call: Call, links: Links, row: asyncpg.Record, *, embedded: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "version": row["version"],
        "links": links.to("datastores/versions", row["id"]),
    }
    if not embedded:
        found["datastore"] = row["datastore_id"]
    if call.identity.admin:
        traits = msgspec.json.decode(row["traits"])
        found |= {
            "active": row["active"], "packages": ",".join(traits.get("packages") or ()) or None,
            "image": traits.get("image"), "registry_ext": traits.get("registry_ext"),
            "repl_strategy": traits.get("repl_strategy"), "image_tags": traits.get("image_tags") or [],
        }
    return found
