"""Whether what is stored of a backup is what was written. Nothing here awaits: it may run in a thread.

What the guest reported, the manifest and the names in it come from a machine that may be hostile.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from coffer_provisioner.storage.interface import Stored
from coffer_shared.backups import MANIFEST, BackedUp, Manifest, read_manifest
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

BAD_RESULT = "bad_result"
MOST_BYTES = 1 << 60
MOST_SEGMENTS = 1 << 20
MOST_FACTS = 64
MOST_FACT = 200
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Absent(GiveUp):
    """Something is not in the listing, which may be late: stores list an object a while after it is stored."""


def reported(result: Mapping[str, Any]) -> BackedUp:
    """A guest's result, if it makes sense; GiveUp if not."""
    try:
        found = msgspec.convert(dict(result), BackedUp)
    except (msgspec.ValidationError, RecursionError):
        raise GiveUp(BAD_RESULT, "the guest's result is not that of a backup") from None
    sane = (
        _SHA256.fullmatch(found.manifest_sha256) is not None
        and 1 <= found.raw_bytes <= MOST_BYTES
        and 1 <= found.stored_bytes <= MOST_BYTES
        and 1 <= found.segments <= MOST_SEGMENTS
        and _few_words(found.position)
        and _few_words(found.tools)
    )
    if not sane:
        raise GiveUp(BAD_RESULT, "the guest's result cannot be that of a backup")
    return found


def recorded(row: Mapping[str, Any]) -> BackedUp:
    """As `reported`, of a backup that was found whole when it was made."""
    return BackedUp(
        manifest_sha256=row["manifest_sha256"], raw_bytes=row["raw_bytes"], stored_bytes=row["stored_bytes"],
        segments=row["segments"], position=row["position"], tools=row["tools"],
    )


def compare(backup: str, found: BackedUp, stored: bytes, listing: Sequence[Stored]) -> None:
    """`stored` is the manifest object, `listing` all that is under the backup's prefix. GiveUp, naming the segment."""
    if hashlib.sha256(stored).hexdigest() != found.manifest_sha256:
        raise _damaged("the manifest is not the one that was written")
    try:
        manifest, _, _ = read_manifest(stored)
    except (ValueError, RecursionError):
        raise _damaged("the manifest cannot be read") from None
    if manifest.backup != backup:
        raise _damaged("the manifest is another backup's")
    _compare_sums(found, manifest)
    expected = {MANIFEST: (len(stored), hashlib.md5(stored, usedforsecurity=False).hexdigest())}
    for segment in manifest.segments:
        if segment.name in expected:
            raise _damaged(f"the manifest names {_shown(segment.name)} twice")
        expected[segment.name] = (segment.bytes, segment.md5)
    _compare_objects(expected, listing)


def _compare_sums(found: BackedUp, manifest: Manifest) -> None:
    stored = sum(segment.bytes for segment in manifest.segments)
    sums = (
        ("number of segments", found.segments, len(manifest.segments)),
        ("size of all segments", found.stored_bytes, stored),
        ("size of all segments by its own account", manifest.stored_bytes, stored),
        ("size of the data", found.raw_bytes, manifest.raw_bytes),
    )
    for what, said, counted in sums:
        if said != counted:
            raise _damaged(f"the manifest does not fit the backup: the {what} differs")


def _compare_objects(expected: dict[str, tuple[int, str]], listing: Sequence[Stored]) -> None:
    for one in listing:
        if one.name not in expected:
            raise _damaged(f"there is an object that the manifest does not list: {_shown(one.name)}")
        size, md5 = expected.pop(one.name)
        if one.bytes != size:
            raise _damaged(f"segment {_shown(one.name)} has {one.bytes} bytes instead of {size}")
        if one.md5 != md5:
            raise _damaged(f"segment {_shown(one.name)} is not what was written")
    for name in expected:
        raise Absent(Failure.DAMAGED, f"segment {_shown(name)} is missing")


def _few_words(facts: Mapping[str, str]) -> bool:
    return len(facts) <= MOST_FACTS and all(
        len(word) <= MOST_FACT and word.isprintable() for fact in facts.items() for word in fact
    )


def _shown(name: str) -> str:
    """A name that a guest chose, for a sentence."""
    return "".join(c if c.isprintable() else "?" for c in name[:100])


def _damaged(text: str) -> GiveUp:
    return GiveUp(Failure.DAMAGED, text)
