"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

_OPEN = "state IN ('pending', 'running', 'waiting', 'undoing')"


def upgrade() -> None:
    op.execute("CREATE SEQUENCE operation_seq")
    op.create_table(
        "account_writes",
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("iat", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account"),
    )
    op.create_table(
        "datastores",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("default_version_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "flavors",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("ram_mb", sa.Integer(), nullable=False),
        sa.Column("vcpus", sa.Float(), nullable=False),
        sa.Column("disk_gib", sa.Integer(), nullable=False),
        sa.Column("ephemeral_gib", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "heartbeats",
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("facts", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.PrimaryKeyConstraint("instance_id"),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "revocations",
        sa.Column("nkey", sa.String(), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("nkey"),
    )
    op.create_table(
        "datastore_versions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("datastore_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("manager", sa.String(), nullable=False),
        sa.Column("image", sa.String(), nullable=False),
        sa.Column("image_digest", sa.String(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["datastore_id"], ['datastores.id']),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("datastore_id", "name", "version"),
    )
    op.create_index("ix_datastore_versions_datastore_id", "datastore_versions", ["datastore_id"])
    op.create_table(
        "instances",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("flavor_id", sa.String(), nullable=False),
        sa.Column("datastore_version_id", sa.String(), nullable=False),
        sa.Column("volume_gib", sa.Integer(), nullable=False),
        sa.Column("volume_type", sa.String(), nullable=True),
        sa.Column("fs_uuid", sa.String(), nullable=False),
        sa.Column("formatted", sa.Boolean(), nullable=False),
        sa.Column("started_once", sa.Boolean(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("availability_zone", sa.String(), nullable=True),
        sa.Column("locality", sa.String(), nullable=True),
        sa.Column("nics", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("is_public", sa.Boolean(), nullable=False),
        sa.Column("allowed_cidrs", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("addresses", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("server_id", sa.String(), nullable=True),
        sa.Column("volume_id", sa.String(), nullable=True),
        sa.Column("root_enabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("root_enabled_by", sa.String(), nullable=True),
        sa.Column("failed", sa.Boolean(), nullable=False),
        sa.Column("fault_message", sa.String(), nullable=True),
        sa.Column("fault_details", sa.String(), nullable=True),
        sa.Column("fault_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint('volume_gib > 0', name="volume_gib_positive"),
        sa.ForeignKeyConstraint(["datastore_version_id"], ['datastore_versions.id']),
        sa.ForeignKeyConstraint(["flavor_id"], ['flavors.id']),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_instances_project", "instances", ["project_id", "id"], postgresql_where=sa.text("deleted_at IS NULL"))
    op.create_table(
        "guests",
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("xpub", sa.LargeBinary(), nullable=True),
        sa.Column("xpub_old", sa.LargeBinary(), nullable=True),
        sa.Column("nkey", sa.String(), nullable=True),
        sa.Column("nkey_old", sa.String(), nullable=True),
        sa.Column("jwt_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("boot_hash", sa.LargeBinary(), nullable=True),
        sa.Column("boot_nkey", sa.String(), nullable=True),
        sa.Column("boot_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("boot_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stolen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("agent_version", sa.String(), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ['instances.id']),
        sa.PrimaryKeyConstraint("instance_id"),
    )
    op.create_table(
        "operations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("seq", sa.BigInteger(), server_default=sa.text("nextval('operation_seq')"), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("trace", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("lifecycle", sa.Boolean(), nullable=False),
        sa.Column("args", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("secret_args", sa.LargeBinary(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("progress", sa.Integer(), nullable=False),
        sa.Column("progress_text", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("context", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("failure_code", sa.String(), nullable=True),
        sa.Column("failure_text", sa.String(), nullable=True),
        sa.Column("failure_step", sa.String(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("request_hash", sa.String(), nullable=True),
        sa.Column("lease_token", sa.String(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("wake_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("guest_state", sa.String(), nullable=False),
        sa.Column("guest_result", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("guest_code", sa.String(), nullable=False),
        sa.Column("guest_text", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["instance_id"], ['instances.id']),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("seq"),
    )
    op.create_index("ix_operations_due", "operations", ["wake_at"], postgresql_where=sa.text(_OPEN))
    op.create_index("ix_operations_instance", "operations", ["instance_id", "seq"])
    op.create_index("ix_operations_project", "operations", ["project_id", "seq"])
    op.create_index("ix_operations_finished", "operations", ["finished_at"], postgresql_where=sa.text("finished_at IS NOT NULL"))
    op.create_index("uq_operations_idempotency", "operations", ["project_id", "idempotency_key"], unique=True, postgresql_where=sa.text("idempotency_key IS NOT NULL"))
    op.create_index("uq_operations_lifecycle", "operations", ["instance_id"], unique=True, postgresql_where=sa.text(f"lifecycle AND {_OPEN}"))
    op.create_table(
        "root_history",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("enabled_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["instance_id"], ['instances.id']),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_root_history_instance_id", "root_history", ["instance_id"])
    op.create_table(
        "operation_events",
        sa.Column("operation_id", sa.String(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("percent", sa.Integer(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["operation_id"], ['operations.id']),
        sa.PrimaryKeyConstraint("operation_id", "n"),
    )
