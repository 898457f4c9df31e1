"""The engine's superuser, which a tenant may switch on and off."""

from __future__ import annotations

import secrets
import string

from starlette.responses import Response

from coffer_api import bodies, documents, instance_rows
from coffer_api.call import Call, Routes, reply
from coffer_api.filing import HEADER, change, changed, need_serving
from coffer_api.problems import RETRY, Problem, not_found
from coffer_db import operations
from coffer_shared.commands import DisableRoot, EnableRoot, RootState
from coffer_shared.datastore import Feature

ROUTES = Routes("root")
_PATH = "/instances/{id}/root"
_ALPHABET = string.ascii_letters + string.digits
PASSWORD_LENGTH = 36


@ROUTES.add("GET", _PATH, rule="instance:extension:root:index", reply=documents.RootStateReply, errors=(422,))
async def show_root(call: Call) -> Response:
    row = await instance_rows.load(call)
    instance_rows.spec_of(call, row, Feature.ROOT)
    need_serving(call, row)
    state: RootState = await call.api.guests.query(row["id"], "root")
    return reply({"rootEnabled": state.enabled})


@ROUTES.add("POST", _PATH, rule="instance:extension:root:create", body=bodies.EnableRoot, body_required=False,
            reply=documents.UserReply, errors=(409, 422))
async def enable_root(call: Call) -> Response:
    """With the password given, or one that is generated. 503 when the end is not known in time: it is then taken back
    where that is still possible, and asking again is safe."""
    row = await instance_rows.load(call)
    spec = instance_rows.spec_of(call, row, Feature.ROOT)
    body = await call.body(bodies.EnableRoot) if await call.json() is not None else bodies.EnableRoot()
    password = body.password or "".join(secrets.choice(_ALPHABET) for _ in range(PASSWORD_LENGTH))
    need_serving(call, row)
    operation, done = await change(call, row, "enable_root", EnableRoot(password), names={})
    if not done:
        async with call.api.db.begin() as session:
            await operations.request_cancel(session, operation)
        raise Problem(503, "Root could not be enabled in time; try again.", {HEADER: operation, RETRY: "5"})
    return reply({"user": {"name": spec.root_user, "password": password}}, headers={HEADER: operation})


@ROUTES.add("DELETE", _PATH, rule="instance:extension:root:delete", status=204, errors=(409, 422))
async def disable_root(call: Call) -> Response:
    row = await instance_rows.load(call)
    instance_rows.spec_of(call, row, Feature.ROOT)
    if row["root_enabled_at"] is None:
        raise not_found("Root user has never been enabled on the instance.")
    need_serving(call, row)
    return await changed(call, row, "disable_root", DisableRoot(), status=204)
