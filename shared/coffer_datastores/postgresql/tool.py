"""PostgreSQL's part of a backup: pg_basebackup's tar, with the write-ahead log that it needs, and its unpacking.

Where the server is comes from the container's environment (PGHOST, PGPORT, PGUSER). Runs in the backup container, so it
imports the standard library and coffer_shared only.
"""

from __future__ import annotations

import re
from pathlib import Path

from coffer_shared.backups import Heard

_CLUSTER = "cluster"
"""Below the target, as it is below the data directory."""
_PG_CONTROL_BYTES = 8192
_PROGRESS = re.compile(r"(\d+)/(\d+) kB \(\d+%\), \d+/\d+ tablespaces?")
_START = re.compile(r"write-ahead log start point: ([0-9A-F]+/[0-9A-F]+) on timeline (\d+)")
_END = re.compile(r"write-ahead log end point: ([0-9A-F]+/[0-9A-F]+)")
_STAGE = re.compile(
    r"pg_basebackup: (initiating base backup|checkpoint completed|waiting for|syncing data|base backup completed)"
)


class PostgresTool:
    def source(self, backup: str) -> tuple[str, ...]:
        """`-X fetch` takes the log's files at the end, so something must keep them for as long: a slot, made before.
        The server checks every page's checksum on the way; one that is wrong fails the backup."""
        return (
            *("pg_basebackup", "-D", "-", "-Ft", "-X", "fetch", "-c", "fast"),
            *("-P", "-v", "--no-password", "-l", f"coffer {backup}"),
        )

    def hear(self, line: str) -> Heard | None:
        if found := _PROGRESS.search(line):
            return Heard(done_bytes=int(found[1]) * 1024, total_bytes=int(found[2]) * 1024)
        if found := _START.search(line):
            return Heard(position=(("start_lsn", found[1]), ("timeline", found[2])))
        if found := _END.search(line):
            return Heard(position=(("end_lsn", found[1]),))
        return Heard() if _STAGE.match(line) else None

    def versions(self) -> tuple[tuple[str, ...], ...]:
        return (("pg_basebackup", "--version"), ("zstd", "--version"))

    def unpack(self, target: Path) -> tuple[str, ...]:
        script = 'mkdir -m 0700 -- "$1" && exec tar -x --no-same-owner -p -f - -C "$1"'
        return ("sh", "-c", script, "unpack", str(target / _CLUSTER))

    def check_unpacked(self, target: Path) -> None:
        cluster = target / _CLUSTER
        for name in ("PG_VERSION", "backup_label", "global/pg_control"):
            if not (cluster / name).is_file():
                raise ValueError(f"there is no {name}")
        if not (cluster / "PG_VERSION").read_text().strip().isdecimal():
            raise ValueError("PG_VERSION holds no version")
        if (cluster / "global" / "pg_control").stat().st_size != _PG_CONTROL_BYTES:
            raise ValueError("global/pg_control has another size")


TOOL = PostgresTool()
