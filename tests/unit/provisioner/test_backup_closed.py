"""What becomes of a backup whose container does not let the service in: it is told, noted, and not waited for long."""

from __future__ import annotations

import pytest

from coffer_provisioner.plan import Done, Wait
from coffer_provisioner.plans.clear_backup import remove_objects as clear
from coffer_provisioner.plans.create_backup import CLOSED_SECONDS, check_stored, ensure_store
from coffer_provisioner.plans.create_instance import check_backup
from coffer_provisioner.plans.delete_backup import remove_stored
from coffer_provisioner.storage.interface import Closed
from unit.provisioner.backup_material import BACKUP
from unit.provisioner.backup_stage import WHOLE, WRITTEN
from unit.provisioner.world import result_of

CLOSED = Closed("storage", "the container is closed")


async def test_one_that_was_just_opened_may_seem_closed_for_a_while(stage):
    stage.storage.fail_at("ensure_container", 2, CLOSED)
    assert isinstance(await ensure_store(stage.job, stage.to), Wait)
    stage.clock.now += CLOSED_SECONDS - 1
    assert isinstance(await ensure_store(stage.job, stage.to), Wait)
    assert await ensure_store(stage.job, stage.to) == Done()
    assert stage.backups.closed == 2


async def test_one_that_stays_closed_is_given_up(stage):
    stage.storage.fail_at("ensure_container", 2, CLOSED)
    assert isinstance(await ensure_store(stage.job, stage.to), Wait)
    stage.clock.now += CLOSED_SECONDS
    with pytest.raises(Closed):
        await ensure_store(stage.job, stage.to)


@pytest.mark.parametrize("call", ["read", "listing"])
async def test_it_is_noted_where_it_shows(stage, call):
    stage.operation_row["guest_result"] = result_of(WHOLE, WRITTEN)
    stage.stored()
    stage.storage.fail_at(call, 1, CLOSED)
    with pytest.raises(Closed):
        await check_stored(stage.job, stage.to)
    assert stage.backups.closed == 1


@pytest.mark.parametrize("remove", [remove_stored, clear])
async def test_a_removal_ends_and_says_why(stage, remove):
    stage.row["state"] = "FAILED"
    stage.granted(-1000)
    stage.storage.fail_at("remove", 1, CLOSED)
    with pytest.raises(Closed):
        await remove(stage.job, stage.to)
    assert stage.backups.closed == 1


async def test_of_a_container_that_its_owner_removed_nothing_is_asked(stage):
    stage.row["state"] = "COMPLETED"
    stage.granted(-1000)
    stage.job.args["gone"] = True
    assert await remove_stored(stage.job, stage.to) == Done()
    assert stage.row["state"] == "DELETING"
    assert stage.storage.calls == {}


async def test_a_restore_looks_at_the_keys_too(stage):
    stage.row["state"] = "COMPLETED"
    stage.job.args = {"restore": BACKUP}
    stage.storage.fail_at("ensure_container", 1, CLOSED)
    with pytest.raises(Closed):
        await check_backup(stage.job, stage.to)
    assert stage.backups.closed == 1
