"""What a step can reach: the cloud, the database, the guests, the issuer of identities, the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from coffer_provisioner.cloud.interface import Cloud
from coffer_shared.messages import CommandAnswer, Message


class Guests(Protocol):
    """Sealed commands to guests."""

    async def send(self, instance: str, command: Message, *, within: float) -> CommandAnswer:
        """Send one command and open its answer. GuestSilent when none comes or the guest is not connected."""
        ...


class Records(Protocol):
    """The row writes that steps need, each one short transaction (`coffer_provisioner.records`)."""

    async def instance(self, instance: str) -> dict[str, Any]:
        """The instance's row joined with its flavor, datastore version and guest, as plain values."""
        ...

    async def set_instance(self, instance: str, **columns: Any) -> None: ...

    async def heartbeat(self, instance: str) -> dict[str, Any] | None: ...

    async def operation(self, operation: str) -> dict[str, Any]: ...

    async def set_guest_state(self, operation: str, state: str) -> None: ...

    async def note_root_enabled(self, instance: str, operation: str) -> None:
        """Who enabled root is who filed the operation. Noted once for each operation."""
        ...

    async def new_bootstrap(self, instance: str, *, secret_hash: bytes, nkey: str, expires_at: float) -> None: ...

    async def revoke_guest(self, instance: str, reason: str) -> None: ...


class Identities(Protocol):
    """Makes the user data of a new machine."""

    async def user_data(self, instance: str) -> bytes:
        """A fresh one-time credential, recorded by its hash, inside the document the machine is given."""
        ...


@dataclass(frozen=True, slots=True)
class Reach:
    cloud: Cloud
    guests: Guests
    records: Records
    identities: Identities
    registry: str
    """host:port under which guests reach the registry."""
