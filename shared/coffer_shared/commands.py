"""The arguments and results of every guest command and query, by kind.

A kind is the `kind` of `messages.Start` or the `name` of `messages.Query`; its arguments are the struct of that name
as plain data. The API validates against the same structs that the guest decodes.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from coffer_shared.backups import BackUp, RestoreFrom
from coffer_shared.datastore import Setting

# --- commands ---


class NewDatabase(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    character_set: str | None = None
    collate: str | None = None


class UserArgs(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    password: str
    host: str = "%"
    databases: list[str] = []

    def __repr__(self) -> str:
        return f"UserArgs(name={self.name!r})"


class Prepare(msgspec.Struct, frozen=True):
    """`prepare`: bring a new machine to a running, secured, healthy database. Resumable at any point.

    `adopt`: the same, where the volume is a copy of another instance's, with the file system's UUID of that. It may be
    larger than it was there. Never formatted, and there must be a database on it."""

    datastore: str
    version: str
    image: str
    """registry/repository@sha256:...; what the guest pulls."""
    port: int
    listen: list[str]
    """The instance's own addresses on tenant networks."""
    memory_bytes: int
    vcpus: float
    fs_uuid: str
    """The data file system's UUID, chosen by the control plane before it exists."""
    format: bool
    """Whether the volume was never formatted. Even then it is only when blkid finds nothing on it."""
    volume_bytes: int
    allowed_cidrs: list[str]
    databases: list[NewDatabase] = []
    users: list[UserArgs] = []
    settings: dict[str, Setting] = {}
    """Of the instance's configuration group, beside the defaults of its size."""
    restore: RestoreFrom | None = None
    """Where the first data comes from; None: a new, empty database. Given with the kind `restore` only: an agent that
    knows no restoring refuses that kind, where it would overlook a field and make an empty database."""


class Prepared(msgspec.Struct, frozen=True):
    """Result of `prepare`."""

    engine_version: str
    fs_uuid: str


class Restart(msgspec.Struct, frozen=True):
    """`restart`: stop and start the database container, then wait until it is healthy."""


class Stop(msgspec.Struct, frozen=True):
    """`stop`: stop the database and keep it stopped."""


class StartDatabase(msgspec.Struct, frozen=True):
    """`start`: start a stopped database and wait until it is healthy."""


class CreateDatabases(msgspec.Struct, frozen=True):
    """`create_databases`"""

    databases: list[NewDatabase]


class DropDatabase(msgspec.Struct, frozen=True):
    """`drop_database`"""

    name: str


class CreateUsers(msgspec.Struct, frozen=True):
    """`create_users`"""

    users: list[UserArgs]


class DropUser(msgspec.Struct, frozen=True):
    """`drop_user`"""

    name: str
    host: str = "%"


class SetPasswords(msgspec.Struct, frozen=True):
    """`set_passwords`: all or none."""

    users: list[UserArgs]


class ChangeUser(msgspec.Struct, frozen=True, omit_defaults=True):
    """`change_user`"""

    name: str
    host: str = "%"
    new_name: str | None = None
    new_host: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"ChangeUser(name={self.name!r})"


class Grant(msgspec.Struct, frozen=True):
    """`grant`"""

    name: str
    databases: list[str]
    host: str = "%"


class Revoke(msgspec.Struct, frozen=True):
    """`revoke`"""

    name: str
    database: str
    host: str = "%"


class EnableRoot(msgspec.Struct, frozen=True):
    """`enable_root`: the password is the caller's, so that none travels back."""

    password: str

    def __repr__(self) -> str:
        return "EnableRoot()"


class DisableRoot(msgspec.Struct, frozen=True):
    """`disable_root`"""


class GrowVolume(msgspec.Struct, frozen=True):
    """`grow_volume`: the device has grown to this size; grow the file system on it, online."""

    volume_bytes: int


class Resize(msgspec.Struct, frozen=True):
    """`resize`: the machine has, or is about to have, another size; fit the database to it, which restarts it. One that
    is stopped stays so. What cannot be done leaves it as it was."""

    memory_bytes: Annotated[int, msgspec.Meta(gt=0)]
    vcpus: Annotated[float, msgspec.Meta(gt=0)]


class Snapshot(msgspec.Struct, frozen=True):
    """`snapshot`: hold the data volume still while the control plane has it copied, which `messages.Frozen` asks
    after. It changes nothing that other commands change; what they write meanwhile waits."""

    seconds: Annotated[float, msgspec.Meta(gt=0, le=600)]
    """For so long at most; the command fails if the copy is not made by then."""


class Snapshotted(msgspec.Struct, frozen=True):
    """Result of `snapshot`: the volume stood still without a gap until the copy was made."""

    used_bytes: int
    """Of the file system."""


class Configure(msgspec.Struct, frozen=True):
    """`configure`: have these settings and no others beside the defaults: at once where the engine can, the rest when
    it is started again. If it refuses one, it goes on with those that it had."""

    settings: dict[str, Setting]


class Configured(msgspec.Struct, frozen=True):
    """Result of `configure`."""

    waiting: list[str]
    """Names of settings that act only once the database is restarted."""


class Upgrade(msgspec.Struct, frozen=True):
    """`upgrade`: run the image of another version over the same data. If the database does not become healthy with it,
    it goes back to the version and the data that it had."""

    version: str
    image: str
    """registry/repository@sha256:..."""


class Upgraded(msgspec.Struct, frozen=True):
    """Result of `upgrade`."""

    engine_version: str
    """As the running engine tells it."""


class SetAccess(msgspec.Struct, frozen=True):
    """`set_access`: who may connect from now on. Whoever may not any more is cut off, the others notice nothing."""

    allowed_cidrs: list[str]
    """Empty: everybody."""


COMMANDS: dict[str, type[msgspec.Struct]] = {
    "prepare": Prepare,
    "restore": Prepare,
    "restart": Restart,
    "stop": Stop,
    "start": StartDatabase,
    "create_databases": CreateDatabases,
    "drop_database": DropDatabase,
    "create_users": CreateUsers,
    "drop_user": DropUser,
    "set_passwords": SetPasswords,
    "change_user": ChangeUser,
    "grant": Grant,
    "revoke": Revoke,
    "enable_root": EnableRoot,
    "disable_root": DisableRoot,
    "grow_volume": GrowVolume,
    "resize": Resize,
    "set_access": SetAccess,
    "configure": Configure,
    "upgrade": Upgrade,
    "backup": BackUp,
    "snapshot": Snapshot,
    "adopt": Prepare,
}

# --- queries ---


class Nothing(msgspec.Struct, frozen=True):
    """A query without arguments."""


class UserName(msgspec.Struct, frozen=True):
    name: str
    host: str = "%"


class DatabaseFound(msgspec.Struct, frozen=True):
    name: str


class UserFound(msgspec.Struct, frozen=True):
    name: str
    host: str
    databases: list[str]


class RootState(msgspec.Struct, frozen=True):
    enabled: bool


class VolumeUse(msgspec.Struct, frozen=True):
    total_bytes: int
    used_bytes: int


QUERIES: dict[str, tuple[type[msgspec.Struct], object]] = {
    "ping": (Nothing, bool),
    "databases": (Nothing, list[DatabaseFound]),
    "users": (Nothing, list[UserFound]),
    "user": (UserName, UserFound),
    "root": (Nothing, RootState),
    "volume": (Nothing, VolumeUse),
}
"""Query name to (arguments, type of the result). `user` answers Refused(not_found) when there is none."""
