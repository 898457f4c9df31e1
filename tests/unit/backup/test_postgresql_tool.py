"""PostgreSQL's part: its command lines, and what its programs say. The messages are those of pg_basebackup 17."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

import coffer_datastores
from coffer_shared.backups import Heard

TOOL = coffer_datastores.tool("postgresql")


def test_only_datastores_that_have_one_have_a_tool() -> None:
    with pytest.raises(KeyError):
        coffer_datastores.tool("nothing")
    with pytest.raises(KeyError):
        coffer_datastores.tool("../postgresql")


def test_the_source() -> None:
    command = TOOL.source("6f2b")
    assert " ".join(command) == (
        "pg_basebackup -D - -Ft -X fetch -c fast -P -v --no-password -l coffer 6f2b"
    )
    assert command[-1] == "coffer 6f2b"


@pytest.mark.parametrize(
    ("line", "heard"),
    [
        ("667039/978525 kB (68%), 0/1 tablespace (-                                  )",
         Heard(done_bytes=667039 * 1024, total_bytes=978525 * 1024)),
        ("994921/994921 kB (100%), 1/1 tablespace                                         ",
         Heard(done_bytes=994921 * 1024, total_bytes=994921 * 1024)),
        ("     0/978525 kB (0%), 0/2 tablespaces", Heard(done_bytes=0, total_bytes=978525 * 1024)),
        ("pg_basebackup: write-ahead log start point: 0/3D000028 on timeline 12",
         Heard(position=(("start_lsn", "0/3D000028"), ("timeline", "12")))),
        ("pg_basebackup: write-ahead log end point: A/3D000120", Heard(position=(("end_lsn", "A/3D000120"),))),
        ("pg_basebackup: initiating base backup, waiting for checkpoint to complete", Heard()),
        ("pg_basebackup: base backup completed", Heard()),
        ('pg_basebackup: error: connection to server on socket "/x/.s.PGSQL.5432" failed: No such file', None),
        ("pg_basebackup: error: could not read COPY data: ERROR:  requested WAL segment 00000001 is gone", None),
        ('WARNING:  checksum verification failed in file "base/5/1234", block 7: calculated 1 but expected 2', None),
    ],
)  # fmt: skip
def test_what_it_says(line: str, heard: Heard | None) -> None:
    assert TOOL.hear(line) == heard


def cluster() -> dict[str, bytes]:
    return {"PG_VERSION": b"17\n", "backup_label": b"LABEL: coffer x\n", "global/pg_control": bytes(8192)}


def unpacked(target: Path, files: dict[str, bytes]) -> int:
    target.mkdir()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o600
            tar.addfile(entry, io.BytesIO(data))
    return subprocess.run(TOOL.unpack(target), input=stream.getvalue(), check=False).returncode


def test_it_unpacks_into_a_closed_directory_below_the_target(tmp_path: Path) -> None:
    target = tmp_path / "a target"
    assert unpacked(target, cluster()) == 0
    TOOL.check_unpacked(target)
    made = target / "cluster"
    assert made.stat().st_mode & 0o777 == 0o700
    assert (made / "global/pg_control").stat().st_mode & 0o777 == 0o600
    assert (made / "PG_VERSION").read_bytes() == b"17\n"


def test_a_stream_that_ends_early_fails(tmp_path: Path) -> None:
    script = tmp_path / "target"
    script.mkdir()
    whole = subprocess.run(
        ("tar", "-cf", "-", "-C", "/usr/lib", "os-release"), check=True, capture_output=True
    ).stdout
    assert subprocess.run(TOOL.unpack(script), input=whole[:700], check=False, capture_output=True).returncode != 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"PG_VERSION": None}, "PG_VERSION"),
        ({"PG_VERSION": b""}, "holds no version"),
        ({"backup_label": None}, "backup_label"),
        ({"global/pg_control": None}, "global/pg_control"),
        ({"global/pg_control": bytes(100)}, "another size"),
    ],
)
def test_what_is_no_cluster(tmp_path: Path, change: dict[str, bytes | None], said: str) -> None:
    files = {name: data for name, data in {**cluster(), **change}.items() if data is not None}
    target = tmp_path / "target"
    assert unpacked(target, files) == 0
    with pytest.raises(ValueError, match=said):
        TOOL.check_unpacked(target)
