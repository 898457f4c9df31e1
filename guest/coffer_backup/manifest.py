"""Stored format 1, the manifest: making it, and refusing one that is not whole. docs/BACKUPS.md has the layout."""

from __future__ import annotations

import hashlib
import hmac
import re

import msgspec

from coffer_backup.errors import Damaged
from coffer_backup.sealing import HEADER_BYTES, SEAL_BYTES, Place, stored_size
from coffer_shared.backups import MANIFEST, Job, Manifest, read_manifest

MAX_SEGMENTS = 100_000
_MAC_BYTES = 32
_LARGEST_FRAME = 16 * 1024 * 1024
_LARGEST_SEGMENT = 1024 * 1024 * 1024
_SHA256, _MD5 = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{32}")


def write_manifest(manifest: Manifest, key: bytes) -> bytes:
    line = msgspec.json.encode(manifest)
    return line + b"\n" + _mac(line, key).encode()


def check_manifest(stored: bytes, job: Job, key: bytes) -> Manifest:
    """Damaged unless it is the manifest that was stored, of this backup, sealed with this key, and right in itself."""
    if not hmac.compare_digest(hashlib.sha256(stored).hexdigest(), job.manifest_sha256):
        raise Damaged(f"{MANIFEST} of backup {job.backup} has another checksum than the one that was recorded")
    try:
        manifest, line, mac = read_manifest(stored)
    except ValueError as error:
        raise Damaged(f"{MANIFEST} of backup {job.backup} cannot be read: {error}") from error
    if not hmac.compare_digest(_mac(line, key).encode(), mac.encode()):
        raise Damaged(f"{MANIFEST} of backup {job.backup} was changed, or sealed with another key")
    wrong = _wrong(manifest, job)
    if wrong:
        raise Damaged(f"{MANIFEST} of backup {job.backup} is not right: {wrong}")
    return manifest


def _wrong(manifest: Manifest, job: Job) -> str:
    """What does not hold of it, empty if all does."""
    if (manifest.backup, manifest.datastore) != (job.backup, job.datastore):
        return f"it is of backup {manifest.backup} of a {manifest.datastore} database"
    if manifest.kind != "full" or manifest.compression != "zstd":
        return f"a {manifest.kind} backup, compressed by {manifest.compression}, is not known here"
    if not 0 < manifest.frame_bytes <= min(manifest.segment_bytes, _LARGEST_FRAME):
        return f"frames of {manifest.frame_bytes} bytes"
    if manifest.segment_bytes > _LARGEST_SEGMENT:
        return f"segments of {manifest.segment_bytes} bytes"
    if not 0 < len(manifest.segments) <= MAX_SEGMENTS or manifest.raw_bytes <= 0:
        return f"{manifest.raw_bytes} bytes in {len(manifest.segments)} segments"
    if manifest.stored_bytes != sum(segment.bytes for segment in manifest.segments):
        return "its sizes do not add up"
    full = stored_size(manifest.segment_bytes, manifest.frame_bytes)
    last = len(manifest.segments) - 1
    for number, segment in enumerate(manifest.segments):
        place = Place(manifest.backup, number)
        if segment.name != place.name:
            return f"{segment.name} stands where {place} should"
        if segment.bytes != full and not (number == last and HEADER_BYTES + SEAL_BYTES < segment.bytes < full):
            return f"{place} has {segment.bytes} bytes"
        if not (_SHA256.fullmatch(segment.sha256) and _MD5.fullmatch(segment.md5)):
            return f"{place} has no checksums"
    return ""


def _mac(line: bytes, key: bytes) -> str:
    return hashlib.blake2b(line, key=key, digest_size=_MAC_BYTES).hexdigest()
