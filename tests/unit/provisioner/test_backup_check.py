"""Every way in which what is stored can differ from what was written, and every nonsense that a guest can report."""

from __future__ import annotations

import json

import msgspec
import pytest

from coffer_provisioner.backup_check import BAD_RESULT, MOST_FACTS, compare, recorded, reported
from coffer_provisioner.storage.interface import Stored
from coffer_shared.backups import MANIFEST
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure
from unit.provisioner.backup_material import BACKUP, listing, manifest, md5, result, segment, segments, stored

OBJECTS = segments()
WHOLE = manifest(OBJECTS)
FOUND = result(OBJECTS, WHOLE)
LISTED = listing(OBJECTS, WHOLE)


def refusal(found=FOUND, stored_manifest=WHOLE, listed=None):
    with pytest.raises(GiveUp) as caught:
        compare(BACKUP, found, stored_manifest, LISTED if listed is None else listed)
    assert caught.value.code == Failure.DAMAGED
    return caught.value.text


def spoiled(stored_manifest, **changes):
    """A guest that tells the truth about a manifest that is none."""
    return refusal(msgspec.structs.replace(result(OBJECTS, stored_manifest), **changes), stored_manifest)


def test_a_whole_backup_passes_in_whatever_order_it_is_listed():
    compare(BACKUP, FOUND, WHOLE, LISTED)
    compare(BACKUP, FOUND, WHOLE, LISTED[::-1])


# --- what is stored ---


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_a_missing_segment_is_named(name):
    assert f"{name} is missing" in refusal(listed=[one for one in LISTED if one.name != name])


@pytest.mark.parametrize("name", [*sorted(OBJECTS), MANIFEST])
@pytest.mark.parametrize("how", ["truncated", "longer", "changed"])
def test_a_changed_segment_is_named(name, how):
    def change(one):
        if one.name != name:
            return one
        if how == "changed":
            return Stored(one.name, one.bytes, md5(b"something else"))
        return Stored(one.name, one.bytes + (1 if how == "longer" else -1), one.md5)

    text = refusal(listed=[change(one) for one in LISTED])
    assert name in text
    assert ("is not what was written" if how == "changed" else "bytes instead of") in text


@pytest.mark.parametrize("name", ["00000003", "x", "..", "", "0000000", "manifest.json2", "deeper/00000001"])
def test_an_object_that_is_not_of_the_backup_is_named(name):
    assert refusal(listed=[*LISTED, stored(name, b"x")]).endswith(f"does not list: {name}")


def test_an_object_that_is_listed_twice_is_not_taken():
    assert "does not list" in refusal(listed=[*LISTED, LISTED[0]])


def test_nothing_at_all_is_stored():
    assert "is missing" in refusal(listed=[])


# --- the manifest ---


def test_another_manifest_than_the_reported_one():
    assert "manifest" in refusal(msgspec.structs.replace(FOUND, manifest_sha256="0" * 64))
    assert "manifest" in refusal(stored_manifest=WHOLE + b" ")


@pytest.mark.parametrize("bad", [
    b"", b"\n", b"{}\n00", b"[]\n00", b"\xff\n00", b"null", WHOLE.partition(b"\n")[0],
    manifest(OBJECTS, format=2), manifest(OBJECTS, requires=["chains"]),
    b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n00",
    WHOLE.replace(b'"bytes":8', b'"bytes":"8"'), WHOLE.replace(b"\n", b"\n\xff"),
], ids=lambda bad: repr(bad[:20]))
def test_what_is_no_manifest_is_refused(bad):
    assert spoiled(bad) == "the manifest cannot be read"


def test_the_manifest_of_another_backup_is_refused():
    assert "another backup" in spoiled(manifest(OBJECTS, "44444444-4444-4444-8444-444444444444"))


def test_a_name_in_the_manifest_twice_is_refused():
    twice = [segment(*one) for one in OBJECTS.items()]
    twice[2] = msgspec.structs.replace(twice[2], name="00000001")
    assert spoiled(manifest(OBJECTS, segments=twice)) == "the manifest names 00000001 twice"
    twice[2] = msgspec.structs.replace(twice[2], name=MANIFEST)
    assert "twice" in spoiled(manifest(OBJECTS, segments=twice))


@pytest.mark.parametrize("changes", [
    {"raw_bytes": 999}, {"stored_bytes": FOUND.stored_bytes + 1}, {"segments": 2}, {"segments": 4},
])
def test_sums_that_the_guest_did_not_tell_right_are_refused(changes):
    assert "differs" in refusal(msgspec.structs.replace(FOUND, **changes))


@pytest.mark.parametrize("changes", [{"raw_bytes": 999}, {"stored_bytes": 1}, {"segments": []}])
def test_sums_that_the_manifest_does_not_tell_right_are_refused(changes):
    assert "differs" in spoiled(manifest(OBJECTS, **changes))


def test_sizes_that_only_add_up_are_refused():
    """Negative ones among them."""
    odd = [segment(*one) for one in OBJECTS.items()]
    odd[0] = msgspec.structs.replace(odd[0], bytes=odd[0].bytes + 100)
    odd[1] = msgspec.structs.replace(odd[1], bytes=odd[1].bytes - 100)
    assert "bytes instead of" in spoiled(manifest(OBJECTS, segments=odd))


def test_a_name_that_a_guest_chose_does_not_spoil_the_sentence():
    text = refusal(listed=[*LISTED, stored("a\n\0\u202e" + "b" * 5000, b"x")])
    assert text.isprintable()
    assert len(text) < 300


# --- what a guest reports ---


def plain(**changes):
    return msgspec.to_builtins(FOUND) | changes


def test_an_honest_report_is_read():
    assert reported(plain()) == FOUND
    assert reported(plain(more="of a later release")) == FOUND


@pytest.mark.parametrize("nonsense", [
    {}, {"manifest_sha256": FOUND.manifest_sha256},
    *(plain(**{name: value})
      for name in ("raw_bytes", "stored_bytes", "segments")
      for value in (-1, 0, 1 << 61, 10**400, 1.5, 8.0, "8", None, True, [], {})),
    plain(segments=(1 << 20) + 1),
    *(plain(manifest_sha256=value)
      for value in ("", "ab", "AB" * 32, "zz" * 32, "ab" * 32 + "\n", "ab" * 33, None, 5, "\u0661" * 64)),
    *(plain(**{name: value})
      for name in ("position", "tools")
      for value in (None, [], "x", {"a": 1}, {"a": None}, {"a": {"b": "c"}}, {"a": "b\0"}, {"a\n": "b"},
                    {"a": "\ud800"}, {"a": "b" * 201}, {"a" * 201: "b"},
                    {str(n): "x" for n in range(MOST_FACTS + 1)})),
], ids=lambda nonsense: json.dumps(nonsense)[:60])
def test_nonsense_is_given_up(nonsense):
    with pytest.raises(GiveUp) as caught:
        reported(nonsense)
    assert caught.value.code == BAD_RESULT
    assert len(caught.value.text) < 100


def test_what_a_row_says_is_compared_as_what_a_guest_says():
    assert recorded(msgspec.to_builtins(FOUND) | {"state": "COMPLETED"}) == FOUND
