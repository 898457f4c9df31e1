"""`coffer-manage datastore` and `version`: what tenants may choose from, and what of it goes together."""

from __future__ import annotations

import argparse
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

import coffer_datastores
from coffer_db import datastore_versions
from coffer_db.datastore_versions import DIGEST, NewVersion, OfferError, Why
from coffer_manage.declaring import Subparsers, group, plain, table, verb
from coffer_shared.datastore import Datastore

_VERSION = "its id, or datastore/name, or datastore/name/number"
_DATASTORES = text("""
    SELECT d.name, d.id, p.name || '/' || p.version, count(v.id)
    FROM datastores d
    LEFT JOIN datastore_versions p ON p.id = d.default_version_id
    LEFT JOIN datastore_versions v ON v.datastore_id = d.id
    GROUP BY d.id, p.id ORDER BY d.name
""")
_VERSIONS = text("""
    SELECT d.name, v.name, v.version, v.manager, v.active, d.default_version_id IS NOT DISTINCT FROM v.id,
           v.image, left(v.image_digest, 19), v.backup_image, left(v.backup_image_digest, 19), v.id
    FROM datastore_versions v JOIN datastores d ON d.id = v.datastore_id
    WHERE CAST(:datastore AS text) IS NULL OR :datastore IN (d.name, d.id)
    ORDER BY d.name, v.name, v.version
""")


def declare(commands: Subparsers) -> None:
    datastores = group(commands, "datastore", "engines on offer")
    verb(datastores, "add", _add_datastore, "add one, without versions").add_argument("name", type=plain)
    verb(datastores, "list", _list_datastores, "list them")
    verb(datastores, "delete", _delete_datastore, "delete one that has no versions").add_argument("name")
    default = verb(datastores, "set-default", _set_default, "choose the version of who names none")
    default.add_argument("name")
    default.add_argument("version", help="its id, or its name, or name/number; 'none': there is no default")

    versions = group(commands, "version", "versions of engines, and the images that run them")
    adding = verb(versions, "add", _add_version, "add one")
    adding.add_argument("datastore", type=plain)
    adding.add_argument("name", type=plain, help="what tenants ask for, such as 17")
    adding.add_argument("--number", help="the tag of its images; as the name where it is not given")
    adding.add_argument("--inactive", action="store_true", help="administrators alone see it")
    adding.add_argument("--default", action="store_true", help="for who names none")
    _describe(adding)
    setting = verb(versions, "set", _set_version, "change one")
    setting.add_argument("version", help=_VERSION)
    setting.add_argument("--name", type=plain)
    setting.add_argument("--active", action=argparse.BooleanOptionalAction)
    setting.add_argument("--default", action=argparse.BooleanOptionalAction)
    _describe(setting)
    verb(versions, "list", _list_versions, "list them").add_argument("datastore", nargs="?")
    verb(versions, "delete", _delete_version, "delete one that nothing uses").add_argument("version", help=_VERSION)
    for noun, kind, what in (
        ("flavor", "flavor_id", "flavors that a version is tied to"),
        ("volume-type", "volume_type", "volume types that a version is tied to"),
    ):
        ties = group(versions, noun, what)
        for name, work, does in (("add", _tie, "tie it to these"), ("remove", _untie, "not to these any more")):
            changing = verb(ties, name, work, does)
            changing.add_argument("version", help=_VERSION)
            changing.add_argument("others", nargs="+", type=plain, metavar=noun)
            changing.set_defaults(kind=kind)
        listing = verb(ties, "list", _list_ties, "list them; none: it goes with all flavors, and with unnamed volumes")
        listing.add_argument("version", help=_VERSION)
        listing.set_defaults(kind=kind)


def _describe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--manager", help="the folder under coffer_datastores that drives it")
    parser.add_argument("--image", help="repository:tag, or repository@digest, in the installation's registry")
    parser.add_argument("--digest", help="sha256:..., by which guests pull it")
    parser.add_argument("--backup-image", help="the same of its backups; 'none': it has none")
    parser.add_argument("--backup-digest")


async def _add_datastore(session: AsyncSession, given: argparse.Namespace) -> str:
    return f"Datastore {given.name} has the id {await datastore_versions.add_datastore(session, given.name)}.\n"


async def _list_datastores(session: AsyncSession, _given: argparse.Namespace) -> str:
    rows = (await session.execute(_DATASTORES)).all()
    return table(("NAME", "ID", "DEFAULT", "VERSIONS"), rows)


async def _delete_datastore(session: AsyncSession, given: argparse.Namespace) -> str:
    await datastore_versions.remove_datastore(session, given.name)
    return f"Datastore {given.name} is deleted.\n"


async def _set_default(session: AsyncSession, given: argparse.Namespace) -> str:
    datastore = await datastore_versions.find_datastore(session, given.name)
    if given.version == "none":
        await datastore_versions.set_default(session, datastore, None)
        return f"Datastore {given.name} has no default.\n"
    try:
        version = await datastore_versions.find(session, f"{given.name}/{given.version}")
    except OfferError as error:
        if error.code != Why.UNKNOWN:
            raise
        version = await datastore_versions.find(session, given.version)
    if (await datastore_versions.load(session, version))["datastore_id"] != datastore:
        raise OfferError(Why.INVALID, f"Version '{given.version}' is not of datastore {given.name}.")
    await datastore_versions.set_default(session, datastore, version)
    return f"The default of datastore {given.name} is {given.version}.\n"


