"""Datastore versions as administrators register, change and delete them, and the deletion of datastores.

What a version runs is a container image, `repository:number` in the installation's registry: the repository is its
manager's, or the one in `registry_ext`. Guests pull it by digest. That is taken from another version with the same
image, or recorded with `coffer-manage`; until it is, no instance of the version can be created.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from coffer_api import mgmt_documents
from coffer_api.call import Call, Routes, empty, reply
from coffer_api.identity import MANAGEMENT
from coffer_api.mgmt_bodies import AddVersion, ChangeVersion
from coffer_api.problems import bad_request, not_found
from coffer_db import datastore_versions
from coffer_db.datastore_versions import NewVersion, OfferError, Why
from coffer_shared.datastore import Datastore

ROUTES = Routes("management")
_PATH = "/mgmt/datastore-versions"
_ONE = _PATH + "/{id}"
_SELECT = """
    SELECT v.id, v.name, v.version, v.datastore_id, d.name AS datastore, v.manager, v.active, v.image, v.image_digest,
           v.backup_image, v.backup_image_digest, v.traits::text AS traits,
           d.default_version_id IS NOT DISTINCT FROM v.id AS is_default
    FROM datastore_versions v JOIN datastores d ON d.id = v.datastore_id
"""
_LIST = _SELECT + "ORDER BY d.name, v.name, v.version"
_SHOW = _SELECT + "WHERE v.id = $1"
T = TypeVar("T")


@ROUTES.add("GET", _PATH, rule=MANAGEMENT, reply=mgmt_documents.ManagedVersions)
async def list_managed_versions(call: Call) -> Response:
    return reply({"versions": [_view(row) for row in await call.api.reads.fetch(_LIST)]})


@ROUTES.add("GET", _ONE, rule=MANAGEMENT, reply=mgmt_documents.ManagedVersionReply)
async def show_managed_version(call: Call) -> Response:
    row = await call.api.reads.one(_SHOW, call.part(2))
    if row is None:
        raise bad_request(f"Datastore version '{call.part(2)[:255]}' cannot be found.")
    return reply({"version": _view(row)})


@ROUTES.add("POST", _PATH, rule=MANAGEMENT, body=AddVersion, status=202)
async def add_version(call: Call) -> Response:
    """With its datastore, where that is new."""
    spec = (await call.body(AddVersion)).version
    if not spec.image and not spec.image_tags:
        raise bad_request("Image must be specified.")
    manager, number = _manager(call, spec.datastore_manager), spec.version or spec.name
    new = NewVersion(
        datastore=spec.datastore_name, name=spec.name, number=number, manager=manager.name,
        image=datastore_versions.image(manager, number, spec.registry_ext),
        backup_image=datastore_versions.backup_image(manager, number), active=spec.active, default=spec.default,
        traits=spec.traits(),
    )
    await _do(call, lambda session: datastore_versions.add(session, new))
    return empty()


@ROUTES.add("PATCH", _ONE, rule=MANAGEMENT, body=ChangeVersion, status=202)
async def change_version(call: Call) -> Response:
    """What is given. `image_tags` without `image` takes the image's place; `default`: false ends its being the default
    of its datastore."""
    given = await call.body(ChangeVersion)
    manager = None if given.datastore_manager is None else _manager(call, given.datastore_manager)
    version = call.part(2)

    async def change(session: AsyncSession) -> None:
        row = await datastore_versions.load(session, version)
        changes = _changes(call, row, given, manager)
        await datastore_versions.change(session, version, changes, default=given.default)

    await _do(call, change)
    return empty()


@ROUTES.add("DELETE", _ONE, rule=MANAGEMENT, status=202)
async def delete_version(call: Call) -> Response:
    """400 while an instance, a backup or a configuration uses it."""
    await _do(call, lambda session: datastore_versions.remove(session, call.part(2)))
    return empty()


@ROUTES.add("DELETE", "/datastores/{datastore}", rule="datastore:delete", status=202)
async def delete_datastore(call: Call) -> Response:
    """By name or id. 400 while it has versions."""
    try:
        async with call.api.db.begin() as session:
            await datastore_versions.remove_datastore(session, call.part(1))
    except OfferError as error:
        raise (not_found if error.code == Why.UNKNOWN else bad_request)(error.text) from None
    return empty()


async def _do(call: Call, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
    try:
        async with call.api.db.begin() as session:
            return await work(session)
    except OfferError as error:
        raise bad_request(error.text) from None


def _manager(call: Call, name: str) -> Datastore:
    found = call.api.specs.get(name)
    if found is None:
        known = ", ".join(sorted(call.api.specs))
        raise bad_request(f"Datastore manager '{name}' is not known to this release, which has: {known}.")
    return found


def _changes(call: Call, row: RowMapping, given: ChangeVersion, manager: Datastore | None) -> dict[str, Any]:
    """The columns. The image follows its manager and its repository; where neither is given, it stays."""
    changes: dict[str, Any] = {}
    if given.name is not None:
        changes["name"] = given.name
    if given.active is not None:
        changes["active"] = given.active
    recorded = given.traits()
    if recorded:
        cleared = {"image": None} if given.image_tags and given.image is None else {}
        changes["traits"] = {**row["traits"], **cleared, **recorded}
    if manager is not None and manager.name != row["manager"]:
        changes["manager"] = manager.name
        changes["backup_image"] = datastore_versions.backup_image(manager, row["version"])
    if "manager" in changes or given.registry_ext is not None:
        spec = manager or _manager(call, row["manager"])
        repository = given.registry_ext or row["traits"].get("registry_ext")
        changes["image"] = datastore_versions.image(spec, row["version"], repository)
    return changes


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    traits = msgspec.json.decode(row["traits"])
    return {
        "id": row["id"],
        "name": row["name"],
        "version": row["version"],
        "datastore_id": row["datastore_id"],
        "datastore_name": row["datastore"],
        "datastore_manager": row["manager"],
        "image": traits.get("image"),
        "image_tags": traits.get("image_tags") or [],
        "packages": traits.get("packages") or [],
        "active": row["active"],
        "registry_ext": traits.get("registry_ext"),
        "repl_strategy": traits.get("repl_strategy"),
        "default": row["is_default"],
        "container_image": row["image"],
        "container_digest": row["image_digest"] or None,
        "backup_image": row["backup_image"] or None,
        "backup_digest": row["backup_image_digest"] or None,
    }
