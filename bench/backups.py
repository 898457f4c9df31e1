"""What a backup costs, side by side with the bare tools: a PostgreSQL of 2 GB, its backup image and Swift, on loopback.

Each stage is run three times in turn with the others (gzip once: it takes that long); the median counts. MB and GB are
decimal and mean the engine's own bytes. CPU seconds are of the backup container, the database server and Swift apart.

    COFFER_BENCH_GB=2     how much data
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import machine
import msgspec

from coffer_provisioner.storage.interface import Container
from coffer_provisioner.storage.swift import SwiftStorage
from coffer_shared.backups import GRANT, JOB, OUTCOME, Grant, Job, Outcome

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support.swift import Swift

HERE = Path(__file__).resolve().parent / "inside"
SERVER, TOOLS = "coffer/postgres:17", "coffer/postgres-backup:17"
NAME = "coffer-bench-backups"
ROWS_PER_GB = 3_000_000
ROUNDS = 3
BASE = "pg_basebackup -D - -Ft -X fetch -c fast --no-password"
PYTHON = "/opt/coffer/bin/python"
# half incompressible, half words, as real tables are
_FILL = """
CREATE TABLE t AS SELECT n AS id, (random() * 1e9)::int AS k,
    md5(random()::text) || md5(random()::text) || md5(random()::text) || md5(random()::text) AS h,
    (SELECT string_agg((ARRAY['account','balance','customer','order','payment','invoice','shipped','pending','refund',
        'warehouse','region','street','total','price','discount','loyalty','member','northern','southern','express',
        'standard','return','damaged','approved','manual','review'])[1 + (random() * 25)::int], ' ')
     FROM generate_series(1, 20) WHERE n > 0) AS w
