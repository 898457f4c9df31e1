"""Job directories, and the leases of grants."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest

from coffer_guest.grants import Lease, storage_port
from coffer_guest.jobs import JobDirectory, Jobs
from coffer_shared import backups
from coffer_shared.backups import Grant, Job, Outcome
from coffer_shared.errors import GiveUp
from unit.guest.orders import grant

JOB = Job("backup", "b", "memory", "0d" * 32)


@pytest.fixture
async def directory(tmp_path: Path) -> JobDirectory:
    made = Jobs(str(tmp_path / "run" / "jobs")).of("op-1")
    await made.make(JOB, grant(), os.getuid())
    return made


async def test_it_exists_only_when_all_of_it_is_there(directory: JobDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await directory.exists()
    real = msgspec.json.encode

    def fails(value: object) -> bytes:
        if isinstance(value, Job):
            raise OSError("no room")
        return real(value)

    monkeypatch.setattr("coffer_guest.jobs.msgspec.json.encode", fails)
    with pytest.raises(OSError, match="no room"):
        await directory.make(JOB, grant(), os.getuid())
    assert not await directory.exists()
    assert await directory.grant() is not None


async def test_the_umask_does_not_close_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        made = Jobs(str(tmp_path / "run" / "jobs")).of("op-1")
        await made.make(JOB, grant(), os.getuid())
    finally:
        os.umask(before)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (made.path, made.path.parent, made.path.parent.parent)]
    assert modes == [0o711] * 3


async def test_a_grant_is_replaced_whole(directory: JobDirectory) -> None:
    with (directory.path / backups.GRANT).open("rb") as reader:
        newer = grant(60)
        await directory.put_grant(newer)
        assert msgspec.json.decode(reader.read(), type=Grant) != newer
    assert await directory.grant() == newer
    assert sorted(path.name for path in directory.path.iterdir()) == ["grant.json", "job.json", "out"]


async def test_what_cannot_be_read_is_as_good_as_nothing(directory: JobDirectory) -> None:
    assert await directory.outcome() is None
    outcome = directory.path / backups.OUTCOME
    for raw in (b"", b"{", b"[]", b'{"code":7}', b"\xff"):
        outcome.write_bytes(raw)
        assert await directory.outcome() is None
    outcome.write_bytes(b'{"code":"storage","text":"no","new field":1}')
    assert await directory.outcome() == Outcome("storage", "no")
    outcome.unlink()
    outcome.mkdir()
    assert await directory.outcome() is None


@pytest.mark.parametrize("operation", ["", ".", "..", "a/b", "../x", "-x", "a b", "x" * 200, "a\n"])
async def test_an_operation_that_is_no_name_has_none(tmp_path: Path, operation: str) -> None:
    with pytest.raises(GiveUp):
        Jobs(str(tmp_path)).of(operation)


async def test_operations_are_listed_also_those_cut_short(tmp_path: Path) -> None:
    jobs = Jobs(str(tmp_path / "jobs"))
    assert await jobs.operations() == []
    await jobs.of("b").make(JOB, grant(), os.getuid())
    (tmp_path / "jobs" / "a").mkdir()
    assert await jobs.operations() == ["a", "b"]
    await jobs.of("b").remove()
    await jobs.of("b").remove()
    assert await jobs.operations() == ["a"]


# --- grants ---


def test_a_lease_is_due_at_half_its_life() -> None:
    lease = Lease(grant(30, now=1000.0), 1000.0)
    assert not lease.is_due(1014.9)
    assert lease.is_due(1015.0)
    lease.put_off(1015.0)
    assert not lease.is_due(1017.9)
    assert lease.is_due(1018.0)


def test_an_old_grant_is_due_at_once_and_a_new_one_that_is_old_soon() -> None:
    assert Lease(grant(-5, now=1000.0), 1000.0).is_due(1000.0)
    renewed = Lease(grant(-5, now=1000.0), 1000.0, renewed=True)
    assert not renewed.is_due(1001.0)
    assert renewed.is_due(1003.0)


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://swift.coffer:8080/v1/", 8080),
        ("https://swift.example/v1/", 443),
        ("http://[fd00::1]/v1/", 80),
        ("https://10.0.0.1:6443/", 6443),
    ],
)
def test_the_port_of_an_object_store(url: str, port: int) -> None:
    assert storage_port(Grant("swift", url, "", "PUT", 0.0)) == port


@pytest.mark.parametrize("url", ["", "swift.coffer", "file:///etc", "http://x:70000/", "http://x:y/", "http://[::1/"])
def test_an_address_without_a_port_is_refused(url: str) -> None:
    with pytest.raises(GiveUp):
        storage_port(Grant("swift", url, "", "PUT", 0.0))
