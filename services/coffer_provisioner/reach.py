"""What a step can reach: the cloud, the database, the guests, the issuer of identities, the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from coffer_provisioner.cloud.interface import Cloud
from coffer_provisioner.storage.interface import Container, Storage
from coffer_shared.backups import BackedUp
from coffer_shared.messages import CommandAnswer, Message


class Guests(Protocol):
    """Sealed commands to guests."""

    async def send(self, instance: str, command: Message, *, within: float) -> CommandAnswer:
        """Send one command and open its answer. GuestSilent when none comes or the guest is not connected."""
        ...


class Records(Protocol):
    """The row writes that steps need, each one short transaction (`coffer_provisioner.records`)."""

    async def instance(self, instance: str) -> dict[str, Any]:
        """The instance's row joined with its flavor, datastore version and guest, as plain values; `settings`: those of
        its configuration group."""
        ...

    async def set_instance(self, instance: str, **columns: Any) -> None: ...

    async def flavor(self, flavor: str) -> dict[str, Any]:
        """`ram_mb` and `vcpus`. GiveUp `no_flavor` if it is not on offer any more."""
        ...

    async def version(self, version: str) -> dict[str, Any]:
        """`version`, `image` and `image_digest` of that datastore version. GiveUp `no_version` if it is gone."""
        ...

    async def exchange_configuration(self, instance: str, attached: str | None, other: str | None) -> None:
        """The configuration group `other` in the place of `attached`, if that is what the instance has, and `other` is
        still there."""
        ...

    async def file_after(self, operation: str, kind: str, *, within: timedelta, beside: bool = False) -> None:
        """File an operation of the same instance that runs once this one has ended. Once for each operation and kind.
        Nobody's task: it stands in nobody's way, but for what changes the same things (unless it is `beside`)."""
        ...

    async def heartbeat(self, instance: str) -> dict[str, Any] | None: ...

    async def operation(self, operation: str) -> dict[str, Any]: ...

    async def set_guest_state(self, operation: str, state: str) -> None: ...

    async def note_root_enabled(self, instance: str, operation: str) -> None:
        """Who enabled root is who filed the operation. Noted once for each operation."""
        ...

    async def new_bootstrap(self, instance: str, *, secret_hash: bytes, nkey: str, expires_at: float) -> None: ...

    async def revoke_guest(self, instance: str, reason: str) -> None: ...


class Backups(Protocol):
    """The rows and keys of backups (`coffer_provisioner.backup_records`)."""

    async def backup(self, backup: str) -> dict[str, Any]:
        """Its row with `backup_image`, `backup_image_digest`, `manager`, `version` of its datastore version. GiveUp
        `backup_gone` if it is deleted or was never there."""
        ...

    async def set_state(self, backup: str, state: str) -> None:
        """Also moves `updated_at`. Only forward: nothing happens to a backup that is past that state."""
        ...

    async def fail(self, backup: str, text: str) -> None:
        """FAILED, and if anything may be stored of it, an operation that removes that: both or none."""
        ...

    async def container(self, backup: dict[str, Any]) -> Container:
        """That of its row, with its keys, which are drawn and stored on the first call for it."""
        ...

    async def note_closed(self, backup: Mapping[str, Any]) -> None:
        """The container of its row lacks the keys, or does not let the service in."""
        ...

    async def data_key(self, backup: dict[str, Any]) -> bytes:
        """Drawn and stored, wrapped, on the first call for it."""
        ...

    async def note_grant(self, backup: str, until: float) -> None:
        """A write grant is about to be given out. Only ever later. GiveUp `backup_closed` unless it is BUILDING and its
        operation goes forward: from then on `grant_until` stays as it is."""
        ...

    async def complete(self, backup: str, found: BackedUp, location: str) -> None:
        """GiveUp `backup_closed` unless it is SAVING (or COMPLETED already) and its operation goes forward."""
        ...

    async def complete_snapshot(self, backup: str, snapshot: str, *, gib: int, used_bytes: int) -> None:
        """As `complete`, with the id of the snapshot and the size of its volume."""
        ...

    async def has_snapshots(self, instance: str) -> bool:
        """Whether there are backups that need the instance's volume."""
        ...

    async def forget(self, backup: str) -> None:
        """Nothing of it is stored any more: DELETED, and its data key erased."""
        ...


class Identities(Protocol):
    """Makes the user data of a new machine."""

    async def user_data(self, instance: str, operation: str) -> bytes:
        """The one-time credential of that operation, recorded by its hash, inside the document the machine is given."""
        ...


@dataclass(frozen=True, slots=True)
class Reach:
    cloud: Cloud
    guests: Guests
    records: Records
    identities: Identities
    backups: Backups
    storages: Mapping[str, Storage]
    """By the name in a backup's row."""
    registry: str
    """host:port under which guests reach the registry."""
    patience: float = 1.0
    """Multiplies the few times that plans reckon themselves, as it does their deadlines."""
