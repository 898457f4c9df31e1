"""What is on offer, written into the tables at the first start and by coffer-manage: datastores, versions, flavors.

Ids follow from names, so registering again, or on another stack, gives the same ones. Nothing is ever removed: what is
not listed any more stays as it is, because instances refer to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid5

from sqlalchemy import Table, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlmodel import SQLModel

import coffer_db.tables  # noqa: F401 - declares the tables

_NAMESPACE = UUID("6c3d3f2e-6d0f-5f0e-9b1c-3f5b8f1f2a44")
_tables = SQLModel.metadata.tables


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
    """Write the catalogue in the caller's transaction. What is there is brought up to date; a known digest is kept
    when the offer gives none."""
    for flavor in catalogue.flavors:
        row = {"id": flavor.id, "name": flavor.name, "ram_mb": flavor.ram_mb, "vcpus": flavor.vcpus}
        await _put(conn, _tables["flavors"], row | {"disk_gib": 0, "ephemeral_gib": 0})
    for datastore in catalogue.datastores:
        own_id = datastore_id(datastore.name)
        await _put(conn, _tables["datastores"], {"id": own_id, "name": datastore.name})
        for offer in datastore.versions:
            version = {
                "id": version_id(datastore.name, offer), "datastore_id": own_id, "name": offer.name,
                "version": offer.version, "manager": offer.manager, "image": offer.image,
                "image_digest": offer.image_digest, "backup_image": offer.backup_image,
                "backup_image_digest": offer.backup_image_digest, "active": offer.active,
            }
            keep = tuple(name for name in ("image_digest", "backup_image_digest") if not version[name])
            await _put(conn, _tables["datastore_versions"], version, keep=keep)
        if datastore.default is not None:
            table = _tables["datastores"]
            default = version_id(datastore.name, datastore.default)
            await conn.execute(update(table).where(table.c.id == own_id).values(default_version_id=default))


async def _put(
    conn: AsyncConnection | AsyncSession, table: Table, row: dict[str, object], *, keep: tuple[str, ...] = (),
) -> None:
    statement = insert(table).values(row)
    changes = {name: statement.excluded[name] for name in row if name != "id" and name not in keep}
    await conn.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changes))
