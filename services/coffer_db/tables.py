"""The tables: what Coffer holds to be true. PostgreSQL is the only place of truth.

Times are UTC (`timestamptz`). Identifiers of instances, operations and datastores are UUIDs, kept as text in lower case
because they go into URLs, subjects and labels as they are. Those of backups are in `backup_tables`.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from coffer_db import backup_tables  # noqa: F401 - for whoever reads or makes all tables
from coffer_db.columns import json_column, now_column, secret_column, time_column


class Datastore(SQLModel, table=True):
    """An engine on offer."""

    __tablename__ = "datastores"
    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    default_version_id: str | None = None
    created_at: datetime = Field(sa_column=now_column())


class DatastoreVersion(SQLModel, table=True):
    """One version of an engine and the image that runs it."""

    __tablename__ = "datastore_versions"
    __table_args__ = (UniqueConstraint("datastore_id", "name", "version"),)
    id: str = Field(primary_key=True)
    datastore_id: str = Field(foreign_key="datastores.id", index=True)
    name: str
    """What tenants ask for, such as "17"."""
    version: str
    """The number behind the name, such as "17.11"."""
    manager: str
    """The folder under coffer_datastores."""
    image: str
    """repository:tag or repository@digest in the stack's registry, without the registry's host."""
    image_digest: str = ""
    """sha256:..., recorded when the version was registered; guests pull by this."""
    backup_image: str = Field(default="", sa_column_kwargs={"server_default": ""})
    """As `image`: what backup and restore containers run. Empty: this version cannot be backed up."""
    backup_image_digest: str = Field(default="", sa_column_kwargs={"server_default": ""})
    traits: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """What an administrator recorded with it, as it is shown: `image`, `image_tags`, `packages`, `registry_ext`,
    `repl_strategy`."""
    active: bool = True
    created_at: datetime = Field(sa_column=now_column())


class Flavor(SQLModel, table=True):
    """A size of machine."""

    __tablename__ = "flavors"
    id: str = Field(primary_key=True)
    name: str = Field(unique=True)
    ram_mb: int
    vcpus: float
    disk_gib: int = 0
    ephemeral_gib: int = 0


class Registered(SQLModel, table=True):
    """What a release has put on offer, as it was then. The next one compares: what an administrator has changed or
    deleted since stays so."""

    __tablename__ = "registered"
    kind: str = Field(primary_key=True)
    """The table: datastores, datastore_versions or flavors."""
    id: str = Field(primary_key=True)
    offer: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())


class VersionFlavor(SQLModel, table=True):
    """Flavors that a datastore version is tied to; without any, it goes with all."""

    __tablename__ = "version_flavors"
    version_id: str = Field(primary_key=True, foreign_key="datastore_versions.id")
    flavor_id: str = Field(primary_key=True, foreign_key="flavors.id")


class VersionVolumeType(SQLModel, table=True):
    """Volume types that a datastore version is tied to; without any, it goes with all."""

    __tablename__ = "version_volume_types"
    version_id: str = Field(primary_key=True, foreign_key="datastore_versions.id")
    volume_type: str = Field(primary_key=True)


class ConfigurationParameter(SQLModel, table=True):
    """A setting of a datastore version that tenants may choose."""

    __tablename__ = "configuration_parameters"
    __table_args__ = (
        Index("uq_configuration_parameters_name", "version_id", text("lower(name)"), unique=True),
    )
    version_id: str = Field(primary_key=True, foreign_key="datastore_versions.id")
    name: str = Field(primary_key=True)
    data_type: str
    """integer, float, string or boolean"""
    restart_required: bool
    rule: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """As far as they are known: `min` and `max` (numbers), `choices` (texts), `default`, `unit`, `description`."""


class Configuration(SQLModel, table=True):
    """A configuration group: values for one datastore version, which instances may share."""

    __tablename__ = "configurations"
    __table_args__ = (
        Index("ix_configurations_project", "project_id", "id", postgresql_where=text("deleted_at IS NULL")),
        CheckConstraint("deleted_at IS NOT NULL OR datastore_version_id IS NOT NULL", name="configuration_has_version"),
    )
    id: str = Field(primary_key=True)
    project_id: str
    name: str
    description: str | None = None
    datastore_version_id: str | None = Field(foreign_key="datastore_versions.id", ondelete="SET NULL")
    values: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """By the name of the parameter, as it is registered."""
    created_at: datetime = Field(sa_column=now_column())
    updated_at: datetime = Field(sa_column=now_column())
    deleted_at: datetime | None = Field(default=None, sa_column=time_column())


class Instance(SQLModel, table=True):
    """A tenant's database instance, as it should be. What is so is in `heartbeats` and in the cloud."""

    __tablename__ = "instances"
    __table_args__ = (
        Index("ix_instances_project", "project_id", "id", postgresql_where=text("deleted_at IS NULL")),
        CheckConstraint("volume_gib > 0", name="volume_gib_positive"),
        CheckConstraint(
            "deleted_at IS NOT NULL OR (flavor_id IS NOT NULL AND datastore_version_id IS NOT NULL)",
            name="instance_has_flavor_and_version",
        ),
    )
    id: str = Field(primary_key=True)
    project_id: str
    user_id: str = ""
    name: str
    flavor_id: str | None = Field(foreign_key="flavors.id", ondelete="SET NULL")
    """As the version: None only where the instance is deleted and what it had is not on offer any more."""
    datastore_version_id: str | None = Field(foreign_key="datastore_versions.id", ondelete="SET NULL")
    volume_gib: int
    volume_type: str | None = None
    fs_uuid: str
    """UUID of the data file system, chosen before it is made."""
    formatted: bool = False
    """Set once the guest has reported the file system; from then on nothing may format the volume."""
    started_once: bool = False
    """The volume has held a started database: no undo and no sweep deletes it."""
    region: str = "RegionOne"
    availability_zone: str | None = None
    locality: str | None = None
    nics: list[dict[str, Any]] = Field(default_factory=list, sa_column=json_column("[]"))
    is_public: bool = False
    allowed_cidrs: list[str] = Field(default_factory=list, sa_column=json_column("[]"))
    """Empty: everybody on the tenant's network (and, if public, everybody)."""
    addresses: list[dict[str, Any]] = Field(default_factory=list, sa_column=json_column("[]"))
    """[{"address", "type": "private" | "public", "network"?}], written by the provisioner."""
    server_id: str | None = None
    volume_id: str | None = None
    root_enabled_at: datetime | None = Field(default=None, sa_column=time_column())
    root_enabled_by: str | None = None
    configuration_id: str | None = Field(default=None, foreign_key="configurations.id", index=True)
    reset_at: datetime | None = Field(default=None, sa_column=time_column())
    """When an administrator reset its status: what its agent said before does not count any more."""
    failed: bool = False
    """The last lifecycle operation failed; shown as ERROR until one succeeds."""
    fault_message: str | None = None
    fault_details: str | None = None
    fault_at: datetime | None = Field(default=None, sa_column=time_column())
    created_at: datetime = Field(sa_column=now_column())
    updated_at: datetime = Field(sa_column=now_column())
    deleted_at: datetime | None = Field(default=None, sa_column=time_column())


