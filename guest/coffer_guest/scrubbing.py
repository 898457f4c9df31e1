"""What was secret in the user data is destroyed, in the agent's own file and in every copy that cloud-init made of it.

cloud-init is turned off first: at a later boot it would fetch the same text again and write it down again. So it is
told nothing new after the enrolment. A machine that is rebuilt has a new disk, on which it runs once more.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from coffer_shared import log

_log = log.get(__name__)

COPIES = (
    "var/lib/cloud/instance",
    "var/lib/cloud/instances",
    "var/lib/cloud/seed",
    "run/cloud-init/instance-data-sensitive.json",
    "run/cloud-init/instance-data.json",
    "run/cloud-init/combined-cloud-config.json",
    "var/log/cloud-init.log",
    "var/log/cloud-init-output.log",
)
"""Where cloud-init keeps user data, whole or in parts: files, and directories with all that is in them."""
_OFF = "etc/cloud/cloud-init.disabled"
_RUNS, _ENDED = "run/cloud-init/enabled", "run/cloud-init/result.json"
_POLL_SECONDS = 1.0
_WAIT_SECONDS = 180.0


async def scrub_cloud_init(root: Path = Path("/")) -> None:
    """Once it has ended, since it reads and writes its copies until then; if it does not end, all the same."""
    await asyncio.to_thread(_turn_off, root)
    try:
        async with asyncio.timeout(_WAIT_SECONDS):
            while (root / _RUNS).exists() and not (root / _ENDED).exists():  # noqa: ASYNC110 - another program's file
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        _log.warning("cloud-init has not ended; its copies of the user data are destroyed anyway")
    found = [path for path in (root / name for name in COPIES) if path.is_symlink() or path.exists()]
    for path in found:
        await asyncio.to_thread(destroy, path)
    if found:
        _log.info("cloud-init's copies of the user data are destroyed", places=[str(path) for path in found])


def destroy(path: Path) -> None:
    """Overwrite, then remove: a file, or a directory with all in it. No link is followed. What fails is logged."""
    try:
        for file in _files(path):
            _overwrite(file)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("user data could not be destroyed", at=str(path), reason=str(error))


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        for directory, _, names in os.walk(path):
            yield from (Path(directory, name) for name in names)
    else:
        yield path


def _overwrite(path: Path) -> None:
    try:
        seen = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(seen.st_mode):
        return
    with path.open("r+b") as file:
        file.write(secrets.token_bytes(seen.st_size))
        file.flush()
        os.fsync(file.fileno())


def _turn_off(root: Path) -> None:
    off = root / _OFF
    if not off.exists():
        off.parent.mkdir(parents=True, exist_ok=True)
        off.touch()
        descriptor = os.open(off.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
