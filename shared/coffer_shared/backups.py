"""What the control plane, the agent and the program in the backup container tell one another about backups.

The stored format itself is `coffer_backup`'s (docs/BACKUPS.md). An engine's part in it is a `BackupTool`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

FORMAT = 1
SEGMENT_BYTES = 32 * 1024 * 1024
MANIFEST = "manifest.json"
"""The name, under the backup's prefix, of the object that is written last."""
MANIFEST_LIMIT = 32 * 1024 * 1024
"""Bytes; none is larger, so that nobody need take in more."""
KEY_BYTES = 32
CINDER = "cinder"
"""Storage of a backup that is a snapshot of the volume, in the cloud itself. Every other names an object store."""

# --- grants ---


class Grant(msgspec.Struct, frozen=True):
    """Leave to do one thing (PUT or GET) under one backup's prefix, until it expires. Whoever holds it may use it."""

    kind: str
    """The storage driver that understands it, such as "swift"."""
    url: str
    """Ends with "/"; an object's name is appended, percent-encoded."""
    query: str
    """What goes behind "?" of every request."""
    method: str
    expires_at: float
    """Unix seconds, by the control plane's clock."""

    def __repr__(self) -> str:
        return f"Grant({self.kind}, {self.method}, {self.url})"


# --- the stored format (docs/BACKUPS.md) ---


class Segment(msgspec.Struct, frozen=True):
    """One stored piece of the sealed stream. Its place in the manifest is its number, which is inside its seal too."""

    name: str
    """Of the object, under the backup's prefix."""
    bytes: int
    """As stored."""
    sha256: str
    """Hex, of the object as stored, as is `md5`, which object stores reckon themselves."""
    md5: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup consists of. The object is this as one line of JSON, a line feed, and a MAC of that line in hex."""

    format: int = FORMAT
    requires: list[str] = []
    """Features that a reader must know, or refuse the backup. Everything else that it does not know it may ignore."""
    backup: str
    kind: str = "full"
    datastore: str
    created_at: float
    compression: str = "zstd"
    frame_bytes: int
    """Plain bytes in each sealed frame of a segment but the last."""
    segment_bytes: int
    """Plain bytes in each segment but the last."""
    raw_bytes: int
    stored_bytes: int
    position: dict[str, str] = {}
    tools: dict[str, str] = {}
    segments: list[Segment] = []


def read_manifest(stored: bytes) -> tuple[Manifest, bytes, str]:
    """The manifest, the bytes that its MAC covers, and the MAC. ValueError if it is none of this format."""
    line, feed, mac = stored.partition(b"\n")
    try:
        manifest = msgspec.json.decode(line, type=Manifest)
        text = mac.strip().decode("ascii")
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a manifest: {error}") from error
    if not feed or manifest.format != FORMAT or manifest.requires:
        raise ValueError(f"a manifest of another format: {manifest.format} {' '.join(manifest.requires)}".rstrip())
    return manifest, line, text


# --- guest commands (`coffer_shared.commands`) ---


class BackUp(msgspec.Struct, frozen=True):
    """`backup`: read the engine, seal what it gives, store it. A full backup."""

    backup: str
    """The backup's id, which goes into every seal."""
    image: str
    """registry/repository@sha256:... of the backup image."""
    key: str
    """The data key, hex."""
    grant: Grant
    segment_bytes: int = SEGMENT_BYTES

    def __repr__(self) -> str:
        return f"BackUp({self.backup})"


class BackedUp(msgspec.Struct, frozen=True):
    """Result of `backup`. The manifest is stored and is the last thing that was."""

    manifest_sha256: str
    """Hex, of the stored object."""
    raw_bytes: int
    """What the engine gave, before compression."""
    stored_bytes: int
    """All segments, as stored; without the manifest."""
    segments: int
    position: dict[str, str]
    """The engine's own words for the point that a restore comes to."""
    tools: dict[str, str]
    """Program to version."""


class RestoreFrom(msgspec.Struct, frozen=True):
    """Part of `prepare`: fill the new, empty data directory from this backup instead of initialising it."""

    backup: str
    image: str
    key: str
    grant: Grant
    manifest_sha256: str

    def __repr__(self) -> str:
        return f"RestoreFrom({self.backup})"


# --- between the agent and the container: files in the job directory, each replaced whole ---

JOB_DIRECTORY = Path("/job")
"""Where the container sees it, read-only; `out` in it is writable."""
JOB, GRANT, PROGRESS, OUTCOME = "job.json", "grant.json", "out/progress.json", "out/outcome.json"


class Job(msgspec.Struct, frozen=True):
    """job.json: what the container is to do. Holds the data key."""

    action: str
    """backup or restore"""
    backup: str
    datastore: str
    key: str
    segment_bytes: int = SEGMENT_BYTES
    manifest_sha256: str = ""
    """Of the backup to restore."""
    target: str = ""
    """The empty directory to restore into, as the container sees it."""

    def __repr__(self) -> str:
        return f"Job({self.action}, {self.backup})"


class Progress(msgspec.Struct, frozen=True):
    """out/progress.json, about once a second."""

    done_bytes: int = 0
    """Of the engine's data, before compression."""
    total_bytes: int = 0
    """0: not known."""
    stored_bytes: int = 0
    text: str = ""


class Outcome(msgspec.Struct, frozen=True):
    """out/outcome.json, written once at the end; the exit status is 0 if `code` is empty."""

    code: str = ""
    """One of `coffer_shared.messages.Failure`."""
    text: str = ""
    backed_up: BackedUp | None = None
    restored_bytes: int = 0


# --- the engine's part ---


@dataclass(frozen=True, slots=True)
class Heard:
    """What one line of a tool's standard error says."""

    done_bytes: int | None = None
    total_bytes: int | None = None
    position: tuple[tuple[str, str], ...] = ()
    """Entries of the position, as name and value."""


class BackupTool(Protocol):
    """`TOOL` in a datastore's `tool.py`: the programs of the backup image. Imports nothing beyond the standard library
    and coffer_shared, since it runs in the backup container."""

    def source(self, backup: str) -> tuple[str, ...]:
        """The program that writes the whole backup, uncompressed, to standard output and ends with 0 only if it is
        whole."""
        ...

    def hear(self, line: str) -> Heard | None: ...

    def versions(self) -> tuple[tuple[str, ...], ...]:
        """Programs to ask for their versions; the first line of each answer is kept."""
        ...

    def unpack(self, target: Path) -> tuple[str, ...]:
        """The program that reads that stream from standard input into the empty directory."""
        ...

    def check_unpacked(self, target: Path) -> None:
        """ValueError if what was unpacked cannot be a database of this engine. Blocks."""
        ...
