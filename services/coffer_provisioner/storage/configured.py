"""The object stores of this installation, as `storage.json` in the provisioner's state directory names them."""

from __future__ import annotations

from pathlib import Path

import msgspec

from coffer_provisioner.storage.interface import Storage
from coffer_provisioner.storage.swift import SwiftSettings, SwiftStorage
from coffer_shared.settings import BadSettings


class _Stores(msgspec.Struct, frozen=True):
    """A section for each kind."""

    swift: SwiftSettings | None = None


def storages(path: Path) -> dict[str, Storage]:
    """By the name in a backup's row. Without that file there is none, and backups say so."""
    if not path.exists():
        return {}
    try:
        told = msgspec.json.decode(path.read_bytes(), type=_Stores)
    except msgspec.DecodeError as error:
        raise BadSettings(f"{path.name} is not what it should be: {error}") from None
    return {SwiftStorage.kind: SwiftStorage(told.swift)} if told.swift else {}
