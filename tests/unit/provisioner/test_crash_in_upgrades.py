"""Upgrading, killed before and after every outside call: the row says the version whose image runs."""

from __future__ import annotations

import pytest

from coffer_db.tables import OperationState
from coffer_shared.messages import Accepted, Cancel, Refused
from unit.provisioner.world import Fuse, World, drive, everywhere

SUCCEEDED, FAILED = OperationState.SUCCEEDED, OperationState.FAILED
WANTED = {"version": "newer", "former": "older"}
OLD, NEW = "registry:5000/coffer/postgres@sha256:" + "0" * 64, "registry:5000/coffer/postgres@sha256:" + "9" * 64


@pytest.fixture
def built(clock):
    """Makes worlds with an instance that runs."""

    async def make(*, fate=""):
        one = World(clock)
        await drive("create_instance", one, Fuse())
        one.row["datastore_version_id"] = "older"
        one.fate, one.runs, one.commands = fate, 0, []
        return one

    return make


async def test_the_guest_is_told_the_image_by_digest_and_then_the_row_says_it(built):
    one = await built()
    assert one.image == OLD
    assert (await drive("upgrade_instance", one, Fuse(), WANTED)).state is SUCCEEDED
    assert [command.args for command in one.commands] == [{"version": "17.9", "image": NEW}]
    assert (one.row["datastore_version_id"], one.image) == ("newer", NEW)


async def test_weakness_18_it_is_killed_everywhere(built):
    ends = 0
    async for one, claimed, at in everywhere(built, "upgrade_instance", WANTED):
        ends += 1
        assert claimed.state is SUCCEEDED, at
        assert (one.row["datastore_version_id"], one.image, one.runs) == ("newer", NEW, 1), at
    assert ends > 4


async def test_an_agent_that_went_back_is_believed(built):
    async def make():
        return await built(fate="fails to upgrade")

    async for one, claimed, at in everywhere(make, "upgrade_instance", WANTED):
        assert (claimed.state, claimed.failure_code) == (FAILED, "engine"), at
        assert (one.row["datastore_version_id"], one.image) == ("older", OLD), at


@pytest.mark.parametrize("fate", ["silent", "refuses"])
async def test_whoever_does_nothing_keeps_the_version(built, fate):
    one = await built(fate=fate)
    assert (await drive("upgrade_instance", one, Fuse(), WANTED)).state is FAILED
    assert (one.row["datastore_version_id"], one.image) == ("older", OLD)


async def test_what_the_agent_did_is_recorded_though_the_operation_ends(built):
    """It was done in the moment in which nobody waited for it any more."""
    one = await built()

    async def late(instance, command, *, within):
        if isinstance(command, Cancel):
            one.operation_row["guest_state"] = "done"
            return Refused(code="not_found", text="that has ended")
        return Accepted()

    one.send = late
    claimed = await drive("upgrade_instance", one, Fuse(), WANTED, deadline_after=20)
    assert (claimed.state, one.row["datastore_version_id"]) == (FAILED, "newer")


async def test_a_version_that_is_gone_is_told(built):
    one = await built()
    one.versions.clear()
    claimed = await drive("upgrade_instance", one, Fuse(), WANTED)
    assert (claimed.state, claimed.failure_code) == (FAILED, "no_version")
    assert one.commands == []
