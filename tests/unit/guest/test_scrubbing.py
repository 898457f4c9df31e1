"""After the enrolment nothing that was secret is on the machine's disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from coffer_guest import scrubbing
from coffer_guest.scrubbing import COPIES, destroy, scrub_cloud_init

SECRET = "7" * 64


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """As cloud-init leaves a machine."""
    instance = tmp_path / "var/lib/cloud/instances/i-1"
    for name in ("user-data.txt", "user-data.txt.i", "cloud-config.txt", "vendor-data.txt", "obj.pkl", "scripts/y"):
        (instance / name).parent.mkdir(parents=True, exist_ok=True)
        (instance / name).write_text(SECRET)
    (tmp_path / "var/lib/cloud/instance").symlink_to(instance)
    for name in COPIES[3:]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(SECRET)
    (tmp_path / "run/cloud-init/enabled").touch()
    (tmp_path / "run/cloud-init/result.json").touch()
    (tmp_path / "etc/cloud").mkdir(parents=True)
    return tmp_path


def holders(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and SECRET in path.read_text()]


async def test_every_copy_is_gone_and_cloud_init_is_off(root: Path) -> None:
    assert len(holders(root)) > 9
    await scrub_cloud_init(root)
    assert holders(root) == []
    assert (root / "etc/cloud/cloud-init.disabled").exists()
    assert not (root / "var/lib/cloud/instance").is_symlink()
    await scrub_cloud_init(root)


async def test_the_bytes_are_overwritten_before_the_name_goes(root: Path) -> None:
    copy = root / "var/lib/cloud/instances/i-1/user-data.txt"
    (root / "kept").hardlink_to(copy)
    await scrub_cloud_init(root)
    assert (root / "kept").stat().st_size == len(SECRET)
    assert SECRET.encode() not in (root / "kept").read_bytes()


async def test_it_waits_for_cloud_init_which_writes_until_its_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "_POLL_SECONDS", 0.0)
    (root / "run/cloud-init/result.json").unlink()
    scrub = asyncio.create_task(scrub_cloud_init(root))
    while not (root / "etc/cloud/cloud-init.disabled").exists():
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    assert holders(root)
    (root / "run/cloud-init/result.json").touch()
    await scrub
    assert holders(root) == []


async def test_one_that_never_ends_does_not_keep_the_copies(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(scrubbing, "_WAIT_SECONDS", 0.02)
    (root / "run/cloud-init/result.json").unlink()
    await scrub_cloud_init(root)
    assert holders(root) == []


def test_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("kept")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "directory").symlink_to(outside)
    (inside / "file").symlink_to(outside / "file")
    (tmp_path / "link").symlink_to(outside)
    for path in (inside, tmp_path / "link", tmp_path / "nothing"):
        destroy(path)
    assert (outside / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outside"]
