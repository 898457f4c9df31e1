"""The configuration group of an instance, as plans read and change it."""

from __future__ import annotations

from uuid import uuid4

import pytest

from coffer_db.tables import Configuration
from integration.provisioner.actors import execute


@pytest.fixture
async def group(db, records, instance):
    """Makes groups of the instance's version."""

    async def make(**values):
        version = (await records.instance(instance))["datastore_version_id"]
        made = str(uuid4())
        async with db.begin() as session:
            session.add(Configuration(
                id=made, project_id="p", name="tuned", datastore_version_id=version, values=values,
            ))
        return made

    return make


async def test_its_values_are_told_with_the_instance(db, records, instance, group):
    assert (await records.instance(instance))["settings"] == {}
    made = await group(work_mem="8MB", jit=False, cost=1e300)
    await execute(db, "UPDATE instances SET configuration_id = :c", c=made)
    assert (await records.instance(instance))["settings"] == {"work_mem": "8MB", "jit": False, "cost": 1e300}
    await execute(db, "UPDATE configurations SET deleted_at = now()")
    assert (await records.instance(instance))["settings"] == {}


async def test_it_is_exchanged_only_while_it_is_the_one(db, records, instance, group):
    one, two = await group(), await group()
    for attached, other, then in (
        (None, one, one), (two, None, one), (one, two, two), (two, None, None), (None, None, None),
        (None, str(uuid4()), None), (None, two, two),
    ):
        await records.exchange_configuration(instance, attached, other)
        assert (await records.instance(instance))["configuration_id"] == then
    await execute(db, "UPDATE configurations SET deleted_at = now() WHERE id = :c", c=one)
    await records.exchange_configuration(instance, two, one)
    assert (await records.instance(instance))["configuration_id"] is None
