"""What a release offers, written into the tables by `coffer-manage migrate`: datastores, versions, flavors.

Ids follow from names, so registering again, or on another stack, gives the same ones. What an administrator has changed
or deleted since it was registered stays as they left it; the rest is brought up to date. Nothing is ever removed here:
instances refer to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import SQLModel

import coffer_db.tables  # noqa: F401 - declares the tables

_NAMESPACE = UUID("6c3d3f2e-6d0f-5f0e-9b1c-3f5b8f1f2a44")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('coffer catalogue', 0))")
_tables = SQLModel.metadata.tables
_datastores, _versions = _tables["datastores"], _tables["datastore_versions"]
_registered = _tables["registered"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionOffer:
    name: str
    """What tenants ask for, such as "17"."""
    version: str
    manager: str
    image: str
    image_digest: str = ""
    backup_image: str = ""
    backup_image_digest: str = ""
    active: bool = True


@dataclass(frozen=True, slots=True)
class DatastoreOffer:
    name: str
    versions: tuple[VersionOffer, ...]
    default: VersionOffer | None = None
    """Given to who names no version; None leaves what is recorded."""


@dataclass(frozen=True, slots=True)
class FlavorOffer:
    id: str
    name: str
    vcpus: float
    ram_mb: int


FLAVORS = (
    FlavorOffer("1", "tiny", 0.5, 512),
    FlavorOffer("2", "small", 1, 1024),
    FlavorOffer("3", "medium", 2, 2048),
    FlavorOffer("4", "large", 2, 4096),
    FlavorOffer("5", "xlarge", 4, 8192),
)


@dataclass(frozen=True, slots=True)
class Catalogue:
    datastores: tuple[DatastoreOffer, ...] = ()
    flavors: tuple[FlavorOffer, ...] = FLAVORS


def datastore_id(datastore: str) -> str:
    return str(uuid5(_NAMESPACE, datastore))


def version_id(datastore: str, offer: VersionOffer) -> str:
    return str(uuid5(_NAMESPACE, f"{datastore}/{offer.name}/{offer.version}"))


async def register(conn: AsyncConnection | AsyncSession, catalogue: Catalogue) -> None:
    """Write the catalogue in the caller's transaction. A known digest is kept when the offer gives none."""
    await conn.execute(_LOCK)
    for flavor in catalogue.flavors:
        row = {"id": flavor.id, "name": flavor.name, "ram_mb": flavor.ram_mb, "vcpus": flavor.vcpus}
        await _offer(conn, "flavors", row | {"disk_gib": 0, "ephemeral_gib": 0})
    for datastore in catalogue.datastores:
        own_id = datastore_id(datastore.name)
        if not await _offer(conn, "datastores", {"id": own_id, "name": datastore.name}):
            continue
        for offer in datastore.versions:
            await _offer_version(conn, own_id, version_id(datastore.name, offer), offer)
        if datastore.default is not None:
            await _offer_default(conn, own_id, version_id(datastore.name, datastore.default))


async def record(conn: AsyncConnection | AsyncSession, digests: Mapping[str, str]) -> None:
    """Record which digest guests pull for each image (repository:tag), in every version that names it."""
    v = _versions.c
    for image, digest in digests.items():
        await conn.execute(update(_versions).where(v.image == image).values(image_digest=digest))
        await conn.execute(update(_versions).where(v.backup_image == image).values(backup_image_digest=digest))


async def _offer(
    conn: AsyncConnection | AsyncSession, kind: str, row: dict[str, Any], new: Mapping[str, Any] | None = None,
) -> bool:
    """Whether it is there now: not so where an administrator deleted it, or has another of that name. `new`: what else
    a row begins with."""
    table, before = _tables[kind], await _before(conn, kind, row["id"])
    there = (await conn.execute(select(table).where(table.c.id == row["id"]))).mappings().one_or_none()
    if there is None:
        if before is not None:
            return False
        statement = insert(table).values(row | dict(new or {})).on_conflict_do_nothing().returning(table.c.id)
        if (await conn.execute(statement)).first() is None:
            return False
    else:
        ours = {name: value for name, value in row.items() if before is None or there[name] == before.get(name)}
        await conn.execute(update(table).where(table.c.id == row["id"]).values(**ours))
    await _remember(conn, kind, (before or {}) | row)
    return True


async def _offer_version(
    conn: AsyncConnection | AsyncSession, datastore: str, version: str, offer: VersionOffer,
) -> None:
    row = {
        "id": version, "datastore_id": datastore, "name": offer.name, "version": offer.version,
        "manager": offer.manager, "image": offer.image, "backup_image": offer.backup_image, "active": offer.active,
    }
    if not await _offer(conn, "datastore_versions", row, {"image_digest": "", "backup_image_digest": ""}):
        return
    v = _versions.c
    for image, digest, own, name in (
        (offer.image, offer.image_digest, v.image, "image_digest"),
        (offer.backup_image, offer.backup_image_digest, v.backup_image, "backup_image_digest"),
    ):
        if digest:
            await conn.execute(update(_versions).where(v.id == version, own == image).values({name: digest}))


async def _offer_default(conn: AsyncConnection | AsyncSession, datastore: str, version: str) -> None:
    """Unless an administrator chose another, or none, or deleted this one."""
    before = await _before(conn, "datastores", datastore) or {}
    d = _datastores.c
    chosen = (await conn.execute(select(d.default_version_id).where(d.id == datastore))).scalar_one()
    there = (await conn.execute(select(_versions.c.id).where(_versions.c.id == version))).first()
    if there is None or chosen not in {before.get("default_version_id"), version}:
        return
    await conn.execute(update(_datastores).where(d.id == datastore).values(default_version_id=version))
    await _remember(conn, "datastores", before | {"id": datastore, "default_version_id": version})


async def _before(conn: AsyncConnection | AsyncSession, kind: str, item: str) -> dict[str, Any] | None:
    r = _registered.c
    found: dict[str, Any] | None = (
        await conn.execute(select(r.offer).where(r.kind == kind, r.id == item))
    ).scalar_one_or_none()
    return found


async def _remember(conn: AsyncConnection | AsyncSession, kind: str, offer: dict[str, Any]) -> None:
    statement = insert(_registered).values(kind=kind, id=offer["id"], offer=offer)
    keys = ["kind", "id"]
    await conn.execute(statement.on_conflict_do_update(index_elements=keys, set_={"offer": offer}))
