"""Configuration groups, quotas and rates of projects, what versions are tied to, orphans and confirmed facts."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"

_NOW = sa.text("now()")


def _time(name: str, *, nullable: bool = False, default: Any = _NOW) -> "sa.Column[Any]":
    return sa.Column(
        name, sa.DateTime(timezone=True), nullable=nullable, server_default=None if nullable else default,
    )


def _text(name: str, *, nullable: bool = False) -> "sa.Column[Any]":
    return sa.Column(name, sa.String(), nullable=nullable)


def _json(name: str) -> "sa.Column[Any]":
    return sa.Column(name, JSONB(), nullable=False, server_default=sa.text("'{}'::jsonb"))


def upgrade() -> None:
    op.add_column("datastore_versions", _json("traits"))
    op.create_table(
        "version_flavors", _text("version_id"), _text("flavor_id"),
        sa.PrimaryKeyConstraint("version_id", "flavor_id"),
        sa.ForeignKeyConstraint(["version_id"], ["datastore_versions.id"]),
        sa.ForeignKeyConstraint(["flavor_id"], ["flavors.id"]),
    )
    op.create_table(
        "version_volume_types", _text("version_id"), _text("volume_type"),
        sa.PrimaryKeyConstraint("version_id", "volume_type"),
        sa.ForeignKeyConstraint(["version_id"], ["datastore_versions.id"]),
    )
    op.create_table(
        "configuration_parameters", _text("version_id"), _text("name"), _text("data_type"),
        sa.Column("restart_required", sa.Boolean(), nullable=False), _json("rule"),
        sa.PrimaryKeyConstraint("version_id", "name"),
        sa.ForeignKeyConstraint(["version_id"], ["datastore_versions.id"]),
    )
    op.create_index(
        "uq_configuration_parameters_name", "configuration_parameters", ["version_id", sa.text("lower(name)")],
        unique=True,
    )
    op.create_table(
        "configurations", _text("id"), _text("project_id"), _text("name"), _text("description", nullable=True),
        _text("datastore_version_id", nullable=True), _json("values"), _time("created_at"), _time("updated_at"),
        _time("deleted_at", nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.ForeignKeyConstraint(["datastore_version_id"], ["datastore_versions.id"], ondelete="SET NULL"),
        sa.CheckConstraint(
            "deleted_at IS NOT NULL OR datastore_version_id IS NOT NULL", name="configuration_has_version",
        ),
    )
    op.create_index(
        "ix_configurations_project", "configurations", ["project_id", "id"],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.add_column("instances", _text("configuration_id", nullable=True))
    op.create_foreign_key(None, "instances", "configurations", ["configuration_id"], ["id"])
    op.create_index("ix_instances_configuration_id", "instances", ["configuration_id"])
    op.add_column("instances", _time("reset_at", nullable=True))
    op.create_table(
        "project_quotas", _text("project_id"), _text("resource"), sa.Column("hard_limit", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "resource"),
    )
    op.create_table(
        "request_rates", _text("project_id"), _text("verb"), sa.Column("tokens", sa.Float(), nullable=False),
        sa.Column("taken", sa.Float(), nullable=False), _time("at", default=None),
        sa.PrimaryKeyConstraint("project_id", "verb"),
        prefixes=["UNLOGGED"], postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "orphans", _text("kind"), _text("id"), _text("instance_id"), _text("operation_id"), _time("first_seen_at"),
        _time("last_seen_at"),
        *(
            sa.Column(name, sa.Boolean(), nullable=False, server_default=sa.text("false"))
            for name in ("held_data", "drop_requested", "drop_data")
        ),
        sa.PrimaryKeyConstraint("kind", "id"),
    )
    op.create_table("marks", _text("name"), _text("value"), _time("at"), sa.PrimaryKeyConstraint("name"))
    op.create_table(
        "registered", _text("kind"), _text("id"), _json("offer"), sa.PrimaryKeyConstraint("kind", "id"),
    )
    # What is deleted lets go of its version and flavor; what is not, holds them.
    for table, column, other in (
        ("instances", "datastore_version_id", "datastore_versions"), ("instances", "flavor_id", "flavors"),
        ("backups", "datastore_version_id", "datastore_versions"),
    ):
        op.alter_column(table, column, nullable=True)
        op.drop_constraint(f"{table}_{column}_fkey", table, type_="foreignkey")
        op.create_foreign_key(f"{table}_{column}_fkey", table, other, [column], ["id"], ondelete="SET NULL")
    op.create_check_constraint(
        "instance_has_flavor_and_version", "instances",
        "deleted_at IS NOT NULL OR (flavor_id IS NOT NULL AND datastore_version_id IS NOT NULL)",
    )
    op.create_check_constraint(
        "backup_has_version", "backups", "deleted_at IS NOT NULL OR datastore_version_id IS NOT NULL",
    )
