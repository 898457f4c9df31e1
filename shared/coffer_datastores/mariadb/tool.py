"""MariaDB's part of a backup: mariadb-backup's stream of files, with the log that makes them one, and its unpacking.

Runs in the backup container, so it imports the standard library and coffer_shared only. The words for where the server
is and who the container is to it are those of `mysql_containers` and `mysql_session`, which it cannot import.
"""

from __future__ import annotations

import re
from pathlib import Path

from coffer_shared.backups import Heard

_DATA = "data"
"""Below the target, as it is below the data directory."""
_CHECKPOINTS = "mariadb_backup_checkpoints"
_STATED = re.compile(
    r"mariadb-backup based on |mariabackup: Stopping log copying thread|"
    r"(?:\[\d+\] )?\d{4}-\d\d-\d\d {1,2}\d{1,2}:\d\d:\d\d (?!.*\b(?:error|failed|cannot|can't|unable)\b)",
    re.IGNORECASE,
)
_LOG = re.compile(r"\[00\] \S+ +\S+ Redo log \(from LSN (\d+) to (\d+)\) was copied")


class MariaTool:
    def source(self, backup: str) -> tuple[str, ...]:
        """The log is read beside the files, from before the first to after the last of them. Every page's checksum is
        checked on the way; one that is wrong fails the backup."""
        del backup
        return (
            *("mariadb-backup", "--no-defaults", "--backup", "--stream=mbstream", "--target-dir=/tmp/backup"),
            *("--datadir=/var/lib/mysql/data", "--socket=/run/mysqld/mysqld.sock", "--user=coffer_backup"),
        )

    def hear(self, line: str) -> Heard | None:
        if found := _LOG.match(line):
            return Heard(position=(("start_lsn", found[1]), ("end_lsn", found[2])))
        return Heard() if _STATED.match(line) else None

    def versions(self) -> tuple[tuple[str, ...], ...]:
        return (("mariadb-backup", "--version"), ("zstd", "--version"))

    def unpack(self, target: Path) -> tuple[str, ...]:
        """What was read while it changed is made one by the log that came with it, which is used up by that."""
        script = (
            'mkdir -m 0700 -- "$1" && mbstream -x -C "$1" && '
            'exec mariadb-backup --no-defaults --prepare --use-memory=64M --target-dir="$1"'
        )
        return ("sh", "-c", script, "unpack", str(target / _DATA))

    def check_unpacked(self, target: Path) -> None:
        data = target / _DATA
        for name in ("ibdata1", "ib_logfile0", "aria_log_control", "mysql/global_priv.frm", _CHECKPOINTS):
            if not (data / name).is_file():
                raise ValueError(f"there is no {name}")
        if "backup_type = log-applied" not in (data / _CHECKPOINTS).read_text().splitlines():
            raise ValueError("it was not made whole")


TOOL = MariaTool()
