"""The datastore interface: one folder under `coffer_datastores` is one datastore.

`spec.py` holds `DATASTORE`, plain data that the control plane reads. `driver.py` holds `DRIVER`, which returns values
(container specs, files, statements); the guest's core owns Docker, time limits, retries and idempotency and carries
them out. Optional abilities are Protocols of their own, so that a small datastore stays small.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias, runtime_checkable

# --- what the control plane reads ---

Setting: TypeAlias = bool | int | float | str
"""A value as an engine's configuration file has it; a number with a unit is text."""


class Feature(StrEnum):
    DATABASES = "databases"
    USERS = "users"
    ROOT = "root"
    BACKUP = "backup"
    SNAPSHOT = "snapshot"
    CONFIGURATION = "configuration"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of an instance's machine: what the defaults of its settings follow from."""

    memory_bytes: int
    """The flavor's memory; engine buffers are sized from it."""
    vcpus: float
    volume_bytes: int = 0
    """Of the data volume; 0: not known."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit that the engine knows: what it measures, and how much one is."""

    measures: str
    factor: float


@dataclass(frozen=True, slots=True)
class Datastore:
    """Facts about an engine that the API and the provisioner need before any guest exists."""

    name: str
    port: int
    default_version: str
    versions: tuple[str, ...]
    features: frozenset[Feature]
    reserved_users: frozenset[str]
    reserved_databases: frozenset[str]
    max_user_length: int
    max_database_length: int
    root_user: str
    """The name under which enabling root reports the superuser."""
    user_pattern: re.Pattern[str]
    database_pattern: re.Pattern[str]
    has_hosts: bool
    """Whether users are qualified by host (`name@host`)."""
    character_sets: frozenset[str] = frozenset()
    """Accepted names, lower case; empty: the engine is asked."""
    defaults: Callable[[Sizes], Mapping[str, Setting]] | None = None
    """The settings that every instance of these sizes gets from its agent, by name; None: they are not told."""
    units: Mapping[str, Unit] = field(default_factory=dict)
    """By the spelling in which they follow a number; a parameter that counts in one takes text with any of its kind."""
    upgrades_within: int = 0
    """So many of a version's leading numbers an upgrade keeps: beyond them the engine does not open its files as they
    are. It never goes to a lower number."""
    image: str = ""
    """Repository of the engine's image in the stack's registry; its tag is the number of the version."""
    backup_image: str = ""
    """The same of what backup and restore containers run."""


# --- what the guest core hands to a driver ---


@dataclass(frozen=True, slots=True)
class Order:
    """Everything a driver needs to describe the database container of one instance."""

    instance: str
    image: str
    """By digest, as the control plane recorded it."""
    data: str
    """Directory on the machine that holds the engine's data (on the XFS volume)."""
    run: str
    """Directory on the machine for the engine's socket."""
    config: str
    """Directory on the machine for the engine's configuration files."""
    listen: tuple[str, ...]
    """Addresses on which tenants reach the engine (the tenant network's)."""
    port: int
    memory_bytes: int
    vcpus: float
    volume_bytes: int = 0
    settings: Mapping[str, Setting] = field(default_factory=dict)
    """That the tenant has chosen; they go before the defaults, and after what the agent needs."""

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.memory_bytes, self.vcpus, self.volume_bytes)


@dataclass(frozen=True, slots=True)
class File:
    """A file the core writes, atomically and owned by the engine's uid, before the container starts."""

    path: str
    content: str
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """A container to run, as plain values. The core adds uid, read-only root and dropped capabilities."""

    image: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    """Never a secret: the environment is visible in `docker inspect`."""
    binds: tuple[tuple[str, str, str], ...]
    """(host path, container path, "rw" or "ro")"""
    tmpfs: tuple[str, ...]
    uid: int
    gid: int
    stop_signal: str
    stop_seconds: int
    shm_bytes: int = 0
    files: tuple[File, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """The outcome of one health query."""

    ok: bool
    detail: str = ""
    version: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)


class Session(Protocol):
    """A privileged connection to the engine over its local socket."""

    async def fetch(self, statement: str, *values: Any) -> Sequence[Mapping[str, Any]]: ...

    async def execute(self, statement: str, *values: Any) -> None: ...

    def transaction(self) -> AbstractAsyncContextManager[None]: ...


class EngineError(Exception):
    """The engine refused a statement. `code` is one of `coffer_shared.messages.Failure`; the text is the engine's."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


# --- the driver ---


class Driver(Protocol):
    """What every datastore implements."""

    @property
    def name(self) -> str: ...

    def container(self, order: Order) -> ContainerSpec: ...

    def session(self, order: Order, *, database: str | None = None) -> AbstractAsyncContextManager[Session]:
        """Connect as the agent's own superuser, without a password. EngineError when the engine does not answer."""
        ...

    async def health(self, session: Session) -> Health:
        """Ask with a query. The core bounds the time."""
        ...

    async def after_first_start(self, session: Session) -> None:
        """Secure a database that was just initialised. Idempotent."""
        ...


