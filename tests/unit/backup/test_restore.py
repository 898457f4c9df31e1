"""Restores through real programs: what comes back is what was backed up, or nothing is accepted."""

from __future__ import annotations

import asyncio
import hashlib
import random
from pathlib import Path

import msgspec
import pytest

from coffer_backup import restore as module
from coffer_backup.buffers import Buffers
from coffer_backup.errors import Damaged, GiveUp
from coffer_backup.job import Meter
from coffer_backup.manifest import write_manifest
from coffer_backup.restore import BUFFERS, restore
from coffer_backup.sealing import Keys
from coffer_shared.backups import MANIFEST, BackedUp, read_manifest
from coffer_shared.messages import Failure
from unit.backup.fakes import (
    BACKUP,
    KEY,
    MemoryStore,
    ScriptTool,
    backed_up,
    content,
    flipped,
    restore_job,
    restored,
)

DATA = content(300_000)


def name(number: int) -> str:
    return f"segments/{number:08d}"


async def damaged(store: MemoryStore, done: BackedUp, directory: Path) -> str:
    """What is said; nothing but a beginning of the right bytes was unpacked."""
    target = directory / f"target-{len(list(directory.iterdir()))}"
    with pytest.raises(Damaged) as caught:
        await restored(store, restore_job(done, target))
    unpacked = (target / "data").read_bytes() if (target / "data").exists() else b""
    assert DATA.startswith(unpacked)
    assert caught.value.code == Failure.DAMAGED
    return caught.value.text


@pytest.mark.parametrize("size", [1, 1000, 43_000, 300_000, 1_000_000])
async def test_round_trip(tmp_path: Path, size: int) -> None:
    data = content(size)
    store, done = await backed_up(data, tmp_path)
    assert await restored(store, restore_job(done, tmp_path / "target")) == data


async def test_what_is_not_compressible_and_what_is_nothing_but_zeros(tmp_path: Path) -> None:
    for data in (random.Random(3).randbytes(200_001), bytes(10_000_000)):
        store, done = await backed_up(data, tmp_path)
        target = tmp_path / f"target-{len(data)}"
        assert await restored(store, restore_job(done, target)) == data


async def test_a_changed_byte_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    store, done = await backed_up(DATA, tmp_path)
    whole, rng = dict(store.objects), random.Random(20)
    for _ in range(100):
        changed = rng.choice(sorted(whole))
        at = rng.randrange(len(whole[changed]))
        store.objects = {**whole, changed: flipped(whole[changed], at, rng.randrange(8))}
        text = await damaged(store, done, tmp_path)
        wanted = MANIFEST if changed == MANIFEST else f"segment {int(changed[-8:])} ({changed})"
        assert text.startswith(wanted)
    store.objects = whole
    assert await restored(store, restore_job(done, tmp_path / "whole")) == DATA


async def test_a_segment_that_is_short_long_missing_or_empty(tmp_path: Path) -> None:
    store, done = await backed_up(DATA, tmp_path)
    whole, last = dict(store.objects), done.segments - 1
    for number in (0, 2, last):
        stored = whole[name(number)]
        for other in (stored[:-1], stored[: len(stored) // 2], stored + b"\0", b"", None):
            store.objects = {key: value for key, value in whole.items() if key != name(number)}
            if other is not None:
                store.objects[name(number)] = other
            text = await damaged(store, done, tmp_path)
            assert text.startswith(f"segment {number} ({name(number)})")
            assert "no such object" in text or "larger than" in text or "bytes instead of" in text


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 2)])
async def test_segments_that_changed_places_or_were_copied(tmp_path: Path, one: int, other: int) -> None:
    store, done = await backed_up(DATA, tmp_path)
    whole = dict(store.objects)
    store.objects = {**whole, name(one): whole[name(other)], name(other): whole[name(one)]}
    text = await damaged(store, done, tmp_path)
    assert f"({name(one)})" in text or f"({name(other)})" in text
    store.objects = {**whole, name(other): whole[name(one)]}
    assert f"({name(other)})" in await damaged(store, done, tmp_path)


async def test_a_segment_of_another_backup_with_the_same_key_and_content(tmp_path: Path) -> None:
    """Refused by its checksum; and where that of a forged manifest agrees, by what is inside the seal."""
    store, done = await backed_up(DATA, tmp_path)
    strange, _ = await backed_up(DATA, tmp_path, BACKUP[:-1] + "b")
    store.objects[name(1)] = strange.objects[name(1)]
    assert f"({name(1)})" in await damaged(store, done, tmp_path)
    manifest, _, _ = read_manifest(store.objects[MANIFEST])
    manifest.segments[1] = read_manifest(strange.objects[MANIFEST])[0].segments[1]
    forged = resealed(store, manifest, done)
    assert "sealed for another place" in await damaged(store, forged, tmp_path)


async def test_the_manifest_of_another_backup(tmp_path: Path) -> None:
    store, done = await backed_up(DATA, tmp_path)
    strange, strangely = await backed_up(DATA, tmp_path, BACKUP[:-1] + "b")
    store.objects[MANIFEST] = strange.objects[MANIFEST]
    assert (await damaged(store, done, tmp_path)).startswith(MANIFEST)
    assert "it is of backup" in await damaged(strange, strangely, tmp_path)


