"""The plans: their order, and the steps that decide something."""

from __future__ import annotations

import pytest

from coffer_provisioner.cloud.fake import FakeCloud, World
from coffer_provisioner.cloud.interface import CloudBusy, MachineSpec, MachineState, Size, Tags
from coffer_provisioner.plan import Done, Job, Wait
from coffer_provisioner.plans import DATA_COMMANDS, PLANS, patient
from coffer_provisioner.plans.create_instance import (
    drop_unused_volume,
    ensure_machine,
    image_reference,
    keep_console,
    wait_enrolled,
    wait_healthy,
)
from coffer_provisioner.plans.recover_instance import ensure_machine_runs, note_last_report, wait_reported
from coffer_provisioner.reach import Reach
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Engine

INSTANCE = "11111111-1111-4111-8111-111111111111"
TAGS = Tags(INSTANCE, "op", "p")
DIGEST = "sha256:" + "0" * 64


class Rows:
    def __init__(self, cloud):
        self.cloud = cloud
        self.row = {
            "enrolled": False, "started_once": False, "name": "db", "ram_mb": 512, "vcpus": 1.0, "volume_gib": 1,
            "flavor_id": "small", "manager": "postgresql", "user_id": "ann", "availability_zone": "north",
            "locality": "affinity",
        }
        self.beat = None
        self.guest_state = ""
        self.given = []

    async def instance(self, instance):
        return dict(self.row)

    async def set_instance(self, instance, **columns):
        self.row |= columns

    async def heartbeat(self, instance):
        return self.beat

    async def operation(self, operation):
        return {"guest_state": self.guest_state}

    async def user_data(self, instance, operation):
        self.given.append(f"user data of {operation}".encode())
        return self.given[-1]

    @property
    def reach(self):
        return Reach(
            cloud=self.cloud, guests=self, records=self, identities=self, backups=None, storages={}, registry="r:5000",
        )


@pytest.fixture
async def rows():
    """An instance with its port and volume, and no machine."""
    rows = Rows(FakeCloud())
    await prepared(rows)
    return rows


async def prepared(rows):
    rows.port = await rows.cloud.ensure_port(TAGS, network=None, address=None)
    rows.volume = await rows.cloud.ensure_volume(TAGS, gib=1, volume_type=None)


async def machine(rows, state=MachineState.ACTIVE, fault=""):
    await rows.cloud.ensure_machine(MachineSpec(TAGS, "db", Size("small", 512, 1.0), rows.port, rows.volume, b"first"))
    rows.cloud.set_machine(INSTANCE, state, fault)


def job(rows, **more):
    context = {"address": rows.port.address, "network": rows.port.network, "volume": rows.volume.id}
    return Job(
        id="op", instance=INSTANCE, project="p", kind="create_instance", args={}, secret_args={}, context=context,
        undoing=False, seconds_left=100.0, **more,
    )


ORDER = {
    "create_instance": (
        ("check_backup ensure_port ensure_access ensure_volume ensure_machine wait_enrolled prepare_guest mark_volume "
         "ensure_public_address wait_healthy"),
        "keep_console drop_public_address drop_machine drop_unused_volume drop_identity drop_port",
    ),
    "delete_instance": ("drop_public_address drop_machine drop_identity drop_volume drop_port", ""),
    "restart_instance": ("restart_database", "ensure_machine_runs"),
    "recover_instance": ("note_last_report ensure_machine_runs wait_reported", ""),
    "reboot_instance": ("note_boot restart_machine wait_reported", "ensure_machine_runs"),
    "stop_instance": ("stop_database wait_stopped", ""),
    "update_access": (
        "note_access record_access open_filter set_access_on_guest close_filter set_public_address",
        "restore_access restore_public_address tell_guest restore_filter",
    ),
    "resize_volume": ("grow_device grow_file_system", "settle_device settle_file_system"),
    "grow_file_system": ("grow_file_system", ""),
    "resize_flavor": (
        "note_sizes shrink_engine resize_machine wait_back grow_engine confirm_resize record_flavor",
        "stop_guest revert_machine restore_flavor settle_engine",
    ),
    "fit_engine": ("fit_engine", ""),
    "rebuild_instance": ("check_data rebuild_machine wait_enrolled prepare_guest wait_reported", "keep_console"),
    "enable_root": ("enable_on_guest record_root", ""),
    "upgrade_instance": ("upgrade record_version", "stop_guest record_what_runs"),
    "create_backup": (
        "ensure_store draw_key back_up settle check_stored record",
        "stop_guest mark_failed",
    ),
    "configure_instance": ("configure", "attach_former"),
    "create_snapshot": (
        "freeze take_snapshot wait_written record", "stop_guest drop_snapshot mark_failed",
    ),
    "delete_backup": ("remove_stored forget", ""),
    "clear_backup": ("remove_objects", ""),
    **dict.fromkeys(DATA_COMMANDS, ("run_on_guest", "")),
}


