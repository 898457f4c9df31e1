"""Backups that are snapshots of the volume."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("backups", sa.Column("volume_gib", sa.Integer(), nullable=True))
    op.add_column("backups", sa.Column("fs_uuid", sa.String(), nullable=True))
