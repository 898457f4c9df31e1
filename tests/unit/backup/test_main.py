"""The program as the agent sees it: a job directory in, files and an exit status out."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from coffer_backup import main as module
from coffer_backup.store.patience import Patience
from coffer_shared.backups import GRANT, JOB, OUTCOME, PROGRESS, Grant, Job, Outcome, Progress
from coffer_shared.messages import Failure
from unit.backup import program
from unit.backup.fakes import BACKUP, KEY, SEGMENT, content
from unit.backup.swift_server import SECRET, SwiftServer

TESTS = Path(program.__file__).parents[2]
MIB = 1024 * 1024


def prepared(directory: Path, job: Job, grant: Grant) -> Path:
    (directory / "out").mkdir(parents=True)
    (directory / JOB).write_bytes(msgspec.json.encode(job))
    (directory / GRANT).write_bytes(msgspec.json.encode(grant))
    return directory


def job(action: str = "backup", **changes: object) -> Job:
    return msgspec.structs.replace(Job(action, BACKUP, "scripted", KEY.hex(), SEGMENT), **changes)


@asynccontextmanager
async def started(directory: Path, *scripts: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, program.__file__, *scripts),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "COFFER_JOB_DIRECTORY": str(directory), "PYTHONPATH": ":".join([str(TESTS), *sys.path])},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def finished(directory: Path, *scripts: str) -> Outcome:
    """It says nothing, and its exit status is what its outcome is."""
    async with started(directory, *scripts) as process:
        said, _ = await process.communicate()
        assert said == b""
    return ended(directory, process)


def ended(directory: Path, process: asyncio.subprocess.Process) -> Outcome:
    stored = (directory / OUTCOME).read_bytes()
    for written in (stored, (directory / PROGRESS).read_bytes()):
        assert KEY.hex().encode() not in written
        assert SECRET.encode() not in written
    outcome = msgspec.json.decode(stored, type=Outcome)
    assert process.returncode == (1 if outcome.code else 0)
    return outcome


async def test_backup_and_restore(tmp_path: Path) -> None:
    data = content(500_000)
    (tmp_path / "data").write_bytes(data)
    async with SwiftServer() as server:
        there = prepared(tmp_path / "job", job(), server.grant())
        outcome = await finished(there, f"echo done=50 >&2; cat {tmp_path}/data; echo end=0/99 >&2")
        assert outcome.code == ""
        done = outcome.backed_up
        assert done is not None
        assert done.raw_bytes == len(data)
        assert done.position == {"end": "0/99"}
        assert done.segments == len(server.objects) - 1

        target = tmp_path / "target"
        target.mkdir()
        back = job("restore", manifest_sha256=done.manifest_sha256, target=str(target))
        outcome = await finished(prepared(tmp_path / "back", back, server.grant(method="GET")), "false")
        assert outcome == Outcome(restored_bytes=len(data))
        assert (target / "data").read_bytes() == data

        server.objects["segments/00000001"] = server.objects["segments/00000000"]
        (target / "data").unlink()
        outcome = await finished(prepared(tmp_path / "damaged", back, server.grant(method="GET")), "false")
        assert outcome.code == Failure.DAMAGED
        assert "segment 1 (segments/00000001)" in outcome.text


async def test_a_source_that_fails_after_all(tmp_path: Path) -> None:
    async with SwiftServer() as server:
        there = prepared(tmp_path / "job", job(), server.grant())
        outcome = await finished(there, "seq 100000; echo 'FATAL: too late' >&2; exit 1")
        assert (outcome.code, outcome.backed_up) == (Failure.ENGINE, None)
        assert "FATAL: too late" in outcome.text
        assert server.objects
        assert not any("manifest" in request for request in server.requests)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_stopped_in_the_middle(tmp_path: Path, signum: int) -> None:
    async with SwiftServer() as server:
        there = prepared(tmp_path / "job", job(), server.grant())
        async with started(there, f"echo $$ > {tmp_path}/pid; exec cat /dev/urandom") as process:
            while len(server.objects) < 5:
                await asyncio.sleep(0.01)
            process.send_signal(signum)
            process.send_signal(signum)
            async with asyncio.timeout(5):
                assert await process.wait() == 1
        assert ended(there, process).code == Failure.CANCELLED
        assert not any("manifest" in request for request in server.requests)
        assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


async def test_stopped_while_the_store_does_not_answer(tmp_path: Path) -> None:
    async with SwiftServer() as server:
        done = asyncio.Event()

        async def waiting(_: web.Request) -> None:
            await done.wait()

        server.always = waiting
        there = prepared(tmp_path / "job", job(), server.grant())
        async with started(there, "exec cat /dev/urandom") as process:
            while not server.requests:
                await asyncio.sleep(0.01)
            process.terminate()
            async with asyncio.timeout(5):
                await process.wait()
        done.set()
        assert ended(there, process).code == Failure.CANCELLED


async def test_a_grant_that_expired_and_its_successor_in_the_job_directory(tmp_path: Path) -> None:
    async with SwiftServer() as server:
        there = prepared(tmp_path / "job", job(), server.grant(expires_at=1.0))
        server.valid = {f"{SECRET}-1"}
        async with started(there, "head -c 300000 /dev/urandom") as process:
            while len(server.requests) < 2:
                await asyncio.sleep(0.01)
            (there / "new").write_bytes(msgspec.json.encode(server.grant(1)))
            (there / "new").replace(there / GRANT)
            await process.wait()
        outcome = ended(there, process)
        assert outcome.backed_up is not None
        assert outcome.backed_up.segments == len(server.objects) - 1


async def test_progress_is_there_while_it_runs(tmp_path: Path) -> None:
    async with SwiftServer() as server:
        there = prepared(tmp_path / "job", job(), server.grant())
        async with started(there, "head -c 1000000 /dev/urandom; echo done=77 >&2; sleep 1000") as process:
            progress = Progress()
            async with asyncio.timeout(20):
                while progress.done_bytes != 77 or not progress.stored_bytes:
                    await asyncio.sleep(0.05)
                    if (there / PROGRESS).exists():
                        progress = msgspec.json.decode((there / PROGRESS).read_bytes(), type=Progress)
            assert progress.total_bytes == 100
            process.terminate()


async def test_memory_is_bounded_whatever_the_size(tmp_path: Path) -> None:
    """Segments of the real size, of what does not compress, through the real pipeline; all processes together."""
    size = 300 * MIB
    async with SwiftServer(keep=False) as server:
        there = prepared(tmp_path / "job", job(segment_bytes=32 * MIB), server.grant())
        async with started(there, f"exec head -c {size} /dev/urandom") as process:
            waiting, peaks = asyncio.create_task(process.wait()), dict[int, int]()
            while not waiting.done():
                peaks.update(high_water(process.pid))
                await asyncio.wait({waiting}, timeout=0.02)
        outcome = ended(there, process)
        assert outcome.backed_up is not None
        assert outcome.backed_up.raw_bytes == size
        assert server.received > size
    assert len(peaks) >= 3
    assert peaks[process.pid] > 3 * 32 * MIB, "the measurement sees the buffers"
    assert sum(peaks.values()) < 190 * MIB


def high_water(pid: int) -> dict[int, int]:
    """Peak resident bytes of a process and its children."""
    found = {}
    for each in (pid, *children(pid)):
        try:
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
        except OSError:
            continue
        # between fork and exec a child shares this program's memory
        name = next(line.split()[1] for line in lines if line.startswith("Name"))
        for line in lines:
            if line.startswith("VmHWM") and (each == pid or not name.startswith("python")):
                found[each] = int(line.split()[1]) * 1024
    return found


def children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return []


# --- jobs that cannot be done ---


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (job("dance", datastore="postgresql"), "no action called dance"),
        (job(datastore="nothing"), "no datastore called nothing"),
        (job(key="00"), "data key"),
        (job(key="zz" * 32), "data key"),
        (job("restore", target="relative", datastore="postgresql"), "not an empty directory"),
    ],
)
async def test_jobs_that_make_no_sense(tmp_path: Path, given: Job, said: str) -> None:
    there = prepared(tmp_path / "job", given, Grant("swift", "http://127.0.0.1:1/", SECRET, "PUT", 1e12))
    outcome = await module.run(there, Patience(seconds=0))
    assert outcome.code == Failure.INVALID
    assert said in outcome.text


@pytest.mark.parametrize("name", [JOB, GRANT])
async def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    there = prepared(tmp_path / "job", job(), Grant("swift", "http://127.0.0.1:1/", SECRET, "PUT", 1e12))
    for secret in (b'{"key": "' + KEY.hex().encode() + b'"', b'{"query": 3}', None):
        (there / name).unlink()
        if secret is not None:
            (there / name).write_bytes(secret)
            outcome = await module.run(there, Patience(seconds=0))
            assert (outcome.code, outcome.text[:20]) == (Failure.INVALID, f"{name} cannot be read (D"[:20])
    assert (await module.run(there, Patience(seconds=0))).code == Failure.INVALID


async def test_an_unknown_kind_of_store(tmp_path: Path) -> None:
    there = prepared(tmp_path / "job", job(), Grant("tape", "", SECRET, "PUT", 1e12))
    outcome = await module.run(there, Patience(seconds=0))
    assert outcome == Outcome(code=Failure.INVALID, text="there is no kind of store called tape")


async def test_an_error_that_nobody_thought_of_says_where_but_not_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(module, "back_up", broken)
    monkeypatch.setattr(module, "_tool", lambda _: None)
    there = prepared(tmp_path / "job", job(), Grant("swift", "http://127.0.0.1:1/", SECRET, "PUT", 1e12))
    outcome = await module.run(there, Patience(seconds=0))
    assert outcome.code == Failure.INTERNAL
    assert outcome.text.startswith("unexpected RuntimeError in test_main.py, line ")


async def test_the_container_needs_three_libraries_only() -> None:
    script = (
        "import sys, coffer_datastores, coffer_backup.main\n"
        "coffer_datastores.tool('postgresql')\n"
        "ours = {'nats', 'structlog', 'asyncpg', 'aiodocker', 'pydantic', 'coffer_guest'}\n"
        "assert not (ours | {'coffer_datastores.postgresql.driver'}) & set(sys.modules)\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == 0