def test_every_plan_has_its_steps_in_order():
    got = {
        kind: tuple(" ".join(step.__name__ for step in row) for row in (plan.steps, plan.undo))
        for kind, plan in PLANS.items()
    }
    assert got == ORDER


def test_a_plan_knows_its_own_kind_and_its_steps_have_names_of_their_own():
    for kind, plan in PLANS.items():
        assert plan.kind == kind
        for row in (plan.steps, plan.undo):
            names = [step.__name__ for step in row]
            assert len(names) == len(set(names)), kind


def test_only_deletions_never_give_up_and_only_that_of_an_instance_deletes_a_used_volume():
    keeps_trying = {kind for kind, plan in PLANS.items() if plan.keep_trying}
    assert keeps_trying == {"delete_instance", "delete_backup", "clear_backup"}
    dropping = {k for k, plan in PLANS.items() for s in (*plan.steps, *plan.undo) if s.__name__ == "drop_volume"}
    assert dropping == {"delete_instance"}


# --- images ---


@pytest.mark.parametrize("image", [
    "coffer/postgres", "coffer/postgres:17", "coffer/postgres@sha256:1", "coffer/postgres:17@sha256:1",
])
def test_an_image_is_named_by_its_recorded_digest(image):
    assert image_reference("r:5000", image, DIGEST) == f"r:5000/coffer/postgres@{DIGEST}"


@pytest.mark.parametrize(("image", "digest"), [("coffer/postgres:17", ""), ("", DIGEST), ("", "")])
def test_an_image_without_a_recorded_digest_is_not_pulled_by_tag(image, digest):
    with pytest.raises(GiveUp) as caught:
        image_reference("r:5000", image, digest)
    assert caught.value.code == "image_missing"


# --- the machine ---


async def test_a_machine_that_takes_time_keeps_the_credential_it_was_given():
    rows = Rows(FakeCloud(World(looks_until_active=3)))
    await prepared(rows)
    work = job(rows)
    outcomes = [await ensure_machine(work, rows.reach) for _ in range(4)]
    assert [type(o) for o in outcomes] == [Wait, Wait, Wait, Done]
    assert rows.cloud.user_data(INSTANCE) == rows.given[-1]
    assert len(rows.given) == 1


async def test_a_machine_that_was_begun_by_a_turn_that_died_is_completed_with_the_credential_it_may_hold_already():
    rows = Rows(FakeCloud(World(looks_until_active=9)))
    await prepared(rows)
    await ensure_machine(job(rows), rows.reach)
    await ensure_machine(job(rows), rows.reach)
    assert rows.given == [rows.cloud.user_data(INSTANCE)] * 2


async def test_a_machine_is_described_as_its_row_says():
    rows = Rows(FakeCloud())
    await prepared(rows)
    await ensure_machine(job(rows), rows.reach)
    spec = rows.cloud.world.stack("coffer").machines[INSTANCE].spec
    assert spec.size == Size("small", 512, 1.0)
    assert (spec.manager, spec.user, spec.availability_zone, spec.locality) == (
        "postgresql", "ann", "north", "affinity",
    )


# --- what a machine said before it was taken back ---

SECRETS = (
    "6f" * 32, "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4",
    "eyJ0eXAi.OiJKV1QiLCJh-bGciOiJlZDI1NTE5_LW5rZXki",
)


async def test_the_console_is_kept_without_what_may_be_secret(rows, monkeypatch):
    async def console(instance, lines):
        told = "".join(f"user data: {one}\n" for one in SECRETS)
        return "\x1b[31mboot\n" + "x" * 39 + f"\n{told}{INSTANCE}: bad\n"

    monkeypatch.setattr(rows.cloud, "console", console)
    work = job(rows, failure_code="machine_failed")
    assert await keep_console(work, rows.reach) == Done()
    kept = work.context["console"]
    assert kept == "[31mboot\n" + "x" * 39 + "\n" + "user data: [...]\n" * 3 + f"{INSTANCE}: bad\n"


async def test_the_console_that_is_kept_is_its_end_and_never_in_the_way(rows, monkeypatch):
    await machine(rows)
    said = ["line\n" * 5000]

    async def console(instance, lines):
        if not said:
            raise CloudBusy("no answer")
        return said.pop()

    monkeypatch.setattr(rows.cloud, "console", console)
    work = job(rows, failure_code="machine_failed")
    for _ in range(2):
        assert await keep_console(work, rows.reach) == Done()
    assert len(work.context["console"]) == 4000
    work = job(rows, failure_code="deadline")
    assert await keep_console(work, rows.reach) == Done()
    assert work.context["console"] == "the console cannot be read: no answer"
    work = job(rows, failure_code="cancelled")
    assert await keep_console(work, rows.reach) == Done()
    assert "console" not in work.context


def test_patience_is_given_to_every_plan():
    for kind, plan in patient(PLANS, 2.5).items():
        assert plan.within == PLANS[kind].within * 2.5
        assert plan.step_limit == PLANS[kind].step_limit * 2.5
        assert plan.steps == PLANS[kind].steps


