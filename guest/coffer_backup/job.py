"""The job directory: what the agent puts there (job.json, grant.json) and what it finds there (the files in out/).

Reads and writes of a few hundred bytes in memory, done where they are needed, without a thread.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from coffer_backup.errors import GiveUp
from coffer_shared.backups import GRANT, JOB, KEY_BYTES, OUTCOME, PROGRESS, Grant, Heard, Job, Outcome, Progress
from coffer_shared.messages import Failure

T = TypeVar("T")
_REPORT_SECONDS = 1.0


def read_job(directory: Path) -> tuple[Job, bytes]:
    """The job and its data key."""
    job = _read(directory / JOB, Job)
    try:
        key = bytes.fromhex(job.key)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise GiveUp(Failure.INVALID, "the data key of the job is no key")
    return job, key


class GrantFile:
    """The newest grant; the agent puts another in its place while the job runs."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / GRANT
        self._seen: tuple[int, int] | None = None
        self._grant = self.current()

    def current(self) -> Grant:
        try:
            found = self._path.stat()
        except OSError as error:
            raise GiveUp(Failure.INVALID, f"{GRANT}: {error.strerror}") from error
        seen = (found.st_ino, found.st_mtime_ns)
        if seen != self._seen:
            self._grant, self._seen = _read(self._path, Grant), seen
        return self._grant


@dataclass(slots=True)
class Meter:
    """How far the job is; the parts of the program write to it."""

    done_bytes: int = 0
    total_bytes: int = 0
    stored_bytes: int = 0
    text: str = ""

    def hear(self, heard: Heard) -> None:
        if heard.done_bytes is not None:
            self.done_bytes = heard.done_bytes
        if heard.total_bytes is not None:
            self.total_bytes = heard.total_bytes

    def say(self, text: str) -> None:
        self.text = text

    async def report(self, directory: Path) -> None:
        """Until cancelled."""
        last = None
        while True:
            progress = Progress(self.done_bytes, self.total_bytes, self.stored_bytes, self.text)
            if progress != last:
                with suppress(OSError):  # the job does not depend on being watched
                    _write(directory / PROGRESS, progress)
            last = progress
            await asyncio.sleep(_REPORT_SECONDS)


def write_outcome(directory: Path, outcome: Outcome) -> None:
    _write(directory / OUTCOME, outcome)


def _read(path: Path, kind: type[T]) -> T:
    """GiveUp without the file's content in it, which is secret."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise GiveUp(Failure.INVALID, f"{path.name} cannot be read ({type(error).__name__})") from None


def _write(path: Path, value: msgspec.Struct) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(msgspec.json.encode(value))
    os.replace(new, path)  # noqa: PTH105 - says that it replaces
