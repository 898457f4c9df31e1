"""Job directories: how the agent and a backup or restore container tell each other what is to be done, and how it goes.

They hold data keys, so they lie on a tmpfs and go with the machine. What the container writes is not trusted: it is
read without following links, and no more of it than such a file can have.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
from pathlib import Path
from typing import TypeVar

import msgspec

from coffer_guest.firewall import STORAGE_GID
from coffer_shared import log
from coffer_shared.backups import GRANT, JOB, OUTCOME, PROGRESS, Grant, Job, Outcome, Progress
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

_log = log.get(__name__)

T = TypeVar("T", bound=msgspec.Struct)

_OPERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_OUT = "out"
_MOST_BYTES = 256 * 1024


class JobDirectory:
    """Of one operation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def make(self, job: Job, grant: Grant, uid: int) -> None:
        """Anew, readable by `uid` alone. It exists from the moment that the job is in it, which is the last one."""
        await asyncio.to_thread(self._make, job, grant, uid)

    async def exists(self) -> bool:
        return await asyncio.to_thread((self.path / JOB).exists)

    async def put_grant(self, grant: Grant) -> None:
        """For a job that is there already: the container finds either the old one or the new one."""
        await asyncio.to_thread(self._put_grant, grant)

    async def grant(self) -> Grant | None:
        return await asyncio.to_thread(_read, self.path / GRANT, Grant)

    async def progress(self) -> Progress | None:
        return await asyncio.to_thread(_read, self.path / PROGRESS, Progress)

    async def outcome(self) -> Outcome | None:
        """None also if it cannot be understood."""
        return await asyncio.to_thread(_read, self.path / OUTCOME, Outcome)

    async def remove(self) -> None:
        await asyncio.to_thread(_remove, self.path)

    def _make(self, job: Job, grant: Grant, uid: int) -> None:
        _remove(self.path)
        _make_parents(self.path.parent)
        self.path.mkdir()
        self.path.chmod(0o711)
        out = self.path / _OUT
        out.mkdir(mode=0o700)
        os.chown(out, uid, STORAGE_GID)
        _write(self.path / GRANT, grant, uid)
        _write(self.path / JOB, job, uid)

    def _put_grant(self, grant: Grant) -> None:
        _write(self.path / GRANT, grant, (self.path / JOB).stat().st_uid)


class Jobs:
    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    def of(self, operation: str) -> JobDirectory:
        """GiveUp(invalid) if that cannot be the name of a directory and of a container."""
        if not _OPERATION.fullmatch(operation):
            raise GiveUp(Failure.INVALID, "not an operation's id")
        return JobDirectory(self._directory / operation)

    async def operations(self) -> list[str]:
        """Those that have a directory, or the beginnings of one."""
        return await asyncio.to_thread(self._operations)

    def _operations(self) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self._directory))
        except FileNotFoundError:
            return []


def _make_parents(path: Path) -> None:
    """Others may pass through, and see nothing on the way."""
    if not path.exists():
        _make_parents(path.parent)
        path.mkdir()
        path.chmod(0o711)


def _write(path: Path, value: msgspec.Struct, uid: int) -> None:
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as out:
        os.fchown(out.fileno(), uid, STORAGE_GID)
        out.write(msgspec.json.encode(value))
    new.replace(path)


def _read(path: Path, kind: type[T]) -> T | None:
    """Without following a link, waiting for a writer, or taking in more than such a file has."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            raw = os.read(descriptor, _MOST_BYTES) if regular else b""
        finally:
            os.close(descriptor)
        return msgspec.json.decode(raw, type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        _log.debug("a file of a job cannot be read", name=path.name, reason=type(error).__name__)
        return None


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
