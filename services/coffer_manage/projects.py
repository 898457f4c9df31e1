"""`coffer-manage flavor` and `quota`: sizes of machines, and how much of all a project may have."""

from __future__ import annotations

import argparse

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coffer_db import usage
from coffer_db.datastore_versions import OfferError, Why
from coffer_manage import nova_flavors
from coffer_manage.declaring import Subparsers, group, plain, table, verb

_FLAVORS = text("SELECT id, name, vcpus, ram_mb FROM flavors ORDER BY ram_mb, vcpus, id")
_ADD = text("""
    INSERT INTO flavors (id, name, vcpus, ram_mb, disk_gib, ephemeral_gib) VALUES (:id, :name, :vcpus, :ram, 0, 0)
    ON CONFLICT DO NOTHING RETURNING id
""")
_DELETE = text("DELETE FROM flavors WHERE id = :id RETURNING id")
_LEAST_RAM = 256


def declare(commands: Subparsers) -> None:
    flavors = group(commands, "flavor", "sizes of machines")
    adding = verb(flavors, "add", _add, "add one")
    adding.add_argument("id", type=plain, help="as clients give it; some of them take numbers only")
    adding.add_argument("name", type=plain)
    adding.add_argument("--vcpus", type=float, required=True, help="such as 0.5 or 4")
    adding.add_argument("--ram", type=int, required=True, help="MiB")
    verb(flavors, "list", _list, "list them")
    verb(flavors, "delete", _delete, "delete one that nothing uses").add_argument("id")

    nova_flavors.declare(flavors)

    quotas = group(commands, "quota", "how much a project may have")
    verb(quotas, "show", _show, "what it has and may have").add_argument("project")
    setting = verb(quotas, "set", _set, "limits of its own")
    setting.add_argument("project", type=plain)
    setting.add_argument(
        "limits", nargs="+", metavar="RESOURCE=LIMIT",
        help=f"{', '.join(usage.RESOURCES)} (ram in MiB, volumes in GiB); -1: no limit; default: as the settings say",
    )


async def _add(session: AsyncSession, given: argparse.Namespace) -> str:
    if not 0 < given.vcpus <= 1024 or not _LEAST_RAM <= given.ram <= usage.MOST:  # NaN is refused too
        raise OfferError(Why.INVALID, f"--vcpus is above 0 and at most 1024, --ram at least {_LEAST_RAM} (MiB).")
    if "/" in given.id:
        raise OfferError(Why.INVALID, "the id of a flavor cannot hold a slash.")
    values = {"id": given.id, "name": given.name, "vcpus": given.vcpus, "ram": given.ram}
    if (await session.execute(_ADD, values)).first() is None:
        raise OfferError(Why.EXISTS, f"A flavor with the id {given.id} or the name {given.name} is there already.")
    return f"Flavor {given.id} ({given.name}) is added.\n"


async def _list(session: AsyncSession, _given: argparse.Namespace) -> str:
    return table(("ID", "NAME", "VCPUS", "RAM"), (await session.execute(_FLAVORS)).all())


async def _delete(session: AsyncSession, given: argparse.Namespace) -> str:
    try:
        gone = (await session.execute(_DELETE, {"id": given.id})).first()
    except IntegrityError:
        raise OfferError(
            Why.IN_USE, f"Flavor '{given.id}' is in use: instances have it, or versions are tied to it "
            "('version flavor remove').",
        ) from None
    if gone is None:
        raise OfferError(Why.UNKNOWN, f"Flavor '{given.id}' cannot be found.")
    return f"Flavor {given.id} is deleted.\n"


async def _show(session: AsyncSession, given: argparse.Namespace) -> str:
    used = await usage.count(session, given.project)
    limits = {None: "default", usage.UNLIMITED: "none"}
    rows = [(u.resource, u.in_use, u.reserved, limits.get(u.limit, u.limit)) for u in used]
    return table(("RESOURCE", "IN USE", "RESERVED", "LIMIT"), rows)


async def _set(session: AsyncSession, given: argparse.Namespace) -> str:
    limits: dict[str, int | None] = {}
    for item in given.limits:
        resource, _, limit = item.partition("=")
        if resource not in usage.RESOURCES:
            raise OfferError(Why.UNKNOWN, f"'{resource}' has no quota; there are {', '.join(usage.RESOURCES)}.")
        limits[resource] = None if limit == "default" else _number(item, limit)
    await usage.set_limits(session, given.project, limits)
    return await _show(session, given)


def _number(item: str, given: str) -> int:
    try:
        number = int(given)
    except ValueError:
        number = usage.MOST + 1
    if not usage.UNLIMITED <= number <= usage.MOST:
        raise OfferError(Why.INVALID, f"'{item}' needs a number of at least -1, or 'default'.")
    return number
