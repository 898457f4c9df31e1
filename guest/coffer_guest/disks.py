"""The machine's disk that is a given volume of the cloud's block storage, found by its serial number, or none.

The hypervisor gives a disk the volume's id as its serial number, of which a virtio disk has room for 20 characters. The
kernel's own list is read, so that nothing depends on udev and its links.
"""

from __future__ import annotations

from pathlib import Path

_VIRTIO_LENGTH = 20
_PAGE_HEAD = 4
"""Bytes before the serial number in a SCSI disk's page 0x80."""


class Ambiguous(Exception):
    """Several disks have that serial number."""


def find(volume: str, sys: Path = Path("/sys")) -> str:
    """Its path under /dev; empty while there is none. Ambiguous."""
    found = sorted(disk.name for disk in (sys / "block").iterdir() if _is(disk, volume))
    if len(found) > 1:
        raise Ambiguous(f"{' and '.join(found)} both have the serial number of volume {volume}")
    return f"/dev/{found[0]}" if found else ""


def look_again(device: str, sys: Path = Path("/sys")) -> None:
    """Have the kernel ask for the disk's size, where it does not hear of changes by itself (SCSI)."""
    rescan = sys / "block" / Path(device).name / "device" / "rescan"
    if rescan.exists():
        rescan.write_text("1", encoding="ascii")


def _is(disk: Path, volume: str) -> bool:
    if (short := _read(disk / "serial")) is not None:
        return short.strip(b"\0 \n") == volume[:_VIRTIO_LENGTH].encode()
    page = _read(disk / "device" / "vpd_pg80")
    return page is not None and page[_PAGE_HEAD:].strip(b"\0 \n") == volume.encode()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
