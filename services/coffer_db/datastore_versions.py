"""Datastores and their versions as administrators change them, through the API or with `coffer-manage`.

All of it in the caller's transaction. What cannot be done raises `OfferError` with a sentence for whoever asked. What
an instance, a backup or a configuration that is not deleted still uses cannot go: the tables' own constraints see to
that, whoever comes between.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import uuid4

from sqlalchemy import RowMapping, delete, insert, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import SQLModel

from coffer_db.catalogue import datastore_id
from coffer_shared.datastore import Datastore
from coffer_shared.errors import Refused

TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_PART = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*"
REPOSITORY = re.compile(rf"{_PART}(?:/{_PART})*")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_tables = SQLModel.metadata.tables
_datastores, _versions = _tables["datastores"], _tables["datastore_versions"]
_USES = text("""
    SELECT (SELECT count(*) FROM instances WHERE datastore_version_id = :id AND deleted_at IS NULL) AS instances,
           (SELECT count(*) FROM backups WHERE datastore_version_id = :id AND deleted_at IS NULL) AS backups,
           (SELECT count(*) FROM configurations WHERE datastore_version_id = :id AND deleted_at IS NULL)
               AS configurations
""")
_DIGEST = text("""
    SELECT (SELECT v.image_digest FROM datastore_versions v
            WHERE v.image = :image AND v.image_digest <> '' ORDER BY v.created_at DESC, v.id LIMIT 1),
           (SELECT v.backup_image_digest FROM datastore_versions v
            WHERE v.backup_image = :backup AND v.backup_image_digest <> '' ORDER BY v.created_at DESC, v.id LIMIT 1)
""")
_FIND = text("""
    SELECT v.id, d.name || '/' || v.name || '/' || v.version AS whole
    FROM datastore_versions v JOIN datastores d ON d.id = v.datastore_id
    WHERE :named IN (v.id, d.name || '/' || v.name, d.name || '/' || v.name || '/' || v.version)
    ORDER BY v.id = :named DESC, whole
""")
_DUPLICATE = "23505"


class Why(StrEnum):
    UNKNOWN = "unknown"
    EXISTS = "exists"
    IN_USE = "in_use"
    INVALID = "invalid"


class OfferError(Refused):
    """`code` is one of `Why`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    datastore: str
    """By name; made if there is none."""
    name: str
    number: str
    manager: str
    image: str
    backup_image: str = ""
    image_digest: str = ""
    """Empty: that of the same image in another version, if it is known there. So with the next."""
    backup_image_digest: str = ""
    active: bool = True
    default: bool = False
    traits: Mapping[str, Any] = field(default_factory=dict)


def image(spec: Datastore, number: str, repository: str | None = None) -> str:
    """What guests of this version run: repository:number, of the datastore's own repository if none is given."""
    return f"{repository or spec.image}:{number}" if repository or spec.image else ""


def backup_image(spec: Datastore, number: str) -> str:
    return f"{spec.backup_image}:{number}" if spec.backup_image else ""


async def add(session: AsyncSession, new: NewVersion) -> str:
    """The id of the new version."""
    if not TAG.fullmatch(new.number):
        raise OfferError(Why.INVALID, f"The version number '{new.number}' cannot be the tag of an image.")
    if not new.image:
        raise OfferError(Why.INVALID, f"Datastore manager '{new.manager}' names no image; give one.")
    datastore = await add_datastore(session, new.datastore)
    digest, backup_digest = await _known_digests(session, new.image, new.backup_image)
    version = str(uuid4())
    row = {
        "id": version, "datastore_id": datastore, "name": new.name, "version": new.number, "manager": new.manager,
        "image": new.image, "image_digest": new.image_digest or digest, "backup_image": new.backup_image,
        "backup_image_digest": new.backup_image_digest or backup_digest, "active": new.active,
        "traits": dict(new.traits),
    }
    try:
        await session.execute(insert(_versions).values(row))
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) == _DUPLICATE:
            raise _exists(new.name, new.number) from None
        raise OfferError(Why.UNKNOWN, f"Datastore '{new.datastore}' has just been deleted; try again.") from None
    if new.default:
        await set_default(session, datastore, version)
    return version


async def change(
    session: AsyncSession, version: str, changes: Mapping[str, Any], *, default: bool | None = None,
) -> None:
    """Set columns of a version. A new image without its digest gets the one that another version knows, or none.
    `default`: make it its datastore's default, or (False) no default any more if it is."""
    row = await load(session, version)
    values = dict(changes)
    if values.get("manager", row["manager"]) != row["manager"] and (used := await _used(session, version)):
        raise OfferError(Why.IN_USE, f"The manager of {_called(row)} cannot be changed: {used}.")
    if not values.get("image", row["image"]):
        raise OfferError(Why.INVALID, f"{_called(row)} needs an image.")
    known = await _known_digests(session, values.get("image", ""), values.get("backup_image", ""))
    for name, digest in zip(("image", "backup_image"), known, strict=True):
        if values.get(name, row[name]) != row[name]:
            values.setdefault(f"{name}_digest", digest)
    if values:
        try:
            await session.execute(update(_versions).where(_versions.c.id == version).values(values))
        except IntegrityError:
            raise _exists(values.get("name", row["name"]), row["version"]) from None
    if default:
        await set_default(session, row["datastore_id"], version)
    elif default is False:
        await _unset_default(session, version)