async def _add_version(session: AsyncSession, given: argparse.Namespace) -> str:
    manager, number = _manager(given.manager or given.datastore), given.number or given.name
    own, backup = _images(given)
    new = NewVersion(
        datastore=given.datastore, name=given.name, number=number, manager=manager.name,
        image=own.get("image") or datastore_versions.image(manager, number),
        image_digest=own.get("image_digest", ""),
        backup_image=backup.get("backup_image", datastore_versions.backup_image(manager, number)),
        backup_image_digest=backup.get("backup_image_digest", ""), active=not given.inactive, default=given.default,
    )
    version = await datastore_versions.add(session, new)
    return f"Version {given.datastore}/{given.name}/{number} has the id {version}.\n" + await _missing(session, version)


async def _set_version(session: AsyncSession, given: argparse.Namespace) -> str:
    version = await datastore_versions.find(session, given.version)
    own, backup = _images(given)
    changes: dict[str, Any] = {**own, **backup}
    if given.manager is not None:
        changes["manager"] = _manager(given.manager).name
    changes |= {name: getattr(given, name) for name in ("name", "active") if getattr(given, name) is not None}
    if not changes and given.default is None:
        raise OfferError(Why.INVALID, "nothing was given that is to change; --help lists what can be.")
    await datastore_versions.change(session, version, changes, default=given.default)
    return f"Version {given.version} is changed.\n" + await _missing(session, version)


async def _list_versions(session: AsyncSession, given: argparse.Namespace) -> str:
    if given.datastore is not None:
        await datastore_versions.find_datastore(session, given.datastore)
    rows = (await session.execute(_VERSIONS, {"datastore": given.datastore})).all()
    heads = ("DATASTORE", "NAME", "NUMBER", "MANAGER", "ACTIVE", "DEFAULT", "IMAGE", "DIGEST", "BACKUP-IMAGE",
             "BACKUP-DIGEST", "ID")
    return table(heads, rows)


async def _delete_version(session: AsyncSession, given: argparse.Namespace) -> str:
    await datastore_versions.remove(session, await datastore_versions.find(session, given.version))
    return f"Version {given.version} is deleted.\n"


async def _tie(session: AsyncSession, given: argparse.Namespace) -> str:
    version = await datastore_versions.find(session, given.version)
    table_name = _ties(given.kind)
    for other in given.others:
        statement = f"INSERT INTO {table_name} (version_id, {given.kind}) VALUES (:v, :o) ON CONFLICT DO NOTHING"  # noqa: S608
        try:
            await session.execute(text(statement), {"v": version, "o": other})
        except IntegrityError:
            raise OfferError(Why.UNKNOWN, f"Flavor '{other}' cannot be found; 'flavor list' shows all ids.") from None
    return await _list_ties(session, given)


async def _untie(session: AsyncSession, given: argparse.Namespace) -> str:
    version = await datastore_versions.find(session, given.version)
    statement = f"DELETE FROM {_ties(given.kind)} WHERE version_id = :v AND {given.kind} = :o RETURNING 1"  # noqa: S608
    for other in given.others:
        if not (await session.execute(text(statement), {"v": version, "o": other})).all():
            raise OfferError(Why.UNKNOWN, f"Version {given.version} is not tied to '{other}'.")
    return await _list_ties(session, given)


async def _list_ties(session: AsyncSession, given: argparse.Namespace) -> str:
    version = await datastore_versions.find(session, given.version)
    statement = f"SELECT {given.kind} FROM {_ties(given.kind)} WHERE version_id = :v ORDER BY 1"  # noqa: S608
    found = (await session.execute(text(statement), {"v": version})).scalars().all()
    what = "flavors" if given.kind == "flavor_id" else "volume types"
    return f"Version {given.version} is tied to the {what} {', '.join(found)}.\n" if found else (
        f"Version {given.version} is not tied to any {what}.\n"
    )


def _ties(kind: str) -> str:
    return {"flavor_id": "version_flavors", "volume_type": "version_volume_types"}[kind]


def _manager(name: str) -> Datastore:
    specs = coffer_datastores.specs()
    if name not in specs:
        raise OfferError(
            Why.INVALID, f"'{name}' is no manager of this release; --manager takes {', '.join(sorted(specs))}.",
        )
    return specs[name]


def _images(given: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """The columns that the options say."""
    return (
        _image(given.image, given.digest, "image", "--digest"),
        _image(given.backup_image, given.backup_digest, "backup_image", "--backup-digest"),
    )


def _image(image: str | None, digest: str | None, column: str, option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    if image == "none" and column == "backup_image":
        return {"backup_image": "", "backup_image_digest": ""}
    if image is not None:
        name, at, pinned = image.partition("@")
        repository, _, tag = name.partition(":")
        whole = datastore_versions.TAG.fullmatch(tag) if not at else DIGEST.fullmatch(pinned) and not tag
        if not datastore_versions.REPOSITORY.fullmatch(repository) or not whole:
            raise OfferError(Why.INVALID, f"'{image}' is neither repository:tag nor repository@sha256:...")
        found[column] = image
        digest = digest or pinned or None
    if digest is not None:
        if not DIGEST.fullmatch(digest):
            raise OfferError(Why.INVALID, f"{option} takes sha256: and 64 hexadecimal digits.")
        found[f"{column}_digest"] = digest
    return found


async def _missing(session: AsyncSession, version: str) -> str:
    """What an operator still has to do before it can be used."""
    row = await datastore_versions.load(session, version)
    found = ""
    if not row["image_digest"]:
        found += f"No instance of it can be created: no digest of {row['image']} is recorded (version set --digest).\n"
    if row["backup_image"] and not row["backup_image_digest"]:
        found += f"No backup of it can be made: none of {row['backup_image']} is (version set --backup-digest).\n"
    return found
