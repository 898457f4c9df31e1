"""MariaDB's part: its command lines, and what its programs say. The messages are those of mariadb-backup 11.8."""

from __future__ import annotations

from pathlib import Path

import pytest

import coffer_datastores
from coffer_datastores.mysql_containers import DATA, SOCKETS
from coffer_datastores.mysql_session import BACKUP_USER, SOCKET_NAME
from coffer_shared.backups import Heard

TOOL = coffer_datastores.tool("mariadb")
AT = "[00] 2026-05-04 03:02:01"


def test_the_source_names_what_the_driver_means() -> None:
    command = TOOL.source("6f2b")
    assert command[:2] == ("mariadb-backup", "--no-defaults")
    assert {f"--datadir={DATA}", f"--socket={SOCKETS}/{SOCKET_NAME}", f"--user={BACKUP_USER}"} <= set(command)


@pytest.mark.parametrize(
    ("line", "heard"),
    [
        (f"{AT} Redo log (from LSN 45552 to 49047) was copied.",
         Heard(position=(("start_lsn", "45552"), ("end_lsn", "49047")))),
        ("[01] 2026-05-04 03:02:01 Streaming ./shop/t.ibd", Heard()),
        (f"{AT} Acquired locks for BACKUP STAGE START", Heard()),
        (f"{AT} completed OK!", Heard()),
        ("2026-05-04  3:02:01 0 [Note] InnoDB: Using io_uring", Heard()),
        ("2026-05-04  3:02:01 0 [Error] InnoDB: it failed", None),
        ("2026-05-04 03:02:01 0 [Note] InnoDB: Using io_uring", Heard()),
        ("mariabackup: Stopping log copying thread.", Heard()),
        ("mariadb-backup based on MariaDB server 11.8.9-MariaDB debian-linux-gnu (x86_64)", Heard()),
        (f"{AT} Failed to connect to MariaDB server: Can't connect to local server through socket (2).", None),
        ("[00] FATAL ERROR: 2026-05-04 03:02:01 failed to execute query BACKUP STAGE START", None),
        ("2026-05-04 03:02:01 0 [ERROR] InnoDB: Missing MLOG_CHECKPOINT", None),
        ("mbstream: wrong chunk magic at offset 0x0.", None),
    ],
)  # fmt: skip
def test_what_it_says(line: str, heard: Heard | None) -> None:
    assert TOOL.hear(line) == heard


def unpacked(target: Path, *, without: str = "", checkpoints: str = "backup_type = log-applied\n") -> None:
    data = target / "data"
    for name in ("ibdata1", "ib_logfile0", "aria_log_control", "mysql/global_priv.frm", "mariadb_backup_checkpoints"):
        if name != without:
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_text(checkpoints)


def test_a_whole_one_is_taken(tmp_path: Path) -> None:
    unpacked(tmp_path)
    TOOL.check_unpacked(tmp_path)


@pytest.mark.parametrize("without", ["ibdata1", "mysql/global_priv.frm", "mariadb_backup_checkpoints"])
def test_what_lacks_something_is_no_database(tmp_path: Path, without: str) -> None:
    unpacked(tmp_path, without=without)
    with pytest.raises(ValueError, match=without):
        TOOL.check_unpacked(tmp_path)


def test_what_was_not_brought_to_one_moment_is_no_database(tmp_path: Path) -> None:
    unpacked(tmp_path, checkpoints="backup_type = full-backuped\n")
    with pytest.raises(ValueError, match="whole"):
        TOOL.check_unpacked(tmp_path)
