"""Which version an instance is to be upgraded to, and whether it may be."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from coffer_api import filing, instance_configuration, versions
from coffer_api.call import Call
from coffer_api.identity import allowed
from coffer_api.problems import bad_request, not_found, not_in_this_release
from coffer_db import operations

WITHIN = timedelta(minutes=30)
_OFFER = """
    SELECT d.name AS datastore, d.id AS datastore_id, d.default_version_id, v.id, v.name, v.version, v.manager,
           v.active, v.image, v.image_digest
    FROM datastores d JOIN datastore_versions v ON v.datastore_id = d.id
"""


async def choose(call: Call, row: asyncpg.Record, given: Any) -> asyncpg.Record | None:
    """By name or id, of the datastore that the instance has; None if it has that version already."""
    allowed(call.request, "instance:update")
    if not isinstance(given, str) or not given:
        raise bad_request("Validation error: instance['datastore_version'] must be the name or id of a version.")
    offer = await call.api.reads.fetch(_OFFER)
    if any(version["id"] == given.lower() and version["datastore"] != row["datastore"] for version in offer):
        raise not_found(f"Datastore version '{given}' cannot be found.")
    version = versions.choose(offer, row["datastore"], given)
    if version["id"] == row["version_id"]:
        return None
    _need_way(call, row, version)
    filing.need_action(call, row)
    return version


async def file(call: Call, session: AsyncSession, row: asyncpg.Record, version: asyncpg.Record) -> str:
    group = await instance_configuration.attached(session, row["id"])
    if group is not None:
        raise bad_request(f"Configuration group {group} is for the version that the instance has. Detach it first.")
    args = {"version": version["id"], "former": row["version_id"]}
    wanted = filing.new(call, row, "upgrade_instance", within=WITHIN, lifecycle=True, args=args)
    return await operations.file(session, wanted, None)


def _need_way(call: Call, row: asyncpg.Record, version: asyncpg.Record) -> None:
    """From what the instance has to that version, over the same files."""
    called = f"{row['datastore']} {row['number']} to {version['version']}"
    had, wanted = _numbers(row["number"]), _numbers(version["version"])
    if version["manager"] != row["manager"]:
        raise bad_request(f"An upgrade from {called} is to another engine.")
    if wanted < had:
        raise bad_request(f"An upgrade from {called} would be to an earlier version, which cannot read the data.")
    spec = call.api.specs.get(row["manager"])
    kept = spec.upgrades_within if spec is not None else 0
    if wanted[:kept] != had[:kept]:
        raise not_in_this_release(f"An upgrade from {called}, which has to convert the data,")
    if not version["image_digest"]:
        raise bad_request(f"No digest is recorded for the image {version['image']} of that version.")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]