async def test_an_earlier_manifest_of_the_same_backup_with_a_right_seal(tmp_path: Path) -> None:
    """The key does not help: what counts is what was recorded when the backup ended."""
    store, done = await backed_up(DATA, tmp_path)
    manifest, _, _ = read_manifest(store.objects[MANIFEST])
    resealed(store, msgspec.structs.replace(manifest, created_at=manifest.created_at - 60), done)
    assert "than the one that was recorded" in await damaged(store, done, tmp_path)


async def test_no_manifest(tmp_path: Path) -> None:
    store, done = await backed_up(DATA, tmp_path)
    del store.objects[MANIFEST]
    assert (await damaged(store, done, tmp_path)).startswith(MANIFEST)


async def test_a_wrong_key(tmp_path: Path) -> None:
    store, done = await backed_up(DATA, tmp_path)
    with pytest.raises(Damaged, match="another key"):
        await restored(store, restore_job(done, tmp_path / "target"), key=bytes(32))


async def test_a_stream_of_another_length_than_the_manifest_says(tmp_path: Path) -> None:
    store, done = await backed_up(DATA, tmp_path)
    manifest, _, _ = read_manifest(store.objects[MANIFEST])
    forged = resealed(store, msgspec.structs.replace(manifest, raw_bytes=manifest.raw_bytes + 1), done)
    assert "decompresses to 300000 bytes instead of 300001" in await damaged(store, forged, tmp_path)


async def test_a_stream_that_was_never_whole(tmp_path: Path) -> None:
    """As if a writer had left out the last segment and said so in the manifest."""
    store, done = await backed_up(DATA, tmp_path)
    manifest, _, _ = read_manifest(store.objects[MANIFEST])
    less = manifest.segments[:-1]
    stored = sum(segment.bytes for segment in less)
    forged = resealed(store, msgspec.structs.replace(manifest, segments=less, stored_bytes=stored), done)
    assert "does not decompress" in await damaged(store, forged, tmp_path)


async def test_damage_on_the_way_is_fetched_again_twice(tmp_path: Path) -> None:
    store, done = await backed_up(DATA, tmp_path)
    store.flaky = {name(1): 2}
    assert await restored(store, restore_job(done, tmp_path / "target")) == DATA
    assert store.gets.count(name(1)) == 3
    store.flaky, store.gets = {name(1): 3}, []
    await damaged(store, done, tmp_path)
    assert store.gets.count(name(1)) == 3


@pytest.mark.parametrize("kind", ["file", "missing", "full", "relative"])
async def test_only_an_empty_directory_is_filled(tmp_path: Path, kind: str) -> None:
    store, done = await backed_up(DATA, tmp_path)
    target = tmp_path / "target"
    if kind == "file":
        target.touch()
    elif kind == "full":
        target.mkdir()
        (target / "mine").touch()
    job = restore_job(done, Path("tests") if kind == "relative" else target)
    with pytest.raises(GiveUp, match="not an empty directory"):
        await restore(job, KEY, ScriptTool("false"), store, Meter())
    assert not store.gets


@pytest.mark.parametrize(
    ("tool", "code", "said"),
    [
        (ScriptTool("", "echo 'No space left on device' >&2; exit 2"), Failure.ENGINE, "No space left on device"),
        (ScriptTool("", 'cat > "$1/data"; exit 3'), Failure.ENGINE, "status 3"),
        (ScriptTool("", "head -c 1000 >/dev/null"), Failure.ENGINE, "status 0"),
        (ScriptTool("", expected="other"), Failure.DAMAGED, "there is no other"),
    ],
)
async def test_what_cannot_be_unpacked(tmp_path: Path, tool: ScriptTool, code: str, said: str) -> None:
    store, done = await backed_up(content(5_000_000), tmp_path)
    with pytest.raises(GiveUp) as caught:
        await restored(store, restore_job(done, tmp_path / "target"), tool=tool)
    assert caught.value.code == code
    assert said in caught.value.text


async def test_no_more_buffers_than_three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Buffers] = []

    class Watched(Buffers):
        def __init__(self, count: int, size: int) -> None:
            super().__init__(count, size)
            made.append(self)

    monkeypatch.setattr(module, "Buffers", Watched)
    data = content(3_000_000)
    store, done = await backed_up(data, tmp_path)
    slow = ScriptTool("", 'sleep 0.2; cat > "$1/data"')
    assert await restored(store, restore_job(done, tmp_path / "target"), tool=slow) == data
    assert [buffers.made for buffers in made] == [BUFFERS] == [3]


async def test_when_stopped_the_programs_end(tmp_path: Path) -> None:
    store, done = await backed_up(content(3_000_000), tmp_path)
    tool = ScriptTool("", f"echo $$ > {tmp_path}/pid; sleep 1000")
    running = asyncio.create_task(restored(store, restore_job(done, tmp_path / "target"), tool=tool))
    while not (tmp_path / "pid").exists() or len(store.gets) < 3:
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    pid = int((tmp_path / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


def resealed(store: MemoryStore, manifest: object, done: BackedUp) -> BackedUp:
    """A manifest that was changed by somebody who has the key, and whose checksum was recorded."""
    stored = write_manifest(manifest, Keys.of(KEY).manifest)  # type: ignore[arg-type]
    store.objects[MANIFEST] = stored
    return msgspec.structs.replace(done, manifest_sha256=hashlib.sha256(stored).hexdigest())
