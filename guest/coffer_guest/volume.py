"""The data volume: an XFS file system with the UUID that the control plane chose, or an error.

A volume is formatted only when the order says that it never was and blkid finds nothing at all on it. It is mounted
only when its file system is that XFS. Whatever else is there is left alone and reported.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from coffer_guest import disks, freezing
from coffer_guest.options import Options
from coffer_guest.programs import run
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure, VolumeFacts

_MOUNT_OPTIONS = "noatime,nodev,nosuid"
_BLKID_NOTHING = 2
_POLL_SECONDS = 0.5
_APPEAR_SECONDS = 30.0
"""A volume is attached, and grows, a little before the machine's kernel sees it."""


class Volume:
    def __init__(self, options: Options) -> None:
        self._options = options
        self._mount = options.data_dir
        self._uuid = ""
        self._hold: freezing.Hold | None = None

    async def ensure_mounted(self, fs_uuid: str, *, may_format: bool) -> None:
        """GiveUp(volume) when the volume is not what `fs_uuid` says."""
        mounted = _mounted_device(self._mount)
        device = mounted or await self._attach()
        found = await _probe(device)
        if not found and not mounted and may_format:
            await _checked("mkfs.xfs", "-q", "-K", "-m", f"uuid={fs_uuid}", device, limit=300)
            found = await _probe(device)
        if not found:
            raise _wrong(f"{device} holds no file system, and it was formatted before")
        if found.get("TYPE") != "xfs" or found.get("UUID") != fs_uuid:
            raise _wrong(f"{device} holds {found.get('TYPE', 'data')} {found.get('UUID', '')}, not xfs {fs_uuid}")
        if not mounted:
            await _checked("mkdir", "-p", self._mount)
            await _checked("mount", "-t", "xfs", "-o", _MOUNT_OPTIONS, device, self._mount)
        self._uuid = fs_uuid

    async def grow(self, to_bytes: int) -> None:
        """The device has grown; let the file system have the room, online. Repeating it changes nothing."""
        device = _mounted_device(self._mount)
        if not device:
            raise _wrong(f"nothing is mounted at {self._mount}")
        if self._options.loop_minor is not None:
            await _checked("coffer-volume", "grow", self._options.volume_file, str(self._options.loop_minor))
        size = await self._size(device, to_bytes)
        if size < to_bytes:
            raise _wrong(f"{device} has {size} bytes, not the {to_bytes} that were ordered")
        await _checked("xfs_growfs", self._mount, limit=300)

    async def freeze(self, seconds: float) -> None:
        """All that is written is on the device when this returns, and whoever writes waits, for `seconds` at most:
        then it is let go whatever became of the agent, and at once when the agent is gone. Always `thaw` afterwards,
        also when this fails or is cancelled."""
        if not _mounted_device(self._mount):
            raise _wrong(f"nothing is mounted at {self._mount}")  # it would be the machine's own disk
        self._hold = freezing.Hold(self._mount, seconds)
        await self._hold.frozen()

    async def thaw(self) -> bool:
        """Let go, whoever froze it. Whether it was frozen until now; then nothing was written since `freeze`."""
        held = bool(_mounted_device(self._mount)) and await freezing.thaw(self._mount)
        hold, self._hold = self._hold, None
        if hold is not None:
            await hold.end()
        return held

    async def facts(self) -> VolumeFacts:
        """Zeros while nothing is mounted: the root file system's figures would mislead."""
        if not self._uuid:
            return VolumeFacts()
        # A thread, since a dying disk answers this late or never.
        stat = await asyncio.to_thread(os.statvfs, self._mount)
        total = stat.f_blocks * stat.f_frsize
        return VolumeFacts(total, total - stat.f_bavail * stat.f_frsize, self._uuid)

    async def _attach(self) -> str:
        if self._options.loop_minor is None:
            return await self._disk()
        out = await _checked("coffer-volume", "attach", self._options.volume_file, str(self._options.loop_minor))
        return out.strip().splitlines()[-1]

    async def _disk(self) -> str:
        volume = self._options.data_volume
        if not volume:
            raise _wrong("this machine was not told which volume is its own")
        found = ""
        try:
            async with asyncio.timeout(_APPEAR_SECONDS):
                while not found:
                    found = await asyncio.to_thread(disks.find, volume)
                    await asyncio.sleep(0 if found else _POLL_SECONDS)
        except TimeoutError:
            raise _wrong(f"no disk of this machine is volume {volume}") from None
        except disks.Ambiguous as error:
            raise _wrong(str(error)) from error
        return found

    async def _size(self, device: str, wanted: int) -> int:
        """Bytes, as soon as they are enough, or at last. A file's device has its size at once."""
        size = int(await _checked("blockdev", "--getsize64", device))
        if self._options.loop_minor is not None:
            return size
        with suppress(TimeoutError):
            async with asyncio.timeout(_APPEAR_SECONDS):
                while size < wanted:
                    await asyncio.to_thread(disks.look_again, device)
                    await asyncio.sleep(_POLL_SECONDS)
                    size = int(await _checked("blockdev", "--getsize64", device))
        return size


async def _probe(device: str) -> dict[str, str]:
    """What blkid finds by looking at the device itself, not at its cache; empty if it finds nothing."""
    outcome = await run("blkid", "-p", "-o", "export", device)
    if outcome.code == _BLKID_NOTHING and not outcome.out and await _is_readable(device):
        return {}
    if outcome.code != 0:
        raise _wrong(f"blkid on {device}: {outcome.err or outcome.out or outcome.code}")
    return dict(line.split("=", 1) for line in outcome.out.splitlines() if "=" in line)


async def _is_readable(device: str) -> bool:
    """blkid says "nothing" with the same code for an empty device as for one it cannot open."""

    def read() -> bool:
        try:
            with open(device, "rb", buffering=0) as file:  # noqa: PTH123 - unbuffered
                return len(file.read(4096)) == 4096
        except OSError:
            return False

    return await asyncio.to_thread(read)


def _mounted_device(mount: str) -> str:
    """The device mounted there, by the kernel's own list; empty if none is."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == mount.replace(" ", "\\040"):
            return after.split()[1]
    return ""


async def _checked(*argv: str, limit: float = 60.0) -> str:
    outcome = await run(*argv, limit=limit)
    if outcome.code:
        raise _wrong(f"{argv[0]}: {outcome.err or outcome.out or outcome.code}")
    return outcome.out


def _wrong(text: str) -> GiveUp:
    return GiveUp(Failure.VOLUME, text)