async def test_a_stopped_machine_with_an_identity_needs_no_second_credential(rows):
    rows.row["enrolled"] = True
    await machine(rows, MachineState.STOPPED)
    assert isinstance(await ensure_machine(job(rows), rows.reach), Wait)
    assert isinstance(await ensure_machine(job(rows), rows.reach), Done)
    assert rows.given == []
    assert rows.cloud.starts(INSTANCE) == 2


async def test_a_machine_in_error_ends_it(rows):
    await machine(rows, MachineState.ERROR, "no host")
    for step in (ensure_machine, wait_enrolled):
        with pytest.raises(GiveUp, match="no host") as caught:
            await step(job(rows), rows.reach)
        assert caught.value.code == "machine_failed"


async def test_an_agent_is_waited_for_while_its_machine_is_there(rows):
    with pytest.raises(GiveUp, match="it is gone"):
        await wait_enrolled(job(rows), rows.reach)
    await machine(rows)
    assert isinstance(await wait_enrolled(job(rows), rows.reach), Wait)
    rows.row["enrolled"] = True
    assert await wait_enrolled(job(rows), rows.reach) == Done()


@pytest.mark.parametrize("engine", list(Engine))
async def test_a_creation_ends_with_a_healthy_report(rows, engine):
    assert isinstance(await wait_healthy(job(rows), rows.reach), Wait)
    rows.beat = {"engine": engine.value, "facts": {}}
    assert isinstance(await wait_healthy(job(rows), rows.reach), Done if engine is Engine.HEALTHY else Wait)


# --- the volume of a creation that is undone ---


@pytest.mark.parametrize(("evidence", "kept"), [
    ({}, False),
    ({"row": True}, True),
    ({"guest_state": "done"}, True),
    ({"guest_state": "failed"}, False),
    ({"beat": Engine.HEALTHY}, True),
    ({"beat": Engine.ABSENT}, False),
    ({"beat": Engine.STARTING}, False),
], ids=str)
async def test_a_volume_goes_only_if_nothing_says_that_it_held_a_database(rows, evidence, kept):
    rows.row["started_once"] = evidence.get("row", False)
    rows.guest_state = evidence.get("guest_state", "")
    if "beat" in evidence:
        rows.beat = {"engine": evidence["beat"].value, "facts": {}}
    assert await drop_unused_volume(job(rows), rows.reach) == Done()
    assert ("volume" in [r.kind for r in await rows.cloud.resources()]) is kept
    assert rows.row["started_once"] is kept  # so that the sweeper thinks the same


# --- restart and recovery ---


@pytest.mark.parametrize(("state", "starts"), [(MachineState.STOPPED, 2), (MachineState.ACTIVE, 1)])
async def test_the_undo_of_a_restart_leaves_no_machine_stopped(rows, state, starts):
    await machine(rows, state)
    (undo,) = PLANS["restart_instance"].undo
    assert await undo(job(rows), rows.reach) == Done()
    assert rows.cloud.starts(INSTANCE) == starts


async def test_the_undo_of_a_restart_does_not_mind_a_missing_machine(rows):
    (undo,) = PLANS["restart_instance"].undo
    assert await undo(job(rows), rows.reach) == Done()


@pytest.mark.parametrize(("state", "code"), [(None, "machine_gone"), (MachineState.ERROR, "machine_failed")])
async def test_what_cannot_be_started_is_left_to_people(rows, state, code):
    if state:
        await machine(rows, state, "it broke")
    work = job(rows)
    assert await note_last_report(work, rows.reach) == Done()
    with pytest.raises(GiveUp) as caught:
        await ensure_machine_runs(work, rows.reach)
    assert caught.value.code == code


@pytest.mark.parametrize("killed", [False, True])
async def test_a_recovery_waits_for_a_report_from_after_the_start(rows, killed):
    """Also when the turn that started the machine died before it was saved."""
    await machine(rows, MachineState.STOPPED)
    rows.beat = {"engine": "healthy", "facts": {"boot": "before"}}
    work = job(rows)
    await note_last_report(work, rows.reach)
    saved = dict(work.context)
    await ensure_machine_runs(work, rows.reach)
    if killed:
        work.context = saved
        await ensure_machine_runs(work, rows.reach)
    assert rows.cloud.starts(INSTANCE) == 2
    assert isinstance(await wait_reported(work, rows.reach), Wait)
    for engine, boot, outcome in (("starting", "after", Wait), ("healthy", "before", Wait), ("healthy", "after", Done)):
        rows.beat = {"engine": engine, "facts": {"boot": boot}}
        assert isinstance(await wait_reported(work, rows.reach), outcome)


async def test_a_machine_that_came_back_by_itself_needs_no_new_report(rows):
    await machine(rows)
    rows.beat = {"engine": "healthy", "facts": {"boot": "b"}}
    work = job(rows)
    for step in PLANS["recover_instance"].steps:
        assert await step(work, rows.reach) == Done()
    assert rows.cloud.starts(INSTANCE) == 1
