"""The schema's history, as Alembic revisions. Run them with `coffer_db.migrate`."""
