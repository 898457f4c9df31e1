"""Backups through real programs into a store in memory: what is stored, and when there is no manifest."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from coffer_backup import backup as module
from coffer_backup.backup import BUFFERS, back_up
from coffer_backup.buffers import Buffers
from coffer_backup.errors import GiveUp
from coffer_backup.job import Meter
from coffer_shared.backups import MANIFEST, read_manifest
from coffer_shared.messages import Failure
from unit.backup.fakes import FRAME, KEY, MemoryStore, ScriptTool, backed_up, backup_job, content


async def attempt(script: str, store: MemoryStore | None = None, meter: Meter | None = None) -> MemoryStore:
    store = store or MemoryStore()
    await back_up(backup_job(), KEY, ScriptTool(script), store, meter or Meter(), frame_bytes=FRAME)
    return store


async def refused(script: str, store: MemoryStore) -> GiveUp:
    with pytest.raises(GiveUp) as caught:
        await attempt(script, store)
    assert MANIFEST not in store.names
    return caught.value


async def test_a_backup_is_its_segments_and_then_a_manifest(tmp_path: Path) -> None:
    data = content(400_000)
    store, done = await backed_up(data, tmp_path)
    manifest, _, _ = read_manifest(store.objects[MANIFEST])
    assert store.names[-1] == MANIFEST
    assert sorted(store.names[:-1]) == [f"segments/{number:08d}" for number in range(done.segments)]
    assert done.segments == len(manifest.segments) > 4
    assert done.raw_bytes == manifest.raw_bytes == len(data)
    assert done.stored_bytes == sum(len(stored) for name, stored in store.objects.items() if name != MANIFEST)
    assert done.tools["zstd"].startswith("*** ")


async def test_what_the_tool_says_becomes_progress_and_position() -> None:
    meter = Meter()
    store = await attempt("printf 'start=0/28\\ndone=33\\rdone=66\\n' >&2; echo x; printf 'end=0/99' >&2", None, meter)
    manifest, _, _ = read_manifest(store.objects[MANIFEST])
    assert manifest.position == {"start": "0/28", "end": "0/99"}
    assert (meter.done_bytes, meter.total_bytes) == (66, 100)
    assert meter.stored_bytes == manifest.stored_bytes


@pytest.mark.parametrize("rest", ["exit 1", "kill -9 $$"])
async def test_a_source_that_wrote_everything_and_then_failed_leaves_no_backup(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(content(200_000))
    store = MemoryStore()
    error = await refused(f"cat {path}; echo 'server: the log is gone' >&2; {rest}", store)
    assert store.names, "segments were stored, so it was the exit status alone that told"
    assert error.code == Failure.ENGINE
    assert "server: the log is gone" in error.text


async def test_many_lines_of_a_failing_source_are_trimmed() -> None:
    error = await refused("seq 100000 >&2; head -c 100000 /dev/zero | tr '\\0' y >&2; exit 1", MemoryStore())
    assert "99999" in error.text
    assert "99990" not in error.text
    assert len(error.text) < 1500


async def test_an_empty_stream_is_no_backup() -> None:
    error = await refused("true", MemoryStore())
    assert error.code == Failure.ENGINE
    assert "wrote nothing" in error.text


async def test_a_tool_that_is_not_there() -> None:
    error = await refused("exec /nowhere/tool", MemoryStore())
    assert error.code == Failure.ENGINE
    assert "status 127" in error.text


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("head -c 100000 >/dev/null; echo 'zstd: error 11 : no memory' >&2; exit 11", "no memory"),
        ("head -c 100000 >/dev/null; kill -9 $$", "signal 9"),
        # ends well, but a part of what it wrote never came
        ('"$ZSTD" "$@" | { head -c 70000; cat >/dev/null; }', "bytes, but wrote 70000"),
        # says nothing of what it read
        ('"$ZSTD" -q -c', "speaks of None bytes"),
    ],
)
async def test_a_compressor_that_fails_leaves_no_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    fake = tmp_path / "zstd"
    fake.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{script}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("ZSTD", "/usr/bin/zstd")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "data").write_bytes(content(3_000_000))
    error = await refused(f"cat {tmp_path}/data", MemoryStore())
    assert error.code == Failure.INTERNAL
    assert said in error.text


async def test_a_store_that_refuses_ends_the_programs(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        if name.endswith("2"):
            raise GiveUp(Failure.STORAGE, "the store answers 413")

    store = MemoryStore(before_put=refuse)
    error = await refused(f"echo $$ > {tmp_path}/pid; exec cat /dev/urandom", store)
    assert error.code == Failure.STORAGE
    assert_gone(tmp_path / "pid")


async def test_when_stopped_the_programs_end_and_there_is_no_manifest(tmp_path: Path) -> None:
    begun = asyncio.Event()
    store = MemoryStore(before_put=lambda name: begun.set() if name.endswith("3") else None)
    running = asyncio.create_task(attempt(f"echo $$ > {tmp_path}/pid; exec cat /dev/urandom", store))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert MANIFEST not in store.names
    assert_gone(tmp_path / "pid")


async def test_when_stopped_while_the_source_says_nothing(tmp_path: Path) -> None:
    running = asyncio.create_task(attempt(f"echo $$ > {tmp_path}/pid; sleep 1000; echo never"))
    while not (tmp_path / "pid").exists():
        await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert_gone(tmp_path / "pid")


async def test_no_more_buffers_than_three_and_two_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the store, and however much there is."""
    made: list[Buffers] = []

    class Watched(Buffers):
        def __init__(self, count: int, size: int) -> None:
            super().__init__(count, size)
            made.append(self)

    monkeypatch.setattr(module, "Buffers", Watched)
    gate = asyncio.Event()
    store = MemoryStore(before_put=lambda name: gate if name != MANIFEST else None)
    running = asyncio.create_task(attempt("head -c 3000000 /dev/urandom", store))
    while not (made and made[0].made == BUFFERS and store.at_once == 2):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not store.names
    gate.set()
    await running
    (buffers,) = made
    assert buffers.made == BUFFERS == 3
    assert store.most_at_once == 2
    assert len(store.names) > 90


def assert_gone(path: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


