"""The migrated schema is the models' schema."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest
from sqlalchemy import URL

from coffer_db import migrate
from support.postgres import Server


@pytest.fixture
def blank(postgres: Server) -> Iterator[tuple[str, URL]]:
    name = f"coffer_blank_{secrets.token_hex(4)}"
    postgres.run(f"CREATE DATABASE {name}")
    yield name, postgres.settings(name).url()
    postgres.run(f"DROP DATABASE {name} WITH (FORCE)")


async def test_upgrading_an_empty_database_gives_the_models(blank: tuple[str, URL]) -> None:
    _, url = blank
    assert await migrate.current(url) is None
    assert len(await migrate.check_drift(url)) > 100
    await asyncio.gather(*(migrate.upgrade(url) for _ in range(3)))
    assert await migrate.current(url) == migrate.newest()
    assert await migrate.check_drift(url) == []
    await migrate.upgrade(url.render_as_string(hide_password=False))
    assert await migrate.check_drift(url) == []


@pytest.mark.parametrize(("change", "told"), [
    ("DROP INDEX ix_operations_due", "missing: index CREATE INDEX ix_operations_due"),
    ("DROP INDEX ix_operations_due; CREATE INDEX ix_operations_due ON operations (wake_at)", "unknown: index"),
    ("ALTER TABLE operations ALTER args DROP DEFAULT", "operations.args jsonb not null default '{}'::jsonb"),
    ("ALTER TABLE operations ALTER seq DROP DEFAULT", "nextval('operation_seq'::regclass)"),
    ("ALTER TABLE instances ALTER user_id DROP NOT NULL", "unknown: column instances.user_id character varying null"),
    ("ALTER TABLE flavors ALTER vcpus TYPE int", "missing: column flavors.vcpus double precision"),
    ("ALTER TABLE instances DROP CONSTRAINT volume_gib_positive", "missing: constraint instances.volume_gib_positive"),
    ("ALTER TABLE guests DROP CONSTRAINT guests_instance_id_fkey", "FOREIGN KEY (instance_id) REFERENCES instances"),
    ("ALTER TABLE heartbeats RESET (fillfactor)", "missing: table heartbeats r fillfactor=50"),
    ("CREATE TABLE extra (a int)", "unknown: table extra"),
])
async def test_drift_is_seen(blank: tuple[str, URL], postgres: Server, change: str, told: str) -> None:
    name, url = blank
    await migrate.upgrade(url)
    await asyncio.to_thread(postgres.run, change, name)
    drift = await migrate.check_drift(url)
    assert any(told in line for line in drift), drift
    assert len(drift) <= 2
