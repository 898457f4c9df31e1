"""What the cloud in memory does on demand with snapshots: takes its time, and keeps what it has copied from."""

from __future__ import annotations

import pytest

from coffer_provisioner.cloud.fake import FakeCloud, World
from coffer_provisioner.cloud.interface import CloudBusy, Tags

ONE, TWO = Tags("i-1", "o-1", "p"), Tags("i-2", "o-2", "p")


async def test_a_copy_takes_as_many_looks_as_the_world_says() -> None:
    cloud = FakeCloud(World(looks_until_copied=3))
    await cloud.ensure_volume(ONE, gib=1, volume_type=None)
    made = await cloud.ensure_snapshot(ONE, backup="b")
    assert not made.ready
    with pytest.raises(CloudBusy):
        await cloud.drop_snapshot("b")
    with pytest.raises(CloudBusy):
        await cloud.ensure_volume(TWO, gib=1, volume_type=None, snapshot=made.id)
    found = await cloud.find_snapshot("b")
    assert found is not None
    assert found.ready
    assert found == await cloud.ensure_snapshot(ONE, backup="b")


@pytest.mark.parametrize("keeps", [False, True])
async def test_what_was_copied_from(keeps: bool) -> None:
    cloud = FakeCloud(World(keeps_copied_from=keeps))
    await cloud.ensure_volume(ONE, gib=1, volume_type=None)
    made = await cloud.ensure_snapshot(ONE, backup="b")
    await cloud.ensure_volume(TWO, gib=1, volume_type=None, snapshot=made.id)
    assert (cloud.made_of(ONE.instance), cloud.made_of(TWO.instance)) == (None, made.id)
    if keeps:
        with pytest.raises(CloudBusy):
            await cloud.drop_snapshot("b")
        await cloud.drop_volume(TWO.instance)
    await cloud.drop_snapshot("b")
    await cloud.drop_volume(ONE.instance)
    await cloud.drop_volume(TWO.instance)
    assert await cloud.resources() == []
