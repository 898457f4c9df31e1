"""MySQL's part: its command lines, and what its programs say."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import coffer_datastores
from coffer_datastores.mysql import tool
from coffer_datastores.mysql.driver import DRIVER
from coffer_shared.backups import Heard
from coffer_shared.datastore import Order

TOOL = coffer_datastores.tool("mysql")
ORDER = Order("i", "image", "/data/engine", "/run/x", "/etc/x", ("10.9.0.5",), 3307, 2 << 30, 2, 0)
INNOCHECKSUM = """#!/bin/sh
echo "$1" >>"$(dirname "$0")/checked"
! grep -q torn "$1" || { echo "Fail: page 4 invalid" >&2; exit 1; }
"""


@pytest.mark.parametrize(
    ("line", "heard"),
    [
        ("coffer: 123456 bytes", Heard(total_bytes=123456)),
        ("tar: 3200 records", Heard(done_bytes=32768000)),
        ("tar: ./ibdata1: Cannot open: Permission denied", None),
        ("tar: ./shop/t.ibd: File shrank by 3 bytes; padding with zeros", None),
        ("Fail: page 4 invalid", None),
        ("xargs: innochecksum: exited with status 255; aborting", None),
        ("sh: 2: cd: can't cd to /copies/6f2b", None),
    ],
)
def test_what_it_says(line: str, heard: Heard | None) -> None:
    assert TOOL.hear(line) == heard


# --- the source ---


class Copy:
    """Of a server's files, and `innochecksum` in a place of its own."""

    def __init__(self, directory: Path) -> None:
        self.copies, self.bin = directory / "copies", directory / "bin"
        self.bin.mkdir()
        (self.bin / "innochecksum").write_text(INNOCHECKSUM)
        (self.bin / "innochecksum").chmod(0o755)

    def put(self, name: str, content: str = "x") -> None:
        path = self.copies / "6f2b" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def read(self, backup: str = "6f2b") -> subprocess.CompletedProcess[bytes]:
        command = [word.replace("/copies", str(self.copies)) for word in TOOL.source(backup)]
        path = f"{self.bin}:/usr/local/bin:/usr/bin:/bin"
        return subprocess.run(command, capture_output=True, check=False, env={"PATH": path, "LC_ALL": "C"})

    def checked(self) -> set[str]:
        return set((self.bin / "checked").read_text().split())


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    made = Copy(tmp_path)
    for name in ("ibdata1", "mysql.ibd", "undo_001", "undo_002", "#innodb_redo/#ib_redo7", "shop/o'brien t.ibd"):
        made.put(name)
    return made


def inside(archive: bytes) -> set[str]:
    done = subprocess.run(["tar", "-t"], input=archive, capture_output=True, check=True)
    return {line.removeprefix("./") for line in done.stdout.decode().splitlines() if not line.endswith("/")}


def test_the_source_reads_the_copy_that_the_driver_shows_it() -> None:
    (bind,) = DRIVER.backup_container(ORDER, "image").binds
    assert bind == ("/data/engine.copies", "/copies", "ro")
    command = TOOL.source("6f2b")
    assert command[-1] == "6f2b"
    assert 'cd "/copies/$1"' in command[2]


def test_all_of_it_is_read_but_what_is_the_servers_own_or_made_at_every_start(copy: Copy) -> None:
    for name in ("auto.cnf", "server-key.pem", "ca.pem", "ibtmp1", "#innodb_temp/temp_1.ibt"):
        copy.put(name)
    copy.put("shop/auto.cnf")
    done = copy.read()
    assert done.returncode == 0, done.stderr
    assert inside(done.stdout) == {
        "ibdata1", "mysql.ibd", "undo_001", "undo_002", "#innodb_redo/#ib_redo7", "shop/o'brien t.ibd", "shop/auto.cnf",
    }  # fmt: skip
    assert done.stderr.decode().startswith("coffer: ")


def test_every_page_is_looked_at_before_anything_is_given(copy: Copy) -> None:
    copy.put("#innodb_temp/x.ibd", "torn")
    assert copy.read().returncode == 0
    assert not [name for name in copy.checked() if "temp" in name]
    copy.put("shop/u.ibd", "torn")
    done = copy.read()
    assert done.returncode != 0
    assert done.stdout == b""
    assert b"page 4" in done.stderr


def test_a_copy_that_is_not_there_is_none(copy: Copy) -> None:
    done = copy.read("another")
    assert done.returncode != 0
    assert done.stdout == b""


def test_how_far_it_is_can_be_heard(copy: Copy) -> None:
    with (copy.copies / "6f2b" / "shop" / "large.ibd").open("wb") as file:
        file.truncate(40 << 20)
    heard = [TOOL.hear(line) for line in copy.read().stderr.decode().splitlines()]
    assert None not in heard
    total, done = heard
    assert total is not None
    assert total.total_bytes is not None
    assert total.total_bytes > 40 << 20
    assert done == Heard(done_bytes=3200 * tool._RECORD_BYTES)


# --- the way back ---


def test_what_was_read_is_unpacked_below_the_target(copy: Copy, tmp_path: Path) -> None:
    target = tmp_path / "restoring"
    target.mkdir()
    (copy.copies / "6f2b").chmod(0o750)
    done = subprocess.run(TOOL.unpack(target), input=copy.read().stdout, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    TOOL.check_unpacked(target)
    assert (target / "data").stat().st_mode & 0o777 == 0o750
    again = subprocess.run(TOOL.unpack(target), input=copy.read().stdout, check=False, capture_output=True)
    assert again.returncode != 0, "there is one already"


@pytest.mark.parametrize("without", ["ibdata1", "mysql.ibd", "undo_001", "#innodb_redo/#ib_redo7"])
def test_what_lacks_something_is_no_database(copy: Copy, tmp_path: Path, without: str) -> None:
    (copy.copies / "6f2b").rename(tmp_path / "data")
    TOOL.check_unpacked(tmp_path)
    (tmp_path / "data" / without).unlink()
    with pytest.raises(ValueError, match="redo log" if "redo" in without else without):
        TOOL.check_unpacked(tmp_path)
