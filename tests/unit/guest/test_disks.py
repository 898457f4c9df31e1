"""A volume's disk among others, as the kernel lists them."""

from __future__ import annotations

from pathlib import Path

import pytest

from coffer_guest import disks, volume
from coffer_guest.options import Options
from coffer_guest.volume import Volume
from coffer_shared.errors import GiveUp

ID = "0b1e6f7a-3c55-4b1e-9d2a-0f4b5c6d7e8f"
OTHER = "0b1e6f7a-3c55-4b1e-8d2a-0f4b5c6d7e8f"


def virtio(sys: Path, name: str, serial: str) -> None:
    (sys / "block" / name).mkdir(parents=True)
    (sys / "block" / name / "serial").write_text(serial)


def scsi(sys: Path, name: str, serial: str) -> Path:
    device = sys / "block" / name / "device"
    device.mkdir(parents=True)
    (device / "vpd_pg80").write_bytes(bytes((0, 0x80, 0, len(serial))) + serial.encode())
    (device / "rescan").write_text("")
    return device


def test_a_virtio_disk_has_the_ids_first_twenty_characters(tmp_path: Path) -> None:
    virtio(tmp_path, "vda", "")
    virtio(tmp_path, "vdb", OTHER[:20])
    virtio(tmp_path, "vdc", ID[:20])
    assert disks.find(ID, tmp_path) == "/dev/vdc"


def test_a_scsi_disk_has_all_of_it(tmp_path: Path) -> None:
    scsi(tmp_path, "sda", ID[:20])
    scsi(tmp_path, "sdb", ID)
    (tmp_path / "block" / "sr0").mkdir()
    assert disks.find(ID, tmp_path) == "/dev/sdb"


def test_no_disk_is_taken_for_another(tmp_path: Path) -> None:
    virtio(tmp_path, "vda", "")
    virtio(tmp_path, "vdb", OTHER[:20])
    virtio(tmp_path, "vdc", ID[:19])
    assert not disks.find(ID, tmp_path)


def test_two_with_one_number_are_an_error(tmp_path: Path) -> None:
    virtio(tmp_path, "vdb", ID[:20])
    virtio(tmp_path, "vdc", ID[:20])
    with pytest.raises(disks.Ambiguous, match="vdb and vdc"):
        disks.find(ID, tmp_path)


def test_a_scsi_disk_is_looked_at_again_and_a_virtio_disk_tells_by_itself(tmp_path: Path) -> None:
    device = scsi(tmp_path, "sdb", ID)
    disks.look_again("/dev/sdb", tmp_path)
    assert (device / "rescan").read_text() == "1"
    virtio(tmp_path, "vdb", ID[:20])
    disks.look_again("/dev/vdb", tmp_path)


async def test_a_machine_that_knows_no_volume_guesses_none() -> None:
    with pytest.raises(GiveUp, match="not told which volume"):
        await Volume(Options(data_dir="/nonexistent/data")).ensure_mounted(ID, may_format=True)


async def test_a_disk_that_does_not_come_is_an_error_and_one_that_comes_late_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(volume, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(volume, "_APPEAR_SECONDS", 0.05)
    seen = [""]
    monkeypatch.setattr(disks, "find", lambda _: seen[-1])
    machine = Volume(Options(data_dir="/nonexistent/data", data_volume=ID))
    with pytest.raises(GiveUp, match=f"no disk of this machine is volume {ID}"):
        await machine.ensure_mounted(ID, may_format=True)
    monkeypatch.setattr(volume, "_APPEAR_SECONDS", 5.0)
    looks = iter(["", "", "/dev/nonexistent"])
    monkeypatch.setattr(disks, "find", lambda _: next(looks))
    with pytest.raises(GiveUp, match="/dev/nonexistent"):
        await machine.ensure_mounted(ID, may_format=True)