FROM generate_series(1, {rows}) n;
CHECKPOINT;
"""


@dataclass
class Stage:
    """One command line; what it came to, by round."""

    title: str
    command: str
    rounds: int = ROUNDS
    seconds: list[float] = field(default_factory=list)
    cpu: list[tuple[float, float, float]] = field(default_factory=list)
    """Of the backup container, the server, Swift."""

    def rate(self, size: int) -> float:
        return size / 1e6 / statistics.median(self.seconds)


def docker(*arguments: str, give: str | None = None) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, input=give)
    if done.returncode:
        raise SystemExit(f"docker {' '.join(arguments[:3])}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def container_cpu(name: str) -> float:
    """Seconds that everything in it has used, by its control group."""
    own = docker("inspect", "-f", "{{.Id}}", name)
    for path in (f"/sys/fs/cgroup/cpuacct/docker/{own}/cpuacct.usage",
                 f"/sys/fs/cgroup/cpu,cpuacct/docker/{own}/cpuacct.usage"):
        if Path(path).exists():
            return int(Path(path).read_text()) / 1e9
    usage = Path(f"/sys/fs/cgroup/system.slice/docker-{own}.scope/cpu.stat").read_text()
    return int(re.search(r"usage_usec (\d+)", usage)[1]) / 1e6  # type: ignore[index]


@contextmanager
def server(gigabytes: float) -> Iterator[int]:
    """A filled PostgreSQL; gives the bytes of one base backup."""
    docker("volume", "create", f"{NAME}-run")
    docker(
        "run", "-d", "--name", NAME, "--shm-size", "256m", "-v", f"{NAME}-run:/var/run/postgresql",
        "-e", "POSTGRES_HOST_AUTH_METHOD=trust", SERVER, "-c", "max_wal_size=4GB", "-c", "shared_buffers=512MB",
        "-c", "jit=off",
    )
    try:
        while subprocess.run(["docker", "exec", NAME, "pg_isready", "-qh", "127.0.0.1"], check=False).returncode:
            time.sleep(0.2)
        sql(_FILL.format(rows=int(ROWS_PER_GB * gigabytes)))
        time.sleep(5)
        yield int(docker("exec", NAME, "sh", "-c", f"{BASE} -U postgres | wc -c"))
    finally:
        docker("rm", "-f", "-v", NAME)
        docker("volume", "rm", f"{NAME}-run")


def sql(statements: str) -> None:
    docker("exec", "-i", NAME, "psql", "-XAtqU", "postgres", "-v", "ON_ERROR_STOP=1", give=statements)


def run(stage: Stage, swift: str, job: Path, size: int) -> None:
    before = container_cpu(NAME), container_cpu(swift)
    text = docker(
        "run", "--rm", "--network", f"container:{swift}", "--user", "999:998", "--log-driver", "none",
        "--memory", "256m", "--memory-swap", "256m", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/target:uid=999",
        "-v", f"{NAME}-run:/var/run/postgresql", "-v", f"{HERE}:/bench:ro", "-v", f"{job}:/job",
        "-e", "PGHOST=/var/run/postgresql", "-e", "PGUSER=postgres", "-e", "LC_ALL=C", "-a", "stdout",
        "--entrypoint", PYTHON, TOOLS, "/bench/stage.py", stage.command,
    )
    found: dict[str, Any] = json.loads(text)
    outcome = job / OUTCOME
    if found["status"]:
        said = outcome.read_text() if outcome.exists() else found["said"]
        raise SystemExit(f"{stage.title}: status {found['status']}: {said}")
    after = container_cpu(NAME), container_cpu(swift)
    stage.seconds.append(found["seconds"])
    stage.cpu.append((found["cpu"], after[0] - before[0], after[1] - before[1]))
    machine.line(f"  {stage.title}", f"{found['seconds']:6.1f} s  {size / 1e6 / found['seconds']:6.0f} MB/s")


@contextmanager
def closing_swift() -> Iterator[Swift]:
    swift = Swift.run()
    try:
        yield swift
    finally:
        swift.remove()


def prepare(job: Path, order: Job, grant: Grant) -> None:
    (job / "out").mkdir(exist_ok=True)
    (job / "out").chmod(0o777)
    job.chmod(0o755)
    for name, content in ((JOB, order), (GRANT, grant)):
        (job / name).write_bytes(msgspec.json.encode(content))
        (job / name).chmod(0o644)
    (job / OUTCOME).unlink(missing_ok=True)


def stored_bytes(job: Path) -> int:
    done = msgspec.json.decode((job / OUTCOME).read_bytes(), type=Outcome).backed_up
    assert done is not None
    return done.stored_bytes


def table(stages: list[Stage], size: int) -> None:
    gigabytes = size / 1e9
    print(f"\n{size / 1e9:.2f} GB, median of n; CPU seconds for each GB: backup container, database server, Swift")
    for stage in stages:
        own, server_, swift = (statistics.median(column) / gigabytes for column in zip(*stage.cpu, strict=True))
        figures = f"{stage.rate(size):6.0f} MB/s  {own:5.2f} {server_:5.2f} {swift:5.2f}  n={len(stage.seconds)}"
        print(f"{stage.title:<58} {figures}")


async def main() -> None:
    gigabytes = float(os.environ.get("COFFER_BENCH_GB", "2"))
    with tempfile.TemporaryDirectory() as folder, server(gigabytes) as size, closing_swift() as swift:
        job, storage = Path(folder), SwiftStorage(swift.settings())
        place = Container("bench", "backups", (secrets.token_hex(16), secrets.token_hex(16)))
        await storage.ensure_container(place)
        def grant(method: str) -> Grant:
            made = storage.grant(place, "bench/one/", method, until=time.time() + 3600)
            return msgspec.structs.replace(made, url=re.sub(r"^https?://[^/]+", "http://127.0.0.1:8080", made.url))

        backup = Job("backup", "one", "postgresql", secrets.token_hex(32))
        tool = Stage("tool > /dev/null", f"{BASE} > /dev/null")
        zstd = Stage("tool | zstd -1 > /dev/null", f"{BASE} | zstd -1 -q > /dev/null")
        gzip = Stage("tool | gzip -6 > /dev/null", f"{BASE} | gzip -6 > /dev/null", rounds=1)
        own_null = Stage("coffer-backup, null store", f"{PYTHON} /bench/null_store.py")
        bare = Stage("tool | zstd -1 | bare uploader to Swift", f"{BASE} | zstd -1 -q | {PYTHON} /bench/uploader.py")
        own = Stage("coffer-backup to Swift", "coffer-backup")
        stages = [tool, zstd, own_null, bare, own, gzip]
        stored = 0
        for number in range(ROUNDS):
            for stage in stages:
                if number < stage.rounds:
                    null = msgspec.structs.replace(grant("PUT"), kind="null")
                    prepare(job, backup, null if stage is own_null else grant("PUT"))
                    run(stage, swift.container, job, size)
                    if stage is own:
                        stored = stored_bytes(job)
        table(stages, size)
        null_share, swift_share = own_null.rate(size) / zstd.rate(size), own.rate(size) / bare.rate(size)
        machine.line("coffer-backup to a null store / tool | zstd -1", f"{100 * null_share:.0f} % (goal: 80)")
        machine.line("coffer-backup to Swift / bare uploader", f"{100 * swift_share:.0f} % (goal: 80)")
        machine.line("coffer-backup to Swift / tool | gzip -6", f"{own.rate(size) / gzip.rate(size):.1f} x (goal: 3)")
        machine.line("stored, of the engine's bytes", f"{100 * stored / size:.0f} %")
        await storage.close()


asyncio.run(main())
