"""Stored format 1 by itself: what opens, and that nothing else does."""

from __future__ import annotations

import hashlib
import os
import random

import msgspec
import pytest

from coffer_backup.errors import Damaged
from coffer_backup.manifest import MAX_SEGMENTS, check_manifest, write_manifest
from coffer_backup.sealing import HEADER_BYTES, SEAL_BYTES, Keys, Place, Stream, seal, stored_size, unseal_frames
from coffer_shared.backups import Job, Manifest, Segment
from unit.backup.fakes import BACKUP, FRAME, KEY, SEGMENT, content, flipped

KEYS = Keys.of(KEY)
PLACE = Place(BACKUP, 3)


def sealed(data: bytes, place: Place = PLACE, key: bytes = KEYS.segments, frame: int = FRAME) -> bytes:
    """As one segment."""
    pieces = [data[at : at + frame] for at in range(0, len(data), frame)]
    room = memoryview(bytearray(stored_size(len(data), frame)))
    made = seal(((piece, number == len(pieces) - 1) for number, piece in enumerate(pieces)), key, place, room)
    assert made is not None
    assert made.bytes == len(room)
    return bytes(room)


def opened(stored: bytes, place: Place = PLACE, key: bytes = KEYS.segments, frame: int = FRAME) -> bytes:
    return bytes(unseal_frames(memoryview(bytearray(stored)), key, place, frame))


def cut(data: bytes, segment: int, frame: int) -> list[list[tuple[bytes, bool]]]:
    """What `Stream` makes of these bytes when they come in odd pieces."""
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    stream, segments = Stream(read, segment, frame), []
    while frames := list(stream.frames()):
        segments.append(frames)
    os.close(read)
    assert stream.total == len(data)
    return segments


@pytest.mark.parametrize("size", [1, FRAME - 1, FRAME, FRAME + 1, SEGMENT - 1, SEGMENT])
def test_what_was_sealed_opens(size: int) -> None:
    data = content(size)
    assert opened(sealed(data)) == data


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 19, 20, 21, 28, 40, 41])
def test_the_stream_is_cut_at_exact_places(size: int) -> None:
    """Segments of 20, frames of 8: three frames in a full segment, the third of 4."""
    data = content(size)
    segments = cut(data, 20, 8)
    assert b"".join(frame for frames in segments for frame, _ in frames) == data
    assert [sum(len(frame) for frame, _ in frames) for frames in segments] == [
        min(20, size - at) for at in range(0, size, 20)
    ]
    for frames in segments:
        assert [last for _, last in frames] == [False] * (len(frames) - 1) + [True]
        assert all(len(frame) == 8 for frame, _ in frames[:2][:-1])


def test_nothing_is_no_segment() -> None:
    assert seal([], KEYS.segments, PLACE, memoryview(bytearray(100))) is None


def test_a_changed_byte_anywhere_is_refused_by_the_seal_alone() -> None:
    data = sealed(content(SEGMENT - 100))
    rng = random.Random(7)
    places = {0, HEADER_BYTES - 1, HEADER_BYTES, len(data) - 1} | {rng.randrange(len(data)) for _ in range(100)}
    for at in places:
        with pytest.raises(Damaged, match=r"segment 3 \(segments/00000003\)"):
            opened(flipped(data, at, rng.randrange(8)))


def test_frames_cannot_be_left_out_repeated_or_exchanged() -> None:
    data = sealed(content(SEGMENT))
    step = FRAME + SEAL_BYTES
    frames = [data[at : at + step] for at in range(HEADER_BYTES, len(data), step)]
    assert len(frames) == 4
    for order in ([0, 1, 2], [1, 2, 3], [0, 2, 1, 3], [0, 1, 1, 2, 3], [0, 1, 2, 3, 3], [3], []):
        with pytest.raises(Damaged):
            opened(data[:HEADER_BYTES] + b"".join(frames[number] for number in order))


@pytest.mark.parametrize("less", [1, SEAL_BYTES, FRAME, FRAME + SEAL_BYTES, SEGMENT])
def test_a_shorter_segment_is_refused(less: int) -> None:
    with pytest.raises(Damaged):
        opened(sealed(content(SEGMENT))[:-less])


def test_a_longer_segment_is_refused() -> None:
    stored = sealed(content(SEGMENT))
    for more in (b"\0", bytes(SEAL_BYTES), bytes(FRAME), stored[HEADER_BYTES:]):
        with pytest.raises(Damaged):
            opened(stored + more)


@pytest.mark.parametrize("other", [Place(BACKUP, 4), Place(BACKUP[:-1] + "b", 3), Place("", 3)])
def test_a_segment_opens_in_no_other_place(other: Place) -> None:
    stored = sealed(content(1000), other)
    assert opened(stored, other) == content(1000)
    with pytest.raises(Damaged, match="segment 3 "):
        opened(stored)


def test_another_key_and_the_key_for_another_use_are_refused() -> None:
    stored = sealed(content(1000))
    for key in (Keys.of(bytes(32)).segments, KEYS.manifest, KEY):
        with pytest.raises(Damaged):
            opened(stored, key=key)


