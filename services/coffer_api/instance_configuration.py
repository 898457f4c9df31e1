"""What an instance is configured with: the defaults of its size, and the group that is attached to it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from coffer_api import configuration_documents as documents
from coffer_api import configuration_rows, filing
from coffer_api.call import Call, Routes, reply
from coffer_api.identity import allowed
from coffer_api.instance_rows import UUID
from coffer_api.problems import Problem, bad_request, not_found
from coffer_db import operations
from coffer_db.operations import Busy, NewOperation
from coffer_shared.datastore import Sizes

ROUTES = Routes("configurations")
CONFIGURE_WITHIN = timedelta(minutes=10)
_MIB = 1024**2
_GIB = 1024**3
_SIZES = """
    SELECT i.project_id, i.volume_gib, f.ram_mb, f.vcpus, v.manager, d.name AS datastore
    FROM instances i
    JOIN flavors f ON f.id = i.flavor_id
    JOIN datastore_versions v ON v.id = i.datastore_version_id
    JOIN datastores d ON d.id = v.datastore_id
    WHERE i.id = $1 AND i.deleted_at IS NULL
"""
_HOLD = text("SELECT id FROM configurations WHERE id = :id AND deleted_at IS NULL FOR SHARE")
# no stronger: whoever files an operation of the instance refers to this row, and would be waited for
_FORMER = text("SELECT configuration_id FROM instances WHERE id = :id AND deleted_at IS NULL FOR NO KEY UPDATE")
_UPGRADING = text("""
    SELECT 1 FROM operations WHERE instance_id = :id AND kind = 'upgrade_instance'
    AND state IN ('pending', 'running', 'waiting', 'undoing')
""")
_ATTACH = text("UPDATE instances SET configuration_id = :group, updated_at = now() WHERE id = :id")
_ATTACHED = text("""
    SELECT id, project_id FROM instances WHERE configuration_id = :group AND deleted_at IS NULL
""")


@ROUTES.add(
    "GET", "/instances/{id}/configuration", rule="instance:configuration", reply=documents.InstanceDefaults,
    errors=(422,),
)
async def show_defaults_of_instance(call: Call) -> Response:
    """The settings that the instance has by its datastore and its size, whatever a configuration group adds."""
    wanted = call.part(1)
    row = await call.api.reads.one(_SIZES, wanted.lower()) if UUID.fullmatch(wanted) else None
    if row is None or (row["project_id"] != call.project and not call.identity.admin):
        raise not_found(f"Resource {wanted[:255]} cannot be found.")
    spec = call.api.specs.get(row["manager"])
    if spec is None or spec.defaults is None:
        raise Problem(422, f"Operation not supported for datastore {row['datastore']}.")
    sizes = Sizes(row["ram_mb"] * _MIB, row["vcpus"], row["volume_gib"] * _GIB)
    return reply({"instance": {"configuration": dict(sorted(spec.defaults(sizes).items()))}})


async def choose(call: Call, version: str, given: Any) -> str | None:
    """The configuration group that is wished for on an instance of this datastore version; null and the empty text wish
    for none."""
    if given is None or given == "":
        return None
    allowed(call.request, "instance:update")
    if not isinstance(given, str):
        raise bad_request("Validation error: instance['configuration'] must be the id of a configuration group.")
    wanted = given.rstrip("/").rsplit("/", 1)[-1]  # by id or by address
    group = await configuration_rows.find(call, wanted)
    if group is None:
        raise _missing(wanted)
    if group["version_id"] != version:
        raise bad_request(
            f"Datastore Version on Configuration Group {group['version_id']} does not match the Datastore Version on "
            f"Instance {version}.",
        )
    return str(group["id"])


async def hold(session: AsyncSession, group: str) -> None:
    """Lock it against deletion and change until the transaction ends; from then on the instance that has it stands in
    the way of the one, and is found by the other."""
    if (await session.execute(_HOLD, {"id": group})).first() is None:
        raise _missing(group)


async def attached(session: AsyncSession, instance: str) -> str | None:
    """The group that it has. Nobody attaches another before the transaction ends."""
    found: str | None = (await session.execute(_FORMER, {"id": instance})).scalar_one_or_none()
    return found


async def attach(call: Call, session: AsyncSession, row: asyncpg.Record, group: str | None) -> str | None:
    """In place of what the instance has, or nothing in its place: the operation that brings it to the database. None if
    it has that one already. Busy while the instance is upgraded."""
    if group is not None:
        await hold(session, group)
    former = await attached(session, row["id"])
    if former == group:
        return None
    if (await session.execute(_UPGRADING, {"id": row["id"]})).first() is not None:
        raise Busy("upgrade_instance")  # the group is for the version that it is about to leave
    await session.execute(_ATTACH, {"id": row["id"], "group": group})
    return await operations.file(
        session, _new(call, row, {"configuration": group, "former": former}), None,
    )


async def apply_to_all(call: Call, session: AsyncSession, group: str) -> list[tuple[str, str]]:
    """The instance and the operation of each to which the new values of the group go."""
    rows = (await session.execute(_ATTACHED, {"group": group})).mappings()
    return await operations.file_for_each(session, [_new(call, row, {"configuration": group}) for row in rows])


def _new(call: Call, row: Mapping[str, Any] | asyncpg.Record, args: dict[str, Any]) -> NewOperation:
    return filing.new(call, row, "configure_instance", within=CONFIGURE_WITHIN, lifecycle=False, args=args)


def _missing(group: str) -> Problem:
    return not_found(f"Configuration group id: {group[:255]} could not be found.")
