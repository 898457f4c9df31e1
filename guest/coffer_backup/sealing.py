"""Stored format 1, the segments: the compressed stream cut into pieces, each sealed frame by frame.

A segment is one secretstream of libsodium. Which backup it belongs to and its place in it are inside every seal, so
that none opens in another's place. docs/BACKUPS.md has the layout; nothing here knows where segments are stored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from nacl.bindings import (
    crypto_secretstream_xchacha20poly1305_ABYTES,
    crypto_secretstream_xchacha20poly1305_HEADERBYTES,
    crypto_secretstream_xchacha20poly1305_init_pull,
    crypto_secretstream_xchacha20poly1305_init_push,
    crypto_secretstream_xchacha20poly1305_pull,
    crypto_secretstream_xchacha20poly1305_push,
    crypto_secretstream_xchacha20poly1305_state,
    crypto_secretstream_xchacha20poly1305_TAG_FINAL,
    crypto_secretstream_xchacha20poly1305_TAG_MESSAGE,
)
from nacl.exceptions import CryptoError

from coffer_backup.errors import Damaged
from coffer_shared.backups import KEY_BYTES, Segment

FRAME_BYTES = 256 * 1024
HEADER_BYTES = crypto_secretstream_xchacha20poly1305_HEADERBYTES
SEAL_BYTES = crypto_secretstream_xchacha20poly1305_ABYTES
_MESSAGE = crypto_secretstream_xchacha20poly1305_TAG_MESSAGE
_FINAL = crypto_secretstream_xchacha20poly1305_TAG_FINAL


@dataclass(frozen=True, slots=True)
class Keys:
    """What one data key opens: a key for each use."""

    segments: bytes = field(repr=False)
    manifest: bytes = field(repr=False)

    @classmethod
    def of(cls, data_key: bytes) -> Keys:
        return cls(_derived(data_key, b"coffer backup 1: segments"), _derived(data_key, b"coffer backup 1: manifest"))


@dataclass(frozen=True, slots=True)
class Place:
    """One segment's place: of which backup, and the how-manieth."""

    backup: str
    number: int

    @property
    def name(self) -> str:
        return f"segments/{self.number:08d}"

    @property
    def bound(self) -> bytes:
        """Goes into every seal."""
        return b"coffer backup 1\0" + self.number.to_bytes(8, "big") + self.backup.encode()

    def __str__(self) -> str:
        return f"segment {self.number} ({self.name}) of backup {self.backup}"


def stored_size(plain: int, frame_bytes: int) -> int:
    """How large a segment is that holds so many bytes."""
    return HEADER_BYTES + plain + -(-plain // frame_bytes) * SEAL_BYTES


class Stream:
    """The compressed stream, read from a pipe in pieces of exact size. Blocks, so it belongs in a thread."""

    def __init__(self, fd: int, segment_bytes: int, frame_bytes: int) -> None:
        self._fd = fd
        self._segment_bytes = segment_bytes
        self._frame_bytes = frame_bytes
        self.total = 0

    def frames(self) -> Iterator[tuple[bytes, bool]]:
        """The next segment's frames, and whether each is its last. None at all: the stream has ended."""
        left = self._segment_bytes
        frame = self._read(min(self._frame_bytes, left))
        while frame:
            left -= len(frame)
            following = self._read(min(self._frame_bytes, left))
            yield frame, not following
            frame = following

    def _read(self, size: int) -> bytes:
        """So many bytes, fewer only at the stream's end."""
        pieces = []
        while size and (piece := os.read(self._fd, size)):
            pieces.append(piece)
            size -= len(piece)
            self.total += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def seal(frames: Iterable[tuple[bytes, bool]], key: bytes, place: Place, into: memoryview) -> Segment | None:
    """Fill `into` from its start; what was made of it, or None if there was no frame. Blocks."""
    state = crypto_secretstream_xchacha20poly1305_state()
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    bound = place.bound
    at = 0
    for frame, last in frames:
        if not at:
            header = crypto_secretstream_xchacha20poly1305_init_push(state, key)
            at = _add(header, into, at)
            sha256.update(header)
            md5.update(header)
        sealed = crypto_secretstream_xchacha20poly1305_push(state, frame, bound, _FINAL if last else _MESSAGE)
        at = _add(sealed, into, at)
        sha256.update(sealed)
        md5.update(sealed)
    return Segment(place.name, at, sha256.hexdigest(), md5.hexdigest()) if at else None


def unseal(stored: memoryview, segment: Segment, key: bytes, place: Place, frame_bytes: int) -> memoryview:
    """The plain bytes, written over the stored ones. Damaged unless every one of them is what was sealed. Blocks."""
    if len(stored) != segment.bytes:
        raise Damaged(f"{place} has {len(stored)} bytes instead of {segment.bytes}")
    if hashlib.sha256(stored).hexdigest() != segment.sha256:
        raise Damaged(f"{place} has another checksum than the one that was stored")
    return unseal_frames(stored, key, place, frame_bytes)


def unseal_frames(stored: memoryview, key: bytes, place: Place, frame_bytes: int) -> memoryview:
    """As `unseal`, by the seals alone."""
    state = crypto_secretstream_xchacha20poly1305_state()
    size, step = len(stored), frame_bytes + SEAL_BYTES
    if size <= HEADER_BYTES:
        raise Damaged(f"{place} is too short")
    bound, to = place.bound, 0
    crypto_secretstream_xchacha20poly1305_init_pull(state, bytes(stored[:HEADER_BYTES]), key)
    for at in range(HEADER_BYTES, size, step):
        frame = bytes(stored[at : at + step])
        if len(frame) <= SEAL_BYTES:
            raise Damaged(f"{place} ends within a frame")
        try:
            plain, tag = crypto_secretstream_xchacha20poly1305_pull(state, frame, bound)
        except CryptoError as error:
            raise Damaged(f"{place} does not open: it was changed, or sealed for another place or key") from error
        if tag != (_FINAL if at + step >= size else _MESSAGE):
            raise Damaged(f"{place} ends in the wrong place")
        to = _add(plain, stored, to)
    return stored[:to]


def _derived(key: bytes, context: bytes) -> bytes:
    return hashlib.blake2b(context, key=key, digest_size=KEY_BYTES).digest()


def _add(piece: bytes, into: memoryview, at: int) -> int:
    end = at + len(piece)
    into[at:end] = piece
    return end
