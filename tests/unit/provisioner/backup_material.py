"""A whole backup as an honest guest stores it, for tests that then spoil it."""

from __future__ import annotations

import hashlib

import msgspec

from coffer_provisioner.storage.interface import Stored
from coffer_shared.backups import MANIFEST, BackedUp, Manifest, Segment

BACKUP = "33333333-3333-4333-8333-333333333333"


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def segment(name: str, data: bytes) -> Segment:
    return Segment(name=name, bytes=len(data), sha256=sha256(data), md5=md5(data))


def stored(name: str, data: bytes) -> Stored:
    return Stored(name=name, bytes=len(data), md5=md5(data))


def segments(count: int = 3) -> dict[str, bytes]:
    return {f"{number:08d}": b"sealed %d" % number for number in range(count)}


def manifest(objects: dict[str, bytes], backup: str = BACKUP, **changes: object) -> bytes:
    """The manifest object. Its MAC is none that opens: only who holds the data key looks at it."""
    whole = Manifest(
        backup=backup, datastore="postgresql", created_at=1.0, frame_bytes=65536, segment_bytes=1 << 25, raw_bytes=1000,
        stored_bytes=sum(map(len, objects.values())), segments=[segment(*one) for one in objects.items()],
        position={"end": "0/3000028"}, tools={"zstd": "1.5.7"},
    )
    return msgspec.json.encode(msgspec.structs.replace(whole, **changes)) + b"\n" + b"0" * 64


def result(objects: dict[str, bytes], stored_manifest: bytes) -> BackedUp:
    return BackedUp(
        manifest_sha256=sha256(stored_manifest), raw_bytes=1000, stored_bytes=sum(map(len, objects.values())),
        segments=len(objects), position={"end": "0/3000028"}, tools={"zstd": "1.5.7"},
    )


def listing(objects: dict[str, bytes], stored_manifest: bytes) -> list[Stored]:
    return [stored(*one) for one in sorted({**objects, MANIFEST: stored_manifest}.items())]
