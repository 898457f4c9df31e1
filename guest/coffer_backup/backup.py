"""A backup: the engine's tool, zstd, seals, the store. The manifest is the last thing that is stored, and only when
both programs have ended well and every segment is stored.

The raw bytes go from program to program through the kernel. Of the compressed ones, at most three segments are in
memory: two on their way to the store and one that is being filled.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time

from coffer_backup.buffers import Buffers
from coffer_backup.compression import Zstd
from coffer_backup.errors import GiveUp
from coffer_backup.job import Meter
from coffer_backup.manifest import MAX_SEGMENTS, write_manifest
from coffer_backup.programs import Child, Program, first_line, joined, pipe
from coffer_backup.sealing import FRAME_BYTES, Keys, Place, Stream, seal, stored_size
from coffer_backup.store.interface import Store
from coffer_backup.working import Threads, together
from coffer_shared.backups import MANIFEST, MANIFEST_LIMIT, BackedUp, BackupTool, Job, Manifest, Segment
from coffer_shared.messages import Failure

IN_FLIGHT = 2
BUFFERS = IN_FLIGHT + 1


async def back_up(
    job: Job, key: bytes, tool: BackupTool, store: Store, meter: Meter, *, frame_bytes: int = FRAME_BYTES
) -> BackedUp:
    """GiveUp says why there is no backup; nothing that was stored counts then."""
    began = time.time()
    keys, zstd, source = Keys.of(key), Zstd.compress(), _Source(tool, job.backup, meter)
    frame_bytes = min(frame_bytes, job.segment_bytes)
    tools = {command[0]: await first_line(command) for command in tool.versions()}
    with pipe() as (read, write), Threads(1) as threads:
        stream = Stream(read.fd, job.segment_bytes, frame_bytes)
        async with joined(source.program, zstd.program, stdout=write.fd) as programs:
            write.close()  # zstd has its own copy; with this one open, the stream would never end
            saving = _Saving(job, keys, store, meter, Buffers(BUFFERS, stored_size(job.segment_bytes, frame_bytes)))
            async with together() as group:
                await saving.read(stream, threads, group)
                await _ended_well(*programs, zstd, stream.total)
    manifest = Manifest(
        backup=job.backup,
        datastore=job.datastore,
        created_at=began,
        frame_bytes=frame_bytes,
        segment_bytes=job.segment_bytes,
        raw_bytes=zstd.raw_bytes or 0,
        stored_bytes=sum(segment.bytes for segment in saving.segments),
        position=source.position,
        tools=tools,
        segments=saving.segments,
    )
    return await _conclude(manifest, keys, store)


class _Source:
    """The engine's tool, and what is heard of it."""

    def __init__(self, tool: BackupTool, backup: str, meter: Meter) -> None:
        self.program = Program(tool.source(backup), self._hear)
        self.position: dict[str, str] = {}
        self._tool = tool
        self._meter = meter

    def _hear(self, line: str) -> bool:
        heard = self._tool.hear(line)
        if heard is None:
            return False
        self._meter.hear(heard)
        self.position.update(heard.position)
        return True


class _Saving:
    """From the compressed stream to stored segments."""

    def __init__(self, job: Job, keys: Keys, store: Store, meter: Meter, buffers: Buffers) -> None:
        self.segments: list[Segment] = []
        self._job = job
        self._keys = keys
        self._store = store
        self._meter = meter
        self._buffers = buffers
        self._turns = asyncio.Semaphore(IN_FLIGHT)

    async def read(self, stream: Stream, threads: Threads, group: asyncio.TaskGroup) -> None:
        """To the stream's end. What is still on its way to the store then, `group` waits for."""
        for number in itertools.count():
            buffer = await self._buffers.take()
            place = Place(self._job.backup, number)
            segment = await threads.run(seal, stream.frames(), self._keys.segments, place, buffer)
            if segment is None:
                return
            if number == MAX_SEGMENTS:
                raise GiveUp(Failure.INVALID, f"more than {MAX_SEGMENTS} segments: they must be larger")
            self.segments.append(segment)
            group.create_task(self._save(segment, buffer))

    async def _save(self, segment: Segment, buffer: memoryview) -> None:
        async with self._turns:
            await self._store.put(segment.name, buffer[: segment.bytes], segment.md5)
        self._meter.stored_bytes += segment.bytes
        self._buffers.give(buffer)


async def _ended_well(source: Child, compressor: Child, zstd: Zstd, compressed: int) -> None:
    """GiveUp unless everything that the source wrote went through zstd to us, and it says that this was all."""
    status = await compressor.ended()
    if status:
        raise GiveUp(Failure.INTERNAL, compressor.failure(status))
    if zstd.compressed_bytes != compressed or zstd.raw_bytes is None:
        raise GiveUp(Failure.INTERNAL, f"zstd speaks of {zstd.compressed_bytes} bytes, but wrote {compressed}")
    status = await source.ended()
    if status:
        raise GiveUp(Failure.ENGINE, source.failure(status))
    if not zstd.raw_bytes:
        raise GiveUp(Failure.ENGINE, "the engine's tool ended well, but wrote nothing")


async def _conclude(manifest: Manifest, keys: Keys, store: Store) -> BackedUp:
    stored = write_manifest(manifest, keys.manifest)
    if len(stored) > MANIFEST_LIMIT:
        raise GiveUp(Failure.INTERNAL, f"a manifest of {len(stored)} bytes")
    await store.put(MANIFEST, stored, hashlib.md5(stored, usedforsecurity=False).hexdigest())
    return BackedUp(
        manifest_sha256=hashlib.sha256(stored).hexdigest(),
        raw_bytes=manifest.raw_bytes,
        stored_bytes=manifest.stored_bytes,
        segments=len(manifest.segments),
        position=manifest.position,
        tools=manifest.tools,
    )
