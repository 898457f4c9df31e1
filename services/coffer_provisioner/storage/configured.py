"""The object stores of this installation, as `storage.json` in the provisioner's state directory names them.

    {"swift": {"url": ..., "guest_url": ..., "setup_user": ..., ...}}                a Swift with users of its own
    {"swift": {"keystone": {"clouds_file": ..., "cloud": ..., "region": ...}}}       a cloud's, with Keystone
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from coffer_clouds.session import sign_in
from coffer_provisioner.storage.interface import Storage
from coffer_provisioner.storage.keystone_user import KeystoneUser
from coffer_provisioner.storage.swift import SwiftObjects, SwiftSettings, SwiftStorage
from coffer_provisioner.storage.swift_keystone import KeystoneSwift, KeystoneSwiftSettings
from coffer_shared.settings import BadSettings

_NOTHING = msgspec.Raw(b"null")


class _Stores(msgspec.Struct, frozen=True):
    """A section for each kind."""

    swift: msgspec.Raw = _NOTHING


class _Kind(msgspec.Struct, frozen=True):
    keystone: msgspec.Raw = _NOTHING


def storages(path: Path) -> dict[str, Storage]:
    """By the name in a backup's row. Without that file there is none, and backups say so. BadSettings."""
    if not path.exists():
        return {}
    try:
        section = msgspec.json.decode(path.read_bytes(), type=_Stores).swift
        if section == _NOTHING:
            return {}
        if msgspec.json.decode(section, type=_Kind).keystone == _NOTHING:
            return {SwiftObjects.kind: SwiftStorage(msgspec.json.decode(section, type=SwiftSettings))}
        told = msgspec.json.decode(section, type=KeystoneSwiftSettings)
    except msgspec.DecodeError as error:
        raise BadSettings(f"{path.name} is not what it should be: {error}") from None
    return {SwiftObjects.kind: KeystoneSwift(told, keystone_user(told, path.name))}


def keystone_user(told: KeystoneSwiftSettings, file: str) -> KeystoneUser:
    """BadSettings where the clouds.yaml has no such user."""
    of = told.keystone
    why = f"{file}: no user for the object store"
    session, _ = sign_in(of.clouds_file, of.cloud, told.call_seconds, program="coffer-provisioner", why=why)
    return KeystoneUser(session, region=of.region, interface=of.interface, seconds=told.call_seconds)
