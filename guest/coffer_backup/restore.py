"""A restore: the store, seals, zstd, the engine's own unpacking, into an empty directory.

The manifest is checked as a whole first. Of a segment, not one byte goes on before all of it has been checked. Segments
are fetched and opened ahead: two, while a third is being unpacked.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from coffer_backup.buffers import Buffers, anonymous
from coffer_backup.compression import Zstd
from coffer_backup.errors import Damaged, GiveUp
from coffer_backup.job import Meter
from coffer_backup.manifest import check_manifest
from coffer_backup.programs import Child, End, Program, joined, pipe, running
from coffer_backup.sealing import Keys, Place, unseal
from coffer_backup.store.interface import Store
from coffer_backup.working import Threads, together
from coffer_shared.backups import MANIFEST, MANIFEST_LIMIT, BackupTool, Job, Manifest
from coffer_shared.messages import Failure

AHEAD = 2
BUFFERS = AHEAD + 1
_ATTEMPTS = 3
"""To fetch one segment whole; what is damaged in the store stays so, what is damaged on the way does not."""


async def restore(job: Job, key: bytes, tool: BackupTool, store: Store, meter: Meter) -> int:
    """The engine's bytes that were restored. GiveUp says why not; what was unpacked until then stays."""
    target = Path(job.target)
    if not _is_empty(target):
        raise GiveUp(Failure.INVALID, "the directory to restore into is not an empty directory")
    keys, zstd = Keys.of(key), Zstd.decompress()
    manifest = await _manifest(job, keys, store)
    meter.total_bytes = manifest.raw_bytes
    with pipe() as (read, write), Threads(BUFFERS) as threads:
        async with joined(zstd.program, Program(tool.unpack(target)), stdin=read.fd) as programs:
            read.close()  # zstd has its own copy; with this one open, writing would go on without it
            async with together() as group:
                whole = await _Fetching(manifest, keys, store, threads, group).pour(write, meter)
                await _ended_well(*programs, zstd, manifest)
                if not whole:
                    raise GiveUp(Failure.INTERNAL, "zstd ended before it had read everything")
        await threads.run(_check, tool, target)
    await _synced(target)
    return manifest.raw_bytes


def _is_empty(target: Path) -> bool:
    return target.is_absolute() and target.is_dir() and not any(target.iterdir())


async def _manifest(job: Job, keys: Keys, store: Store) -> Manifest:
    room = anonymous(MANIFEST_LIMIT)
    try:
        size = await store.get(MANIFEST, room)
    except Damaged as error:
        raise Damaged(f"{MANIFEST} of backup {job.backup}: {error.text}") from error
    return check_manifest(bytes(room[:size]), job, keys.manifest)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A segment of which every byte is as it was sealed."""

    buffer: memoryview
    plain: memoryview
    """The part of the buffer that it is."""


class _Fetching:
    """From stored segments to the compressed stream."""

    def __init__(
        self, manifest: Manifest, keys: Keys, store: Store, threads: Threads, group: asyncio.TaskGroup
    ) -> None:
        self._manifest = manifest
        self._keys = keys
        self._store = store
        self._threads = threads
        self._group = group
        self._buffers = Buffers(BUFFERS, max(segment.bytes for segment in manifest.segments))

    async def pour(self, write: End, meter: Meter) -> bool:
        """All of it into the pipe. False: nobody reads there any more."""
        segments, ahead, following = self._manifest.segments, deque[asyncio.Task[_Opened]](), 0
        for segment in segments:
            while following < len(segments) and len(ahead) < BUFFERS:
                ahead.append(self._group.create_task(self._whole(following)))
                following += 1
            opened = await ahead.popleft()
            if not await self._threads.run(_pour, write.fd, opened.plain):
                return False
            self._buffers.give(opened.buffer)
            meter.stored_bytes += segment.bytes
            # zstd alone knows how far it is; over a whole segment this is near enough
            meter.done_bytes = self._manifest.raw_bytes * meter.stored_bytes // self._manifest.stored_bytes
        write.close()
        return True

    async def _whole(self, number: int) -> _Opened:
        buffer = await self._buffers.take()
        attempt = 1
        while True:
            try:
                return _Opened(buffer, await self._opened(number, buffer))
            except Damaged:
                if attempt == _ATTEMPTS:
                    raise
                attempt += 1

    async def _opened(self, number: int, buffer: memoryview) -> memoryview:
        """The plain bytes, in the buffer."""
        segment, place = self._manifest.segments[number], Place(self._manifest.backup, number)
        try:
            size = await self._store.get(segment.name, buffer[: segment.bytes])
        except Damaged as error:
            raise Damaged(f"{place}: {error.text}") from error
        key, frame_bytes = self._keys.segments, self._manifest.frame_bytes
        return await self._threads.run(unseal, buffer[:size], segment, key, place, frame_bytes)


def _pour(fd: int, data: memoryview) -> bool:
    """Blocks."""
    try:
        while data:
            data = data[os.write(fd, data) :]
    except BrokenPipeError:
        return False
    return True


async def _ended_well(decompressor: Child, unpacker: Child, zstd: Zstd, manifest: Manifest) -> None:
    """GiveUp unless everything went through both programs. Which one is to blame: the one that was not cut off."""
    status, unpacked = await decompressor.ended(), await unpacker.ended()
    failure = decompressor.failure(status)
    if status and not (status == -signal.SIGPIPE or "Broken pipe" in failure):
        raise Damaged(f"backup {manifest.backup} does not decompress: {failure}")
    if status or unpacked:
        raise GiveUp(Failure.ENGINE, unpacker.failure(unpacked))
    if zstd.raw_bytes != manifest.raw_bytes:
        sizes = f"{zstd.raw_bytes} bytes instead of {manifest.raw_bytes}"
        raise Damaged(f"backup {manifest.backup} decompresses to {sizes}")


def _check(tool: BackupTool, target: Path) -> None:
    try:
        tool.check_unpacked(target)
    except ValueError as error:
        raise Damaged(f"what was unpacked is no database: {error}") from error


async def _synced(target: Path) -> None:
    """On the disk, so that what takes its place by a rename survives a crash right after it."""
    program = Program(("sync", "-f", str(target)))
    async with running(program) as child:
        status = await child.ended()
    if status:
        raise GiveUp(Failure.ENGINE, child.failure(status))
