"""What an instance is configured with: the defaults of its size, and the attaching that is of a later release."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from coffer_api import configuration_documents as documents
from coffer_api import configuration_rows
from coffer_api.call import Call, Routes, reply
from coffer_api.identity import allowed
from coffer_api.instance_rows import UUID
from coffer_api.problems import Problem, bad_request, not_found, not_in_this_release
from coffer_shared.datastore import Sizes

ROUTES = Routes("configurations")
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


async def refuse(call: Call, version: str, given: Any) -> None:
    """What is answered to the wish for a configuration group on an instance of this datastore version; null and the
    empty text wish for none."""
    if given is None or given == "":
        return
    allowed(call.request, "instance:update")
    if not isinstance(given, str):
        raise bad_request("Validation error: instance['configuration'] must be the id of a configuration group.")
    wanted = given.rstrip("/").rsplit("/", 1)[-1]  # by id or by address
    group = await configuration_rows.find(call, wanted)
    if group is None:
        raise not_found(f"Configuration group id: {wanted[:255]} could not be found.")
    if group["version_id"] != version:
        raise bad_request(
            f"Datastore Version on Configuration Group {group['version_id']} does not match the Datastore Version on "
            f"Instance {version}.",
        )
    raise not_in_this_release("Attaching a configuration group to an instance")
