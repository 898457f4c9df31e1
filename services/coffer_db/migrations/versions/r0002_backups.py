"""Backups: their rows, containers, keys and strategies; operations that run beside others."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"

_NOW = sa.text("now()")


def _time(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    default = None if nullable else _NOW
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, server_default=default)


def upgrade() -> None:
    op.add_column("datastore_versions", sa.Column("backup_image", sa.String(), nullable=False, server_default=""))
    op.add_column(
        "datastore_versions", sa.Column("backup_image_digest", sa.String(), nullable=False, server_default=""),
    )
    op.add_column("operations", sa.Column("beside", sa.Boolean(), nullable=False, server_default=sa.text("false")))
    op.create_table(
        "backups",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("operation_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("parent_id", sa.String(), nullable=True),
        sa.Column("datastore_version_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("storage", sa.String(), nullable=False),
        sa.Column("container", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("location", sa.String(), nullable=True),
        sa.Column("data_key", sa.LargeBinary(), nullable=True),
        _time("grant_until", nullable=True),
        sa.Column("manifest_sha256", sa.String(), nullable=True),
        sa.Column("raw_bytes", sa.BigInteger(), nullable=True),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=True),
        sa.Column("segments", sa.Integer(), nullable=True),
        sa.Column("position", JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("tools", JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb")),
        sa.Column("failure_text", sa.String(), nullable=True),
        _time("created_at"),
        _time("updated_at"),
        _time("completed_at", nullable=True),
        _time("deleted_at", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["instance_id"], ["instances.id"]),
        sa.ForeignKeyConstraint(["parent_id"], ["backups.id"]),
        sa.ForeignKeyConstraint(["datastore_version_id"], ["datastore_versions.id"]),
    )
    alive = sa.text("deleted_at IS NULL")
    op.create_index("ix_backups_project", "backups", ["project_id", "updated_at"], postgresql_where=alive)
    op.create_index("ix_backups_instance", "backups", ["instance_id", "updated_at"], postgresql_where=alive)
    op.create_index(
        "ix_backups_parent", "backups", ["parent_id"], postgresql_where=sa.text("parent_id IS NOT NULL"),
    )
    op.create_table(
        "project_keys",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("project_id"),
    )
    op.create_table(
        "backup_containers",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("storage", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("keys", sa.LargeBinary(), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("project_id", "storage", "name"),
    )
    op.create_table(
        "backup_strategies",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("backend", sa.String(), nullable=False),
        sa.Column("swift_container", sa.String(), nullable=False),
        _time("created_at"),
        sa.PrimaryKeyConstraint("project_id", "instance_id"),
    )
