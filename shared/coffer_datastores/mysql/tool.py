"""MySQL's part of a backup: the files of a copy of its data directory, and their unpacking.

Runs in the backup container, so it imports the standard library and coffer_shared only. Where the copy is, is the word
of `backup`, which it cannot import.
"""

from __future__ import annotations

import re
from pathlib import Path

from coffer_shared.backups import Heard

_DATA = "data"
"""Below the target, as it is below the data directory."""
_RECORD_BYTES = 10240
_TOTAL = re.compile(r"coffer: (\d+) bytes$")
_DONE = re.compile(r"tar: (\d+) records$")
# Every page's checksum is looked at first: the copy is of one moment, so none is half written. What is left out is the
# server's identity and keys, which another server must not have, and what it makes anew at every start.
_SOURCE = r"""
cd "/copies/$1" || exit
echo "coffer: $(du -sb . | cut -f1) bytes" >&2
find . -type f \( -name '*.ibd' -o -name 'ibdata*' -o -name 'undo_*' \) ! -path './#innodb_temp/*' -print0 |
    xargs -0 -r -n 1 innochecksum >&2 || exit
exec tar --exclude=./auto.cnf --exclude='./*.pem' --exclude=./ibtmp1 --exclude='./#innodb_temp/*' \
    --checkpoint=3200 --checkpoint-action='echo=%u records' -cf - .
"""


class MySQLTool:
    def source(self, backup: str) -> tuple[str, ...]:
        return ("sh", "-c", _SOURCE, "source", backup)

    def hear(self, line: str) -> Heard | None:
        if found := _TOTAL.match(line):
            return Heard(total_bytes=int(found[1]))
        if found := _DONE.match(line):
            return Heard(done_bytes=int(found[1]) * _RECORD_BYTES)
        return None

    def versions(self) -> tuple[tuple[str, ...], ...]:
        return (("innochecksum", "--version"), ("zstd", "--version"))

    def unpack(self, target: Path) -> tuple[str, ...]:
        script = 'mkdir -m 0700 -- "$1" && exec tar -x --no-same-owner -p -f - -C "$1"'
        return ("sh", "-c", script, "unpack", str(target / _DATA))

    def check_unpacked(self, target: Path) -> None:
        data = target / _DATA
        for name in ("ibdata1", "mysql.ibd", "undo_001"):
            if not (data / name).is_file():
                raise ValueError(f"there is no {name}")
        if not any((data / "#innodb_redo").glob("#ib_redo*")):
            raise ValueError("there is no redo log")


TOOL = MySQLTool()
