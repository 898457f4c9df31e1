"""Alembic's entry: runs the revisions on the connection that `coffer_db.migrate` hands over."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

import coffer_db.tables  # noqa: F401 - declares the tables

context.configure(connection=context.config.attributes["connection"], target_metadata=SQLModel.metadata)
context.run_migrations()
