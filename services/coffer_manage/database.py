"""Bringing the database to this release: schema, roles, catalogue, image digests."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
from sqlalchemy.ext.asyncio import AsyncSession

import coffer_datastores
from coffer_db import catalogue, datastore_versions, marks, parameters, roles
from coffer_db import migrate as schema
from coffer_db.catalogue import Catalogue, DatastoreOffer, VersionOffer, register, version_id
from coffer_db.database import Database, DatabaseSettings
from coffer_manage import foundation


async def migrate(state: Path) -> None:
    """Schema first, then the roles whose rights are on it, then what is on offer, with its parameters."""
    chosen = settings(state)
    await schema.upgrade(chosen.url())
    passwords = msgspec.json.decode((state / "role-passwords.json").read_bytes(), type=dict[str, str])
    db = Database(chosen, name="coffer-manage")
    try:
        connection = await db.connect_alone()
        try:
            await roles.apply(connection, passwords)
        finally:
            await connection.close()
        async with db.begin() as session:
            await register(session, _catalogue())
            for datastore in _catalogue().datastores:
                for version in datastore.versions:
                    listed = coffer_datastores.parameters(version.manager, version.name)
                    await parameters.offer(session, version_id(datastore.name, version), listed)
            with contextlib.suppress(FileNotFoundError):  # laid out by an earlier release: until the next `init`
                await marks.set_mark(session, marks.MASTER_KEY, fingerprint(state))
            await _confirm_what_was_noted(session, state)
    finally:
        await db.close()
    sys.stdout.write(f"The database is at revision {schema.newest()}.\n")


async def record(state: Path, digests: Mapping[str, str]) -> None:
    """Record which digest guests pull for each image."""
    db = Database(settings(state), name="coffer-manage")
    try:
        async with db.begin() as session:
            await catalogue.record(session, digests)
    finally:
        await db.close()
    for image, digest in digests.items():
        sys.stdout.write(f"{image} is pulled as {digest[:19]}...\n")


def _catalogue() -> Catalogue:
    """Every version of every datastore that this release has an image for."""
    offers = []
    for name, spec in coffer_datastores.specs().items():
        versions = tuple(
            VersionOffer(
                name=version, version=version, manager=name, image=datastore_versions.image(spec, version),
                backup_image=datastore_versions.backup_image(spec, version),
            )
            for version in spec.versions
            if spec.image
        )
        default = next((v for v in versions if v.name == spec.default_version), None)
        offers.append(DatastoreOffer(name, versions, default))
    return Catalogue(tuple(offers))


async def confirm_export(state: Path, fingerprint: str) -> None:
    """An export of the master key was opened, and holds this installation's. Unavailable without the database."""
    db = Database(settings(state), name="coffer-manage")
    try:
        async with db.begin() as session:
            await marks.set_mark(session, marks.EXPORTED, fingerprint)
    finally:
        await db.close()


async def _confirm_what_was_noted(session: AsyncSession, state: Path) -> None:
    """By `master-key verify`, where it did not reach the database."""
    noted = _own(state) / foundation.VERIFIED_EXPORT
    if noted.exists():
        verified, before = noted.read_text().strip(), await marks.get_mark(session, marks.EXPORTED)
        if before is None or before[0] != verified:
            await marks.set_mark(session, marks.EXPORTED, verified)


def fingerprint(state: Path) -> str:
    """Of the installation's master key."""
    return (_own(state) / "master-fingerprint").read_text().strip()


def _own(state: Path) -> Path:
    """`state`: the installation's directory, or the part of it that is this program's own."""
    return state / "manage" if (state / "manage").is_dir() else state


def settings(state: Path) -> DatabaseSettings:
    return DatabaseSettings(
        database_host=os.environ.get("COFFER_DATABASE_HOST", "postgres"),
        database_port=int(os.environ.get("COFFER_DATABASE_PORT", "5432")),
        database_name=os.environ.get("COFFER_DATABASE_NAME", "coffer"),
        database_user="postgres",
        database_password=(_own(state) / "database-password").read_text().strip(),
    )
