"""The tables of backups: what there is, its keys, and where it goes."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, LargeBinary, text
from sqlmodel import Field, SQLModel

from coffer_db.columns import json_column, now_column, secret_column, time_column
from coffer_shared.backups import CINDER


class BackupState(StrEnum):
    """What a backup is, in Trove's words except the last two."""

    NEW = "NEW"
    """Filed; nothing is stored yet."""
    BUILDING = "BUILDING"
    SAVING = "SAVING"
    """The guest has stored everything; what is stored is being compared with what it said."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    """Nothing of it is stored."""
    DELETING = "DELETING"
    """Shown to clients as COMPLETED until it is gone."""
    DELETED = "DELETED"


NEEDS_VOLUME = f"storage = '{CINDER}' AND deleted_at IS NULL AND state NOT IN ('FAILED', 'DELETED')"
"""Of rows of `backups`, as SQL: snapshots for which the volume that they are of has to stay."""


class Backup(SQLModel, table=True):
    """A backup of one instance. It outlives the instance; the row outlives its objects."""

    __tablename__ = "backups"
    __table_args__ = (
        Index("ix_backups_project", "project_id", "updated_at", postgresql_where=text("deleted_at IS NULL")),
        Index("ix_backups_instance", "instance_id", "updated_at", postgresql_where=text("deleted_at IS NULL")),
        Index("ix_backups_parent", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
        CheckConstraint("deleted_at IS NOT NULL OR datastore_version_id IS NOT NULL", name="backup_has_version"),
    )
    id: str = Field(primary_key=True)
    project_id: str
    instance_id: str = Field(foreign_key="instances.id")
    operation_id: str
    """That makes it."""
    name: str
    description: str | None = None
    parent_id: str | None = Field(default=None, foreign_key="backups.id")
    datastore_version_id: str | None = Field(foreign_key="datastore_versions.id", ondelete="SET NULL")
    state: str = BackupState.NEW
    storage: str = "swift"
    """Name of the storage driver. In `cinder` there are no objects: container and prefix are empty."""
    container: str
    prefix: str
    """Of its objects in the container; ends with "/"."""
    location: str | None = None
    """The manifest's address, or the snapshot's, once it is stored."""
    data_key: bytes | None = Field(default=None, sa_column=secret_column())
    """Wrapped under the project's key; erased when the backup is deleted."""
    grant_until: datetime | None = Field(default=None, sa_column=time_column())
    """The latest end of a write grant that was given out for it."""
    manifest_sha256: str | None = None
    raw_bytes: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    """Of the engine's data."""
    stored_bytes: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    segments: int | None = None
    volume_gib: int | None = None
    """Of a snapshot: the size of the volume it is of."""
    fs_uuid: str | None = None
    """Of a snapshot: its file system's."""
    position: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    tools: dict[str, Any] = Field(default_factory=dict, sa_column=json_column())
    failure_text: str | None = None
    created_at: datetime = Field(sa_column=now_column())
    updated_at: datetime = Field(sa_column=now_column())
    completed_at: datetime | None = Field(default=None, sa_column=time_column())
    deleted_at: datetime | None = Field(default=None, sa_column=time_column())


class ProjectKey(SQLModel, table=True):
    """The key that wraps the data keys of a project's backups."""

    __tablename__ = "project_keys"
    project_id: str = Field(primary_key=True)
    wrapped: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """Under the master key."""
    created_at: datetime = Field(sa_column=now_column())


class BackupContainer(SQLModel, table=True):
    """A container of a project in the object store, with the keys that sign grants for it."""

    __tablename__ = "backup_containers"
    project_id: str = Field(primary_key=True)
    storage: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    keys: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    """Two signing keys, wrapped under the master key."""
    created_at: datetime = Field(sa_column=now_column())
    digest: str | None = None
    """SHA-256 of both keys, by which whoever cannot open them knows them again; None: they were not seen there."""
    opened_at: datetime | None = Field(default=None, sa_column=time_column())
    """When the API, with the rights of the project, last saw that it carries the keys and lets the service in; None:
    never, or the service was refused since."""


class BackupStrategy(SQLModel, table=True):
    """Where the backups of a project, or of one of its instances, go."""

    __tablename__ = "backup_strategies"
    project_id: str = Field(primary_key=True)
    instance_id: str = Field(primary_key=True)
    """Empty: the project's default."""
    backend: str = "swift"
    swift_container: str
    created_at: datetime = Field(sa_column=now_column())