def test_the_same_bytes_are_never_stored_twice() -> None:
    assert sealed(content(1000)) != sealed(content(1000))


# --- the manifest ---


def manifest(**changes: object) -> Manifest:
    full = stored_size(SEGMENT, FRAME)
    made = Manifest(
        backup=BACKUP,
        datastore="postgresql",
        created_at=1.5,
        frame_bytes=FRAME,
        segment_bytes=SEGMENT,
        raw_bytes=1_000_000,
        stored_bytes=2 * full + 1000,
        position={"end_lsn": "0/2000028"},
        segments=[Segment(Place(BACKUP, number).name, size, "ab" * 32, "cd" * 16)
                  for number, size in enumerate((full, full, 1000))],
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def checked(stored: bytes, key: bytes = KEYS.manifest, *, sha256: str = "") -> Manifest:
    job = Job("restore", BACKUP, "postgresql", "", manifest_sha256=sha256 or hashlib.sha256(stored).hexdigest())
    return check_manifest(stored, job, key)


def test_the_manifest_is_one_line_and_its_mac() -> None:
    stored = write_manifest(manifest(), KEYS.manifest)
    line, mac = stored.split(b"\n")
    assert msgspec.json.decode(line)["segments"][2]["name"] == "segments/00000002"
    assert mac.decode() == hashlib.blake2b(line, key=KEYS.manifest, digest_size=32).hexdigest()
    assert checked(stored) == manifest()


def test_the_keys_are_those_of_the_description() -> None:
    """docs/BACKUPS.md: a reader in another language derives the same."""
    assert KEYS.segments == hashlib.blake2b(b"coffer backup 1: segments", key=KEY, digest_size=32).digest()
    assert KEYS.manifest == hashlib.blake2b(b"coffer backup 1: manifest", key=KEY, digest_size=32).digest()
    assert PLACE.bound == b"coffer backup 1\0" + b"\0\0\0\0\0\0\0\x03" + BACKUP.encode()


def test_a_changed_byte_anywhere_in_the_manifest_is_refused() -> None:
    """By the checksum that the control plane keeps; and by the MAC alone, whatever the checksum."""
    stored = write_manifest(manifest(), KEYS.manifest)
    right = hashlib.sha256(stored).hexdigest()
    for at in range(len(stored)):
        changed = flipped(stored, at, at % 8)
        with pytest.raises(Damaged, match=r"manifest\.json of backup"):
            checked(changed, sha256=right)
        with pytest.raises(Damaged, match=r"manifest\.json of backup"):
            checked(changed)


def test_a_manifest_of_another_key_is_refused() -> None:
    with pytest.raises(Damaged, match="another key"):
        checked(write_manifest(manifest(), Keys.of(bytes(32)).manifest))


SEGMENTS = manifest().segments
FULL = stored_size(SEGMENT, FRAME)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"requires": ["erasure"]},
        {"backup": "another"},
        {"datastore": "mysql"},
        {"kind": "incremental"},
        {"compression": "lz4"},
        {"frame_bytes": 0},
        {"frame_bytes": SEGMENT + 1},
        {"segment_bytes": 1 << 31},
        {"raw_bytes": 0},
        {"stored_bytes": 1},
        {"segments": [], "stored_bytes": 0},
        {"segments": SEGMENTS[:2]},
        {"segments": [SEGMENTS[1], SEGMENTS[0], SEGMENTS[2]]},
        {"segments": [*SEGMENTS, SEGMENTS[2]], "stored_bytes": 2 * FULL + 2000},
        {"segments": [SEGMENTS[2], SEGMENTS[1], SEGMENTS[0]]},
        {"segments": [*SEGMENTS[:2], Segment("segments/00000002", FULL + 1, "ab" * 32, "cd" * 16)],
         "stored_bytes": 3 * FULL + 1},
        {"segments": [*SEGMENTS[:2], Segment("segments/00000002", 41, "ab" * 32, "cd" * 16)],
         "stored_bytes": 2 * FULL + 41},
        {"segments": [*SEGMENTS[:2], Segment("segments/00000002", 1000, "", "cd" * 16)]},
        {"segments": [*SEGMENTS[:2], Segment("../secret", 1000, "ab" * 32, "cd" * 16)]},
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_right_is_refused_though_its_mac_is(changes: dict[str, object]) -> None:
    with pytest.raises(Damaged, match=r"manifest\.json of backup"):
        checked(write_manifest(manifest(**changes), KEYS.manifest))


def test_fields_that_are_not_known_are_ignored() -> None:
    line = msgspec.json.encode({**msgspec.to_builtins(manifest()), "colour": "green"})
    stored = line + b"\n" + hashlib.blake2b(line, key=KEYS.manifest, digest_size=32).hexdigest().encode()
    assert checked(stored) == manifest()


def test_the_largest_manifest_fits_its_limit() -> None:
    from coffer_shared.backups import MANIFEST_LIMIT

    one = len(msgspec.json.encode(Segment(f"segments/{MAX_SEGMENTS:08d}", 1 << 30, "ab" * 32, "cd" * 16)))
    assert (one + 1) * MAX_SEGMENTS + 100_000 < MANIFEST_LIMIT
