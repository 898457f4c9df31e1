"""What the database knows nothing of: listed, and dropped only when an operator says so."""

from __future__ import annotations

from uuid import uuid4

import pytest

from coffer_db import orphans
from coffer_provisioner.cloud.fake import FakeCloud
from coffer_provisioner.cloud.interface import CloudBusy, MachineSpec, Tags
from coffer_provisioner.rounds import Rounds
from coffer_shared.errors import Refused
from integration.provisioner.actors import execute


@pytest.fixture
def cloud():
    return FakeCloud()


@pytest.fixture
def rounds(provisioner_db, cloud, make_instance):
    return Rounds(provisioner_db, cloud, every=15, filed=lambda: None)


@pytest.fixture
async def stranger(cloud, rounds, make_instance):
    """An instance with a database that only the cloud knows; a round has been made."""
    instance = str(uuid4())
    await build(cloud, instance)
    await rounds.once()
    return instance


async def build(cloud, instance, operation=None, *, held=True):
    tags = Tags(instance, operation or str(uuid4()), f"project of {instance}")
    port = await cloud.ensure_port(tags, network=None, address=None)
    volume = await cloud.ensure_volume(tags, gib=1, volume_type=None)
    await cloud.ensure_machine(MachineSpec(tags, "db", 512, 1.0, port, volume, b"user data"))
    await cloud.ensure_public_address(tags, port=port, tcp_port=5432, allowed_cidrs=())
    if held:
        await cloud.mark_volume(tags)


async def kinds(cloud):
    return sorted(r.kind for r in await cloud.resources())


async def ask(db, kind, *, with_data=False):
    (one,) = [o for o in await orphans.known(db) if o.kind == kind]
    await orphans.request_drop(db, kind, one.id, with_data=with_data)


ALL = ["address", "machine", "public", "volume", "volume-held"]


async def test_they_are_listed_and_left_alone(db, cloud, rounds, stranger):
    for _ in range(3):
        await rounds.once()
    listed = await orphans.known(db)
    assert [o.kind for o in listed] == ALL
    assert {o.instance_id for o in listed} == {stranger}
    assert [o.kind for o in listed if o.held_data] == ["volume", "volume-held"]
    assert not any(o.drop_requested or o.instance_lives for o in listed)
    assert all(o.first_seen_at < o.last_seen_at for o in listed)
    assert rounds.unknown == 5
    assert await kinds(cloud) == ALL


async def test_what_is_gone_is_not_listed_any_more(db, cloud, rounds, stranger):
    await cloud.drop_public_address(stranger)
    await rounds.once()
    assert [o.kind for o in await orphans.known(db)] == [kind for kind in ALL if kind != "public"]
    cloud.fail_at("resources", 1, CloudBusy("not now"))
    with pytest.raises(CloudBusy):
        await rounds.once()
    assert len(await orphans.known(db)) == 4


async def test_one_statement_tells_of_them_all(cloud, rounds, provisioner_db, stranger):
    before = provisioner_db.statements
    await rounds.once()
    few = provisioner_db.statements - before
    for _ in range(20):
        await build(cloud, str(uuid4()))
    await rounds.once()
    assert provisioner_db.statements - before == 2 * few


async def test_an_operator_drops_one_and_the_others_stay(db, cloud, rounds, stranger):
    await ask(db, "machine")
    assert await kinds(cloud) == ALL
    await rounds.once()
    assert await kinds(cloud) == [kind for kind in ALL if kind != "machine"]
    assert rounds.counts["dropped"] == 1
    await rounds.once()
    assert [o.kind for o in await orphans.known(db)] == [kind for kind in ALL if kind != "machine"]


async def test_a_volume_that_held_a_database_goes_only_with_its_data_and_its_mark_after_it(
    db, cloud, rounds, stranger,
):
    for kind in ("volume", "volume-held"):
        with pytest.raises(Refused, match="--with-data"):
            await ask(db, kind)
    await ask(db, "volume-held", with_data=True)
    await rounds.once()
    assert await kinds(cloud) == ALL
    await ask(db, "volume", with_data=True)
    await rounds.once()
    assert await kinds(cloud) == ALL  # the machine uses it
    await ask(db, "machine")
    for _ in range(2):
        await rounds.once()
    assert await kinds(cloud) == ["address", "public"]


async def test_a_volume_that_is_found_to_have_held_a_database_after_it_was_asked_for_stays(db, cloud, rounds):
    instance = str(uuid4())
    await build(cloud, instance, operation := str(uuid4()), held=False)
    await cloud.drop_machine(instance)
    await rounds.once()
    await ask(db, "volume")
    await cloud.mark_volume(Tags(instance, operation, "p"))
    await rounds.once()
    assert "volume" in await kinds(cloud)
    assert rounds.counts["dropped"] == 0


async def test_what_is_known_again_is_not_dropped(db, cloud, rounds, stranger, make_instance, file):
    """The right backup of the control plane was put back meanwhile."""
    await ask(db, "machine")
    instance = await make_instance()
    operation = await file(instance, "create_instance")
    await execute(db, "UPDATE operations SET state = 'succeeded', finished_at = now()")
    cloud._mine.machines[instance] = cloud._mine.machines.pop(stranger)
    tags = Tags(instance, operation, "p")
    machine = cloud._mine.machines[instance]
    machine.spec = MachineSpec(tags, "db", 512, 1.0, machine.spec.port, machine.spec.volume, b"")
    await rounds.once()
    assert "machine" in await kinds(cloud)


async def test_a_name_that_is_used_again_is_another_thing(db, cloud, rounds, stranger):
    """The request is yesterday's, from a backup of the control plane; today somebody else has that address."""
    await ask(db, "address")
    await cloud.drop_machine(stranger)
    await cloud.drop_port(stranger)
    heir = str(uuid4())
    tags = Tags(heir, str(uuid4()), f"project of {stranger}")
    await cloud.ensure_port(tags, network=None, address=None)
    for _ in range(2):
        await rounds.once()
    (address,) = [o for o in await orphans.known(db) if o.kind == "address"]
    assert (address.instance_id, address.drop_requested) == (heir, False)
    assert "address" in await kinds(cloud)


async def test_what_belongs_to_a_living_instance_is_left_to_its_deletion(db, cloud, rounds, make_instance):
    """A control plane restored from an older backup deletes nothing of today's instances, also when it is told to."""
    instance = await make_instance(started_once=True)
    await build(cloud, instance)
    await rounds.once()
    before = await kinds(cloud)
    for kind in before:
        with pytest.raises(Refused, match="delete the instance"):
            await ask(db, kind, with_data=True)
    assert {o.instance_lives for o in await orphans.known(db)} == {True}
    await execute(db, "UPDATE orphans SET drop_requested = true, drop_data = true")
    await rounds.once()
    assert await kinds(cloud) == before


async def test_one_that_is_not_there_cannot_be_asked_for(db, rounds, stranger):
    with pytest.raises(Refused, match="no orphan machine x"):
        await orphans.request_drop(db, "machine", "x", with_data=False)


async def test_one_that_cannot_be_dropped_is_tried_again(db, cloud, rounds, stranger):
    await ask(db, "public")
    cloud.fail_at("drop_resource", 1, CloudBusy("not now"))
    await rounds.once()
    assert "public" in await kinds(cloud)
    await rounds.once()
    assert "public" not in await kinds(cloud)
