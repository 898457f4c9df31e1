"""`coffer-manage flavor sync`: the flavors on offer become those of a cloud's Nova."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

import msgspec
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from coffer_clouds.session import sign_in
from coffer_db.datastore_versions import OfferError, Why
from coffer_manage.declaring import Subparsers, table, verb
from coffer_shared.errors import Unavailable

_SECONDS = 30.0
_PAGE = 500
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('coffer catalogue', 0))")
_THERE = text("SELECT id, name, ram_mb, vcpus, disk_gib, ephemeral_gib FROM flavors")
_DELETE = text("DELETE FROM flavors WHERE id = :id")
_RENAME = text("UPDATE flavors SET name = :name WHERE id = :id")
_PUT = text("""
    INSERT INTO flavors (id, name, ram_mb, vcpus, disk_gib, ephemeral_gib)
    VALUES (:id, :name, :ram_mb, :vcpus, :disk_gib, :ephemeral_gib)
    ON CONFLICT (id) DO UPDATE SET name = excluded.name, ram_mb = excluded.ram_mb, vcpus = excluded.vcpus,
        disk_gib = excluded.disk_gib, ephemeral_gib = excluded.ephemeral_gib
""")



_NAMES = {"ephemeral": "OS-FLV-EXT-DATA:ephemeral", "disabled": "OS-FLV-DISABLED:disabled"}


class _Flavor(msgspec.Struct, rename=_NAMES):
    id: str
    name: str
    ram: int
    vcpus: float
    disk: int = 0
    ephemeral: int = 0
    disabled: bool = False

    def row(self) -> dict[str, Any]:
        return {
            "id": self.id, "name": self.name, "ram_mb": self.ram, "vcpus": float(self.vcpus), "disk_gib": self.disk,
            "ephemeral_gib": self.ephemeral,
        }


class _Page(msgspec.Struct):
    flavors: list[_Flavor]


def declare(flavors: Subparsers) -> None:
    syncing = verb(
        flavors, "sync", _sync, "make them those of a cloud's Nova: adds, changes, and removes what nothing uses",
        first=_fetch,
    )
    syncing.add_argument("--clouds", default="", help="path of a clouds.yaml; else where clients look")
    syncing.add_argument("--cloud", default="", help="its user there; administrators see private flavors too")
    syncing.add_argument("--region", default="")
    syncing.add_argument("--interface", choices=("public", "internal", "admin"), default="public")


def _fetch(given: argparse.Namespace) -> None:
    """Into `given.found`. No database is held meanwhile. OfferError, Unavailable."""
    from keystoneauth1.exceptions import ClientException  # noqa: PLC0415 - large, and only here

    session, _ = sign_in(
        given.clouds, given.cloud, _SECONDS, program="coffer-manage", why="--cloud: no user to ask Nova as",
    )
    where = {"service_type": "compute", "interface": given.interface, "region_name": given.region or None}
    found: list[_Flavor] = []
    marker = ""
    try:
        while True:
            path = f"/flavors/detail?is_public=None&limit={_PAGE}{marker}"
            answer = session.get(path, endpoint_filter=where, headers={"Accept": "application/json"})
            page = msgspec.json.decode(answer.content, type=_Page).flavors
            if not page:
                break
            found += page
            marker = f"&marker={quote(page[-1].id, safe='')}"
    except ClientException as error:
        raise Unavailable(f"Nova cannot be asked: {type(error).__name__}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unavailable("what answers in Nova's place is not Nova") from None
    given.found = [flavor for flavor in found if not flavor.disabled]
    if not given.found:
        raise OfferError(Why.INVALID, "Nova shows this user no flavor, so nothing is changed.")


async def _sync(session: AsyncSession, given: argparse.Namespace) -> str:
    await session.execute(_LOCK)
    there = {row["id"]: dict(row) for row in (await session.execute(_THERE)).mappings()}
    wanted = {flavor.id: flavor.row() for flavor in given.found}
    gone = sorted(there.keys() - wanted.keys())
    told = [(old, there[old]["name"], await _drop(session, old)) for old in gone]
    # A name may have gone from one flavor to another: nobody keeps one that somebody else is to have.
    names = {row["name"]: id_ for id_, row in wanted.items()}
    for id_, row in there.items():
        if names.get(row["name"], id_) != id_:
            await session.execute(_RENAME, {"id": id_, "name": f"{row['name']}-{id_}"})
    for id_, row in sorted(wanted.items(), key=lambda item: item[1]["name"]):
        if there.get(id_) == row:
            continue
        await session.execute(_PUT, row)
        told.append((id_, row["name"], "changed" if id_ in there else "added"))
    return table(("ID", "NAME", "WHAT"), told) if told else "The flavors are Nova's already.\n"


async def _drop(session: AsyncSession, flavor: str) -> str:
    try:
        async with session.begin_nested():
            await session.execute(_DELETE, {"id": flavor})
    except IntegrityError:
        return "not in Nova; kept, since an instance has it or a version is tied to it"
    return "removed"
