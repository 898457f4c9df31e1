"""One backup and the object store, as plans see it: grants for it, comparing what is stored, removing it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from coffer_provisioner.backup_check import compare
from coffer_provisioner.plan import Done, Outcome, Wait
from coffer_provisioner.reach import Backups, Reach
from coffer_provisioner.storage.interface import Closed, Storage
from coffer_shared.backups import MANIFEST, MANIFEST_LIMIT, BackedUp, Grant
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

WRITE_SECONDS = 15.0
"""How long a grant to write lives. A finished backup waits for that long before it is compared."""
READ_SECONDS = 3600.0
CLOCKS_APART = 1.0
"""Seconds by which the store's clock may be behind ours."""
AGAIN_SECONDS = 1.0


def storage_of(row: Mapping[str, Any], storages: Mapping[str, Storage]) -> Storage:
    storage = storages.get(row["storage"])
    if storage is None:
        text = f"the object store {row['storage']} is not configured" if storages else "no object store is configured"
        raise GiveUp(Failure.STORAGE, text)
    return storage


async def ensure(row: dict[str, Any], to: Reach) -> None:
    """The container is there, with all that this service needs of it. Closed where its owner has to help."""
    storage, container = storage_of(row, to.storages), await to.backups.container(row)
    async with _noting(row, to):
        await storage.ensure_container(container)


async def write_grant(row: dict[str, Any], backups: Backups, storages: Mapping[str, Storage]) -> Grant:
    """Noted before it is given out: whoever dies in between leaves a note too many, never a grant too many."""
    storage, container = storage_of(row, storages), await backups.container(row)
    await storage.ready()
    until = time.time() + WRITE_SECONDS
    await backups.note_grant(row["id"], until)
    return storage.grant(container, prefix_of(row), "PUT", until=until)


async def read_grant(row: dict[str, Any], backups: Backups, storages: Mapping[str, Storage]) -> Grant:
    storage, container = storage_of(row, storages), await backups.container(row)
    await storage.ready()
    return storage.grant(container, prefix_of(row), "GET", until=time.time() + READ_SECONDS)


def locked(row: Mapping[str, Any]) -> Outcome:
    """Done once no write can begin any more. Nobody can be given another grant: see `Backups.note_grant`."""
    return _past(row, CLOCKS_APART, "waiting for the last grant to write to expire")


def closed(row: Mapping[str, Any], storages: Mapping[str, Storage]) -> Outcome:
    """Done once no write can end any more either, not even one that was begun in time and dragged out since."""
    if row["grant_until"] is None:
        return Done()
    return _past(row, storage_of(row, storages).lingering + CLOCKS_APART, "waiting until nobody can write any more")


def _past(row: Mapping[str, Any], lasts: float, why: str) -> Outcome:
    if row["grant_until"] is None:
        return Done()
    left = row["grant_until"].timestamp() + lasts - time.time()
    return Wait(left, why) if left > 0 else Done()


async def check(row: dict[str, Any], found: BackedUp, to: Reach) -> None:
    """GiveUp `damaged` unless exactly what was `found` is stored."""
    storage, container = storage_of(row, to.storages), await to.backups.container(row)
    prefix = prefix_of(row)
    async with _noting(row, to):
        stored = await storage.read(container, prefix + MANIFEST, limit=MANIFEST_LIMIT)
        if stored is None:
            raise GiveUp(Failure.DAMAGED, "the manifest is missing")
        listing = await storage.listing(container, prefix)
    await asyncio.to_thread(compare, row["id"], found, stored, listing)


async def remove(row: dict[str, Any], to: Reach) -> Outcome:
    """Done when nothing is left of it and nothing can be added."""
    if row["grant_until"] is None:
        return Done()  # nobody was ever let in
    still_open = closed(row, to.storages)
    if isinstance(still_open, Wait):
        return still_open
    storage, container = storage_of(row, to.storages), await to.backups.container(row)
    async with _noting(row, to):
        removed = await storage.remove(container, prefix_of(row))
    return Wait(AGAIN_SECONDS, "objects are being removed") if removed else Done()


async def manifest_address(row: dict[str, Any], to: Reach) -> str:
    storage, container = storage_of(row, to.storages), await to.backups.container(row)
    await storage.ready()
    return storage.location(container, prefix_of(row) + MANIFEST)


async def row_if_any(backup: str, to: Reach) -> dict[str, Any] | None:
    """For taking back: what is gone needs no taking back."""
    try:
        return await to.backups.backup(backup)
    except GiveUp:
        return None


def prefix_of(row: Mapping[str, Any]) -> str:
    """Grants and removals cover everything below it, so it had better be this backup's alone."""
    prefix: str = row["prefix"]
    if not prefix.endswith(f"/{row['id']}/"):
        raise GiveUp(Failure.STORAGE, "the backup's prefix is not its own")
    return prefix


@contextlib.asynccontextmanager
async def _noting(row: Mapping[str, Any], to: Reach) -> AsyncIterator[None]:
    """A container that is found closed is opened again with the owner's next token."""
    try:
        yield
    except Closed:
        await to.backups.note_closed(row)
        raise
