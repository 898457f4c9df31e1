"""The file of the API's users: lines are added and removed, the others stay as they are. The API sees the change."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import bcrypt

from coffer_api import htpasswd
from coffer_manage.foundation import USER_FILE
from coffer_shared.errors import CofferError

COST = 12
SHORTEST, LONGEST = 8, 72
"""Of a password, in bytes: bcrypt reads no more."""


class UserFileError(CofferError):
    """The file, or what is to be written into it, cannot be used."""


def of(state: Path | None, file: Path | None) -> Path:
    """The file that is meant."""
    if file is not None:
        return file
    assert state is not None
    return state / "api" / USER_FILE


def add(file: Path, name: str, project: str, roles: Sequence[str], password: Callable[[], str]) -> None:
    """`password` is asked only for what can be written."""
    text = _read(file) if file.exists() else ""
    if name in _parsed(text).by_name:
        raise UserFileError(f"there is a user {name} already: remove it first")
    if not name.isprintable() or ":" in name or name.startswith("#") or name.strip() != name:
        raise UserFileError("a user's name is printable, without a colon, and begins with neither # nor a space")
    start = text if not text or text.endswith("\n") else f"{text}\n"
    trial = bcrypt.hashpw(b"", bcrypt.gensalt(4))
    _parsed(f"{start}{_line(name, trial, project, roles)}")
    given = password().encode()
    if not SHORTEST <= len(given) <= LONGEST or b"\0" in given:
        raise UserFileError(f"a password has {SHORTEST} to {LONGEST} bytes")
    _replace(file, f"{start}{_line(name, bcrypt.hashpw(given, bcrypt.gensalt(COST)), project, roles)}")


def remove(file: Path, name: str) -> None:
    text = _read(file)
    kept = [line for line in text.splitlines(keepends=True) if line.split(":", 1)[0].strip() != name]
    if len(kept) == len(text.splitlines()):
        raise UserFileError(f"there is no user {name}")
    _replace(file, "".join(kept))


def listed(file: Path) -> str:
    users = _parsed(_read(file)).by_name.values()
    return "".join(f"{user.name}  project {user.project}  {', '.join(sorted(user.roles))}\n" for user in users)


def _line(name: str, hashed: bytes, project: str, roles: Sequence[str]) -> str:
    return f"{name}:{hashed.decode()}:{project}:{','.join(roles)}\n"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserFileError(f"{file} is not text") from None


def _parsed(text: str) -> htpasswd.Users:
    try:
        return htpasswd.parse(text)
    except htpasswd.BadUserFile as error:
        raise UserFileError(f"the file of users: {error}") from None


def _replace(file: Path, text: str) -> None:
    """Whole or not at all; its owner and mode stay, a new one is for its owner alone."""
    _parsed(text)
    before = file.stat() if file.exists() else None
    new = file.with_name(f".{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
        if before is not None:
            os.fchown(out.fileno(), before.st_uid, before.st_gid)
            os.fchmod(out.fileno(), before.st_mode & 0o777)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
