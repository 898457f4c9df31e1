"""The way of restored data to where the engine looks for its own: beside it until they are whole, then by one rename.

All of this blocks. Until the rename there is no engine directory at all, so that no engine can be started on part of a
backup, whoever starts it and whenever.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def make_room(target: str, uid: int, gid: int) -> None:
    """An empty directory for the container to write to; what was there before goes."""
    discard(target)
    Path(target).mkdir(mode=0o700)
    os.chown(target, uid, gid)


def hand_over(target: str, uid: int, gid: int) -> None:
    """All of it to the engine's user. The container that wrote it must have ended. Repeatable."""
    os.lchown(target, uid, gid)
    for directory, folders, files in os.walk(target):
        for name in (*folders, *files):
            os.lchown(f"{directory}/{name}", uid, gid)


def aside(data: str) -> str:
    return f"{data}.aside"


def set_aside(data: str) -> None:
    """Out of its place and out of any engine's reach. Nothing happens when it was done before."""
    if Path(data).exists():
        discard(aside(data))
        Path(data).rename(aside(data))


def take_place(target: str, data: str) -> None:
    """Durably. Nothing happens when it was done before."""
    if not Path(target).exists():
        return
    Path(target).rename(data)
    parent = os.open(Path(data).parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def discard(target: str) -> None:
    """OSError if any of it stays."""
    if Path(target).exists():
        shutil.rmtree(target)
