"""What the agent must know after any restart: its identity, where its control plane is, what it prepared."""

from __future__ import annotations

import sqlite3
from typing import TypeVar

import msgspec

from coffer_guest.store import Store
from coffer_shared.commands import Prepare
from coffer_shared.datastore import Setting
from coffer_shared.identity import Credentials
from coffer_shared.seal import KeyPair

T = TypeVar("T", bound=msgspec.Struct)


class Identity(msgspec.Struct, frozen=True):
    """The keys that the agent made itself, and the JWT it got for them. Empty JWT: not enrolled yet."""

    xkey: str
    """X25519 private key, hex."""
    seed: str
    """Of the NATS user's nkey."""
    made_at: float
    jwt: str = ""

    @property
    def keys(self) -> KeyPair:
        return KeyPair.from_private(bytes.fromhex(self.xkey))

    @property
    def credentials(self) -> Credentials:
        return Credentials(self.jwt, self.seed)

    def __repr__(self) -> str:
        return "Identity()"


class Home(msgspec.Struct, frozen=True):
    """What stays of the user data after enrolment; nothing in it is secret."""

    instance: str
    nats_urls: tuple[str, ...]
    ca: str
    root: str
    keyset: str
    renewal_url: str = ""
    enrolled_with: str = ""
    """SHA-256 of the one-time secret, hex: the same user data is not used twice."""


class Prepared(msgspec.Struct, frozen=True):
    """The database that this machine is to run. The names and passwords in the order are left out."""

    order: Prepare
    running: bool = True
    """False after a `stop` command."""
    complete: bool = False
    """The engine was healthy once and is secured."""
    proven: dict[str, Setting] | None = None
    """The settings with which the engine was last seen to start and be healthy."""
    waiting: list[str] = []
    """Names of settings that act only once the engine is started again."""


class State:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def identity(self) -> Identity | None:
        return await self._load("identity", Identity)

    async def set_identity(self, identity: Identity) -> None:
        """Drops `next_identity`, which it may be, in the same transaction."""
        raw = msgspec.json.encode(identity)

        def work(db: sqlite3.Connection) -> None:
            _put(db, "identity", raw)
            _remove(db, "next_identity")

        await self._store.write(work)
        await self._store.forget_old_pages()

    async def next_identity(self) -> Identity | None:
        """The keys of an enrolment or a rotation that was begun."""
        return await self._load("next_identity", Identity)

    async def set_next_identity(self, identity: Identity) -> None:
        await self._save("next_identity", identity)

    async def home(self) -> Home | None:
        return await self._load("home", Home)

    async def enrolled(self, identity: Identity, home: Home) -> None:
        """Both at once: with one there is always the other. Drops `next_identity`, which it was."""
        keys, rest = msgspec.json.encode(identity), msgspec.json.encode(home)

        def work(db: sqlite3.Connection) -> None:
            _put(db, "identity", keys)
            _put(db, "home", rest)
            _remove(db, "next_identity")

        await self._store.write(work)

    async def set_home(self, home: Home) -> None:
        await self._save("home", home)

    async def prepared(self) -> Prepared | None:
        return await self._load("prepared", Prepared)

    async def set_prepared(self, prepared: Prepared) -> None:
        await self._save("prepared", prepared)

    async def begun_backups(self) -> dict[str, str]:
        """Operation to backup: the engine was made ready for it, and that was not taken back yet."""
        raw = await self._store.read(lambda db: _get(db, "begun_backups"))
        return {} if raw is None else msgspec.json.decode(raw, type=dict[str, str])

    async def set_begun_backups(self, begun: dict[str, str]) -> None:
        raw = msgspec.json.encode(begun)
        await self._store.write(lambda db: _put(db, "begun_backups", raw))

    async def number(self, name: str) -> float:
        raw = await self._store.read(lambda db: _get(db, name))
        return float(raw) if raw is not None else 0.0

    async def set_number(self, name: str, value: float) -> None:
        await self._store.write(lambda db: _put(db, name, repr(value).encode()))

    async def _load(self, name: str, kind: type[T]) -> T | None:
        raw = await self._store.read(lambda db: _get(db, name))
        return None if raw is None else msgspec.json.decode(raw, type=kind)

    async def _save(self, name: str, value: msgspec.Struct) -> None:
        raw = msgspec.json.encode(value)
        await self._store.write(lambda db: _put(db, name, raw))


def put_floor(db: sqlite3.Connection, floor: int) -> None:
    """Within the transaction of what the floor protects."""
    _put(db, "floor", str(floor).encode())


def get_floor(db: sqlite3.Connection) -> int:
    raw = _get(db, "floor")
    return 0 if raw is None else int(raw)


def _get(db: sqlite3.Connection, name: str) -> bytes | None:
    row = db.execute("SELECT value FROM fact WHERE name = ?", (name,)).fetchone()
    return None if row is None else bytes(row[0])


def _put(db: sqlite3.Connection, name: str, value: bytes) -> None:
    db.execute("INSERT OR REPLACE INTO fact VALUES (?, ?)", (name, value))


def _remove(db: sqlite3.Connection, name: str) -> None:
    db.execute("DELETE FROM fact WHERE name = ?", (name,))