async def remove(session: AsyncSession, version: str) -> None:
    """With its parameters, its ties to flavors and volume types, and its being the default."""
    row = await load(session, version)
    if used := await _used(session, version):
        raise OfferError(Why.IN_USE, f"{_called(row)} cannot be deleted: {used}.")
    for name in ("configuration_parameters", "version_flavors", "version_volume_types"):
        await session.execute(delete(_tables[name]).where(_tables[name].c.version_id == version))
    await _unset_default(session, version)
    try:
        await session.execute(delete(_versions).where(_versions.c.id == version))
    except IntegrityError:
        raise OfferError(Why.IN_USE, f"{_called(row)} cannot be deleted: it has just come into use.") from None


async def load(session: AsyncSession, version: str) -> RowMapping:
    """With `datastore`, locked until the transaction ends."""
    found = await session.execute(
        select(_versions, _datastores.c.name.label("datastore"), _datastores.c.default_version_id)
        .join(_datastores, _datastores.c.id == _versions.c.datastore_id)
        .where(_versions.c.id == version)
        .with_for_update(of=_versions),
    )
    row = found.mappings().one_or_none()
    if row is None:
        raise OfferError(Why.UNKNOWN, f"Datastore version '{version}' cannot be found.")
    return row


async def find(session: AsyncSession, named: str) -> str:
    """The id of the version with this id, or that is datastore/name, or datastore/name/number."""
    rows = (await session.execute(_FIND, {"named": named})).all()
    if not rows:
        raise OfferError(Why.UNKNOWN, f"Datastore version '{named}' cannot be found.")
    if len(rows) > 1 and rows[0].id != named and rows[0].whole != named:
        meant = ", ".join(row.whole for row in rows)
        raise OfferError(Why.INVALID, f"'{named}' may be each of {meant}; give one of these.")
    return str(rows[0].id)


async def add_datastore(session: AsyncSession, name: str) -> str:
    """Its id. One that is there, by that name or id, stays as it is."""
    found = await _datastore(session, name)
    if found is None:
        row = {"id": datastore_id(name), "name": name}
        await session.execute(upsert(_datastores).values(row).on_conflict_do_nothing())
    return found or await find_datastore(session, name)


async def find_datastore(session: AsyncSession, datastore: str) -> str:
    """The id of the one of this name or id."""
    found = await _datastore(session, datastore)
    if found is None:
        raise OfferError(Why.UNKNOWN, f"Datastore '{datastore}' cannot be found.")
    return found


async def remove_datastore(session: AsyncSession, datastore: str) -> None:
    """By name or id."""
    found = await find_datastore(session, datastore)
    try:
        await session.execute(delete(_datastores).where(_datastores.c.id == found))
    except IntegrityError:
        raise OfferError(Why.IN_USE, f"Datastore '{datastore}' has versions; delete them first.") from None


async def set_default(session: AsyncSession, datastore: str, version: str | None) -> None:
    where = _datastores.c.id == datastore
    await session.execute(update(_datastores).where(where).values(default_version_id=version))


async def _datastore(session: AsyncSession, named: str) -> str | None:
    d = _datastores.c
    return (await session.execute(select(d.id).where(or_(d.name == named, d.id == named)))).scalars().first()


async def _unset_default(session: AsyncSession, version: str) -> None:
    where = _datastores.c.default_version_id == version
    await session.execute(update(_datastores).where(where).values(default_version_id=None))


async def _known_digests(session: AsyncSession, image: str, backup_image: str) -> tuple[str, str]:
    found = (await session.execute(_DIGEST, {"image": image, "backup": backup_image})).one()
    return found[0] or "", found[1] or ""


async def _used(session: AsyncSession, version: str) -> str:
    """What uses it, as a part of a sentence; empty: nothing."""
    counts = (await session.execute(_USES, {"id": version})).mappings().one()
    found = [f"{count} {what if count > 1 else what.removesuffix('s')}" for what, count in counts.items() if count]
    return f"used by {', '.join(found)}" if found else ""


def _called(row: RowMapping) -> str:
    return f"Version '{row['name']}' ({row['version']}) of datastore {row['datastore']}"


def _exists(name: str, number: str) -> OfferError:
    return OfferError(Why.EXISTS, f"The datastore version '{name}({number})' already exists.")