@dataclass(frozen=True, slots=True)
class Database:
    name: str
    character_set: str | None = None
    collate: str | None = None


@dataclass(frozen=True, slots=True)
class User:
    name: str
    host: str = "%"
    databases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewUser:
    name: str
    password: str = field(repr=False)
    host: str = "%"
    databases: tuple[str, ...] = ()


@runtime_checkable
class HasDatabases(Protocol):
    """Feature.DATABASES. EngineError tells `exists` and `not_found` apart."""

    async def list_databases(self, engine: Engine) -> list[Database]: ...

    async def create_databases(self, engine: Engine, databases: Sequence[Database]) -> None: ...

    async def drop_database(self, engine: Engine, name: str) -> None: ...


@runtime_checkable
class HasUsers(Protocol):
    """Feature.USERS. A call that changes several things changes all or none."""

    async def list_users(self, engine: Engine) -> list[User]: ...

    async def create_users(self, engine: Engine, users: Sequence[NewUser]) -> None: ...

    async def drop_user(self, engine: Engine, name: str, host: str) -> None: ...

    async def set_passwords(self, engine: Engine, users: Sequence[NewUser]) -> None: ...

    async def change_user(
        self, engine: Engine, name: str, host: str, *, new_name: str | None, new_host: str | None, password: str | None,
    ) -> None: ...

    async def grant(self, engine: Engine, name: str, host: str, databases: Sequence[str]) -> None: ...

    async def revoke(self, engine: Engine, name: str, host: str, database: str) -> None: ...


@runtime_checkable
class HasRoot(Protocol):
    """Feature.ROOT. The password comes from the caller, so that no secret travels back."""

    async def root_enabled(self, engine: Engine) -> bool: ...

    async def enable_root(self, engine: Engine, password: str) -> None: ...

    async def disable_root(self, engine: Engine) -> None: ...


@runtime_checkable
class HasBackup(Protocol):
    """Feature.BACKUP: the agent's part. What runs in the container is `coffer_shared.backups.BackupTool`, as `TOOL` in
    the folder's `tool.py`. The core adds the job directory to both containers, and the group that may reach storage."""

    def backup_container(self, order: Order, image: str) -> ContainerSpec: ...

    async def before_backup(self, engine: Engine, backup: str) -> None:
        """Make what the source needs, such as a replication slot. Idempotent; what earlier backups left goes."""
        ...

    async def after_backup(self, engine: Engine, backup: str) -> None:
        """Take it back, however the backup ended. Idempotent."""
        ...

    def restore_container(self, order: Order, image: str, target: str) -> ContainerSpec:
        """`target`: the empty directory on the machine, mounted at the same path, that takes the place of `order.data`
        once it is whole."""
        ...


@runtime_checkable
class HasConfiguration(Protocol):
    """Feature.CONFIGURATION."""

    async def reconfigure(self, engine: Engine, order: Order, changed: Collection[str]) -> list[str]:
        """The files hold the settings of `order` now; have the running server take on the `changed` ones as far as it
        can: those that differ from before, and those that wait for a start already. The names of those that it takes on
        only when it is started again. Idempotent.

        EngineError `invalid` with the server's reason if it refuses one: the core then writes the former files and
        calls this again."""
        ...


@runtime_checkable
class HasSnapshot(Protocol):
    """Feature.SNAPSHOT: an engine whose data directory, copied at one moment, opens as after a crash."""

    async def before_snapshot(self, engine: Engine) -> None:
        """Write out what can be written, so that the copy opens soon. Idempotent; nothing stands still yet."""
        ...

    async def after_adoption(self, engine: Engine) -> None:
        """In the copy, end what the original was in the middle of, such as slots of its backups. Idempotent; before
        `after_first_start`."""
        ...


class Engine(Protocol):
    """One running engine; handed to the calls above."""

    @property
    def order(self) -> Order: ...

    def session(self, database: str | None = None) -> AbstractAsyncContextManager[Session]: ...

    async def copy_still(self, source: str, target: str) -> None:
        """Copy a directory of the engine's data to one that is not there yet, on the same volume and out of the
        engine's reach, as it is at one moment at which it does nothing. It takes next to no time and room, for the file
        system makes the two share what is in them. EngineError where it cannot, or does not in time."""
        ...

    async def discard(self, directory: str) -> None:
        """Remove a copy, or what a copying that was cut short left of one, or all that are in a directory."""
        ...


FACETS: Mapping[Feature, type] = {
    Feature.DATABASES: HasDatabases,
    Feature.USERS: HasUsers,
    Feature.ROOT: HasRoot,
    Feature.BACKUP: HasBackup,
    Feature.SNAPSHOT: HasSnapshot,
    Feature.CONFIGURATION: HasConfiguration,
}