class OperationState(StrEnum):
    PENDING = "pending"
    """Filed; no worker has touched it."""
    RUNNING = "running"
    """A worker holds its lease, or held it and died."""
    WAITING = "waiting"
    """Between two turns: `wake_at` says when it is looked at again."""
    UNDOING = "undoing"
    """It failed or was cancelled; what it made is being taken back."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN_STATES = (OperationState.PENDING, OperationState.RUNNING, OperationState.WAITING, OperationState.UNDOING)
_OPEN = "state IN ('pending', 'running', 'waiting', 'undoing')"


class Operation(SQLModel, table=True):
    """A change that takes more than a row write. `coffer_db.operations` is the only writer of its state."""

    __tablename__ = "operations"
    __table_args__ = (
        Index("ix_operations_due", "wake_at", postgresql_where=text(_OPEN)),
        Index("ix_operations_instance", "instance_id", "seq"),
        Index("ix_operations_project", "project_id", "seq"),
        Index("ix_operations_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        Index(
            "uq_operations_lifecycle", "instance_id", unique=True, postgresql_where=text(f"lifecycle AND {_OPEN}"),
        ),
        Index(
            "uq_operations_idempotency", "project_id", "idempotency_key", unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
    )
    id: str = Field(primary_key=True)
    seq: int | None = Field(
        default=None,
        sa_column=Column(BigInteger, nullable=False, unique=True, server_default=text("nextval('operation_seq')")),
    )
    """Order of filing: an operation starts only when no earlier one of its instance is open."""
    instance_id: str = Field(foreign_key="instances.id")
    project_id: str
    user_id: str = ""
    request_id: str = ""
    trace: str = ""
    kind: str
    lifecycle: bool = True
    """At most one open lifecycle operation per instance; the others (users, databases, root) queue behind it."""
    beside: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """Later operations of the instance do not wait for it: a backup runs while users are made."""
    args: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """Never a secret."""
    secret_args: bytes | None = Field(default=None, sa_column=secret_column())
    """Arguments that are secret, sealed under the master key; erased when the operation ends."""
    state: str = OperationState.PENDING
    step: str = ""
    progress: int = 0
    progress_text: str = ""
    attempts: int = 0
    """Consecutive failures of the current step."""
    context: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """What steps remember for later steps; never a secret."""
    failure_code: str | None = None
    failure_text: str | None = None
    failure_step: str | None = None
    cancel_requested: bool = False
    idempotency_key: str | None = None
    request_hash: str | None = None
    lease_token: str | None = None
    lease_until: datetime | None = Field(default=None, sa_column=time_column())
    wake_at: datetime = Field(sa_column=now_column())
    deadline: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    guest_state: str = ""
    """"": no command sent; sent, accepted, done, failed, cancelled: what the guest last said of it."""
    guest_result: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    guest_code: str = ""
    guest_text: str = ""
    created_at: datetime = Field(sa_column=now_column())
    updated_at: datetime = Field(sa_column=now_column())
    finished_at: datetime | None = Field(default=None, sa_column=time_column())


class OperationEvent(SQLModel, table=True):
    """A guest's numbered event; (operation, n) makes receiving it twice harmless."""

    __tablename__ = "operation_events"
    operation_id: str = Field(primary_key=True, foreign_key="operations.id")
    n: int = Field(primary_key=True)
    kind: str
    """progress, done, failed or cancelled"""
    percent: int = 0
    text: str = ""
    at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    received_at: datetime = Field(sa_column=now_column())


