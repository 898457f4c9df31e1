"""What is known of a container that its owner opens to the service: which keys it carries, and that it is open."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("backup_containers", sa.Column("digest", sa.String(), nullable=True))
    op.add_column("backup_containers", sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True))
