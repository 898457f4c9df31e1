"""What a handler can reach: the database, the guests, the provisioner's ear, the datastores' facts, the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from coffer_api.metrics import Metrics
from coffer_api.reads import Reads
from coffer_api.settings import Settings
from coffer_api.tenant_cloud import TenantCloud
from coffer_db.database import Database
from coffer_db.secrets import MasterPublicKey
from coffer_db.tables import OperationState
from coffer_shared.datastore import Datastore


class Guests(Protocol):
    """Questions to guests about live data."""

    async def query(self, instance: str, name: str, args: Any = None) -> Any:
        """What `coffer_shared.commands.QUERIES` says the result is. GuestSilent, Unavailable, Refused."""
        ...


class Wakes(Protocol):
    async def wake(self, instance: str, operation: str) -> None:
        """Tell the provisioner of an operation. Never fails: it would find it anyway."""
        ...


class Ended(Protocol):
    """How an operation ended."""

    @property
    def state(self) -> OperationState: ...

    @property
    def failure_code(self) -> str | None: ...

    @property
    def failure_text(self) -> str | None: ...


class Waiter(Protocol):
    async def until_finished(self, operation_id: str, seconds: float) -> Ended | None: ...


@dataclass(frozen=True, slots=True)
class Reach:
    settings: Settings
    db: Database
    reads: Reads
    guests: Guests
    wakes: Wakes
    waiter: Waiter
    master: MasterPublicKey
    specs: Mapping[str, Datastore]
    metrics: Metrics
    tenants: TenantCloud | None = None
    """What a tenant has elsewhere in the cloud; None where callers have no tokens."""


class NoWakes:
    """Where there is no NATS."""

    async def wake(self, instance: str, operation: str) -> None:
        """The provisioner finds the operation when it looks."""