class Guest(SQLModel, table=True):
    """The identity of an instance's agent: public keys only, and the one-time enrolment."""

    __tablename__ = "guests"
    instance_id: str = Field(primary_key=True, foreign_key="instances.id")
    xpub: bytes | None = Field(default=None, sa_column=secret_column())
    xpub_old: bytes | None = Field(default=None, sa_column=secret_column())
    nkey: str | None = None
    nkey_old: str | None = None
    jwt_expires_at: datetime | None = Field(default=None, sa_column=time_column())
    boot_hash: bytes | None = Field(default=None, sa_column=secret_column())
    """SHA-256 of the one-time secret."""
    boot_nkey: str | None = None
    boot_expires_at: datetime | None = Field(default=None, sa_column=time_column())
    boot_used_at: datetime | None = Field(default=None, sa_column=time_column())
    stolen_at: datetime | None = Field(default=None, sa_column=time_column())
    """Somebody else tried the used bootstrap credential."""
    agent_version: str = ""
    revoked_at: datetime | None = Field(default=None, sa_column=time_column())
    created_at: datetime = Field(sa_column=now_column())


class Heartbeat(SQLModel, table=True):
    """The newest facts of a guest. Written in batches by the status-collector."""

    __tablename__ = "heartbeats"
    __table_args__ = ({"postgresql_with": {"fillfactor": "50"}},)
    instance_id: str = Field(primary_key=True)
    seq: int = Field(sa_column=Column(BigInteger, nullable=False))
    """The envelope's; an older message never overwrites a newer one."""
    received_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    engine: str
    """One of `coffer_shared.messages.Engine`."""
    facts: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    """The whole heartbeat."""


class Revocation(SQLModel, table=True):
    """A NATS user that may no longer connect; kept until its last JWT has expired."""

    __tablename__ = "revocations"
    nkey: str = Field(primary_key=True)
    instance_id: str = ""
    revoked_at: datetime = Field(sa_column=now_column())
    expires_at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))
    reason: str = ""


class AccountWrite(SQLModel, table=True):
    """The last `iat` reserved for an account JWT; it only ever grows."""

    __tablename__ = "account_writes"
    account: str = Field(primary_key=True)
    iat: int = Field(sa_column=Column(BigInteger, nullable=False))


class RootHistory(SQLModel, table=True):
    """Who enabled root when."""

    __tablename__ = "root_history"
    id: int | None = Field(default=None, primary_key=True)
    instance_id: str = Field(foreign_key="instances.id", index=True)
    user_id: str
    enabled_at: datetime = Field(sa_column=now_column())


class ProjectQuota(SQLModel, table=True):
    """A limit of a project that differs from the setting."""

    __tablename__ = "project_quotas"
    project_id: str = Field(primary_key=True)
    resource: str = Field(primary_key=True)
    """instances, ram, volumes or backups"""
    hard_limit: int
    """-1: none."""


class RequestRate(SQLModel, table=True):
    """What is left of a project's requests: a bucket that fills again with time, shared by all replicas of the API.
    Losing it in a crash gives a project one minute's requests anew, so it is not logged."""

    __tablename__ = "request_rates"
    __table_args__ = ({"prefixes": ["UNLOGGED"], "postgresql_with": {"fillfactor": "50"}},)
    project_id: str = Field(primary_key=True)
    verb: str = Field(primary_key=True)
    tokens: float
    """Left at `at`."""
    taken: float
    """By the last replica that asked."""
    at: datetime = Field(sa_column=Column(DateTime(timezone=True), nullable=False))


class Orphan(SQLModel, table=True):
    """Something in the cloud with Coffer's tag whose operation this database does not know, as the keeper's last round
    found it. It is dropped only when an operator says so, and only while it is this very thing."""

    __tablename__ = "orphans"
    kind: str = Field(primary_key=True)
    id: str = Field(primary_key=True)
    instance_id: str
    operation_id: str
    first_seen_at: datetime = Field(sa_column=now_column())
    last_seen_at: datetime = Field(sa_column=now_column())
    held_data: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """It is of a volume that has held a started database, or a snapshot of one."""
    drop_requested: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    drop_data: bool = Field(default=False, sa_column_kwargs={"server_default": text("false")})
    """The request is meant also if it held data."""


class Mark(SQLModel, table=True):
    """Facts about the installation that somebody has confirmed, such as that its master key is kept elsewhere."""

    __tablename__ = "marks"
    name: str = Field(primary_key=True)
    value: str
    at: datetime = Field(sa_column=now_column())
