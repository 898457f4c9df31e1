"""The users inside an instance, and the databases that they may use."""

from __future__ import annotations

from typing import Any

import asyncpg
from starlette.responses import Response

from coffer_api import bodies, documents, instance_rows, names
from coffer_api.call import Call, Routes, empty, reply
from coffer_api.filing import Words, changed, need_serving
from coffer_api.problems import bad_request, not_found
from coffer_shared import commands
from coffer_shared.commands import UserArgs, UserFound, UserName
from coffer_shared.datastore import Datastore, Feature
from coffer_shared.errors import Refused
from coffer_shared.messages import Failure

ROUTES = Routes("users")
_PATH = "/instances/{id}/users"
_REFUSED = (409, 422)
"""Cancelled; the database does not serve, or its datastore does not do this."""
_ONE = _PATH + "/{user}"
_ACCESS = _ONE + "/databases"


@ROUTES.add("GET", _PATH, rule="instance:extension:user:index", reply=documents.Users, paged=True, errors=(422,))
async def list_users(call: Call) -> Response:
    row, spec = await _instance(call)
    limit, marker = call.limit(), call.marker()
    need_serving(call, row)
    found: list[UserFound] = await call.api.guests.query(row["id"], "users")
    rest = sorted((item for item in found if item.name not in spec.reserved_users), key=_order)
    after = None if marker is None else names.split(spec, names.marker(marker, map(_marker, rest)))
    rest = [item for item in rest if after is None or _order(item) > after]
    more: dict[str, Any] = {}
    if len(rest) > limit:
        more = call.next_links("users", f"instances/{row['id']}/users", limit, _marker(rest[limit - 1]))
    return reply({"users": [_view(item) for item in rest[:limit]], **more})


@ROUTES.add("POST", _PATH, rule="instance:extension:user:create", body=bodies.CreateUsers, status=202, errors=_REFUSED)
async def create_users(call: Call) -> Response:
    """Answered when they exist, or after the time that answers wait. All of them are created or none."""
    row, spec = await _instance(call)
    return await _create(call, row, spec, (await call.body(bodies.CreateUsers)).users)


@ROUTES.add(
    "POST", _ONE, rule="instance:extension:user:create", body=bodies.CreateUser, status=202, errors=_REFUSED,
    extension=True,
)
async def create_user(call: Call) -> Response:
    """As `create_users`, for one, whose name is in the path, too."""
    row, spec = await _instance(call)
    given = (await call.body(bodies.CreateUser)).users
    if names.split(spec, call.part(3))[0] != given.name:
        raise bad_request("Validation error: users['name'] is another name than the one in the path.")
    return await _create(call, row, spec, [given])


@ROUTES.add(
    "PUT", _PATH, rule="instance:extension:user:update_all", body=bodies.SetPasswords, status=202, errors=_REFUSED,
)
async def set_passwords(call: Call) -> Response:
    """All of them are changed or none."""
    row, spec = await _instance(call)
    body = await call.body(bodies.SetPasswords)
    given = [UserArgs(names.user(spec, u.name), u.password, names.host(spec, u.host)) for u in body.users]
    need_serving(call, row)
    shown = {"names": [item.name for item in given]}
    return await changed(call, row, "set_passwords", commands.SetPasswords(given), names=shown)


@ROUTES.add("GET", _ONE, rule="instance:extension:user:show", reply=documents.UserReply, errors=(422,))
async def show_user(call: Call) -> Response:
    return reply({"user": _view(await _found(call))})


@ROUTES.add("PUT", _ONE, rule="instance:extension:user:update", body=bodies.ChangeUser, status=202, errors=_REFUSED)
async def change_user(call: Call) -> Response:
    row, spec = await _instance(call)
    name, host = _user(call, spec)
    wanted = (await call.body(bodies.ChangeUser)).user
    need_serving(call, row)
    args = commands.ChangeUser(
        name=name, host=host,
        new_name=None if wanted.name is None else names.user(spec, wanted.name),
        new_host=None if wanted.host is None or not spec.has_hosts else wanted.host,
        password=wanted.password,
    )
    words = Words(missing=_missing(name), exists=f"User {wanted.name or name} already exists.")
    return await changed(call, row, "change_user", args, names={"name": name, "host": host}, words=words)


@ROUTES.add("DELETE", _ONE, rule="instance:extension:user:delete", status=202, errors=_REFUSED)
async def delete_user(call: Call) -> Response:
    row, spec = await _instance(call)
    name, host = _user(call, spec)
    need_serving(call, row)
    return await changed(call, row, "drop_user", commands.DropUser(name, host), words=Words(missing=_missing(name)))


@ROUTES.add("GET", _ACCESS, rule="instance:extension:user_access:index", reply=documents.Databases, errors=(422,))
async def list_user_access(call: Call) -> Response:
    return reply({"databases": _view(await _found(call))["databases"]})


@ROUTES.add(
    "PUT", _ACCESS, rule="instance:extension:user_access:update", body=bodies.GrantAccess, status=202,
    errors=_REFUSED,
)
async def grant_user_access(call: Call) -> Response:
    """Adds to what the user may use already."""
    row, spec = await _instance(call)
    name, host = _user(call, spec)
    body = await call.body(bodies.GrantAccess)
    given = list(dict.fromkeys(names.database(spec, item.name) for item in body.databases))
    need_serving(call, row)
    if not given:
        return empty()
    return await changed(call, row, "grant", commands.Grant(name, given, host))


@ROUTES.add("DELETE", _ACCESS + "/{name}", rule="instance:extension:user_access:delete", status=202, errors=_REFUSED)
async def revoke_user_access(call: Call) -> Response:
    row, spec = await _instance(call)
    name, host = _user(call, spec)
    database = names.database(spec, call.part(5))
    need_serving(call, row)
    words = Words(missing=f"User {name} has no access to database {database}.")
    return await changed(call, row, "revoke", commands.Revoke(name, database, host), words=words)


async def _create(call: Call, row: asyncpg.Record, spec: Datastore, wanted: list[bodies.UserSpec]) -> Response:
    given = names.users(spec, wanted)
    need_serving(call, row)
    if not given:
        return empty()
    shown = {"names": [item.name for item in given]}
    return await changed(call, row, "create_users", commands.CreateUsers(given), names=shown)


async def _instance(call: Call) -> tuple[asyncpg.Record, Datastore]:
    row = await instance_rows.load(call)
    return row, instance_rows.spec_of(call, row, Feature.USERS)


def _user(call: Call, spec: Datastore) -> tuple[str, str]:
    name, host = names.split(spec, call.part(3))
    return names.user(spec, name), host


async def _found(call: Call) -> UserFound:
    row, spec = await _instance(call)
    name, host = _user(call, spec)
    need_serving(call, row)
    try:
        found: UserFound = await call.api.guests.query(row["id"], "user", UserName(name, host))
    except Refused as refused:
        if refused.code == Failure.NOT_FOUND:
            raise not_found(_missing(name)) from None
        raise
    return found


def _missing(name: str) -> str:
    return f"User {name} cannot be found on the instance."


def _order(user: UserFound) -> tuple[str, str]:
    return user.name, user.host


def _marker(user: UserFound) -> str:
    return f"{user.name}@{user.host}"


def _view(user: UserFound) -> dict[str, Any]:
    return {"name": user.name, "host": user.host, "databases": [{"name": name} for name in user.databases]}
