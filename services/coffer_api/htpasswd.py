"""The file of users: `user:bcrypt hash:project:role1,role2`, one a line; `#` begins a comment.

Read whole, and again when it changes. A line that cannot be understood stops the start, and later keeps the old users.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt

_HASH = re.compile(r"\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53}")
_DUMMY_COST = 12
ROLES = frozenset({"admin", "member", "reader"})


class BadUserFile(Exception):
    """Names the line, never what is in it."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    hash: bytes = field(repr=False)
    project: str
    roles: frozenset[str]


@dataclass(frozen=True, slots=True)
class Users:
    by_name: Mapping[str, User]
    dummy: bytes = field(repr=False)
    """A hash as dear as the users' own, for names that do not exist."""

    def check(self, name: str, password: bytes) -> User | None:
        """Blocks for one bcrypt, whether the user exists or not."""
        user = self.by_name.get(name)
        given = password.replace(b"\0", b"")[:72]  # all that bcrypt reads; the tool that hashed it did the same
        matches = bcrypt.checkpw(given, user.hash if user else self.dummy)
        return user if matches and user is not None and b"\0" not in password else None


def parse(text: str) -> Users:
    found: dict[str, User] = {}
    cost = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        user = _user(line.strip(), number)
        if user.name in found:
            raise BadUserFile(f"line {number}: this user was already defined")
        found[user.name] = user
        cost = max(cost, int(user.hash[4:6]))
    return Users(found, bcrypt.hashpw(b"nobody", bcrypt.gensalt(cost or _DUMMY_COST)))


class UserFile:
    """`users` as the file now stands. Blocks: call it in a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._state()
        self._users = parse(path.read_text(encoding="utf-8"))
        self.problem = ""
        """Why the newest version of the file is not in use."""

    def users(self) -> Users:
        try:
            state = self._state()
            if state != self._seen:
                self._seen = state
                self._users = parse(self._path.read_text(encoding="utf-8"))
                self.problem = ""
        except (OSError, UnicodeDecodeError, BadUserFile) as error:
            self.problem = str(error)
        return self._users

    def _state(self) -> tuple[int, int, int]:
        stat = self._path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _user(line: str, number: int) -> User:
    parts = line.split(":")
    if len(parts) != 4:
        raise BadUserFile(f"line {number}: not user:hash:project:roles")
    name, hashed, project, roles = (part.strip() for part in parts)
    known = frozenset(role.strip() for role in roles.split(",") if role.strip())
    found = _HASH.fullmatch(hashed)
    if not name or found is None or not 4 <= int(found["cost"]) <= 31:
        raise BadUserFile(f"line {number}: no user name, or not a bcrypt hash")
    if not re.fullmatch(r"[A-Za-z0-9_.~-]{1,64}", project):
        raise BadUserFile(f"line {number}: a project is 1 to 64 of letters, digits and _.~-")
    if not known or known - ROLES:
        raise BadUserFile(f"line {number}: roles are of {', '.join(sorted(ROLES))}")
    return User(name, hashed.encode(), project, known)
