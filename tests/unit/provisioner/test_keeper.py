"""What the keeper decides about machines that are down and resources that nobody needs."""

from datetime import UTC, datetime, timedelta

import pytest

from coffer_provisioner.cloud.interface import Machine, MachineState, Resource
from coffer_provisioner.keeper import Ended, Kept, Verdict, to_recover, verdict

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)
GRACE = timedelta(minutes=1)


def ended(**changes):
    facts = {
        "operation": "op", "instance": "i", "open": False, "instance_deleted": False, "instance_busy": False,
        "failed_create": False, "held_a_database": False, "finished_at": LONG_AGO,
    }
    return {"op": Ended(**(facts | changes))}


def resource(kind="container", instance="i"):
    return Resource(kind=kind, id="r", instance=instance, operation="op")


@pytest.mark.parametrize(
    ("known", "found", "expected"),
    [
        ({}, resource(), Verdict.UNKNOWN),
        (ended(), resource(instance="another"), Verdict.UNKNOWN),
        (ended(), resource(), Verdict.KEEP),
        (ended(instance_deleted=True), resource(), Verdict.DROP),
        (ended(instance_deleted=True, held_a_database=True), resource("volume"), Verdict.DROP),
        (ended(instance_deleted=True, finished_at=NOW - timedelta(seconds=5)), resource(), Verdict.KEEP),
        (ended(instance_deleted=True, instance_busy=True), resource(), Verdict.KEEP),
        (ended(open=True), resource(), Verdict.KEEP),
        (ended(failed_create=True), resource(), Verdict.DROP),
        (ended(failed_create=True), resource("volume"), Verdict.DROP),
        (ended(failed_create=True, held_a_database=True), resource("volume"), Verdict.KEEP),
        (ended(failed_create=True, held_a_database=True), resource(), Verdict.DROP),
        (ended(keeps_snapshot=True, instance_deleted=True), resource("snapshot"), Verdict.KEEP),
        (ended(has_snapshots=True, instance_deleted=True), resource("snapshot"), Verdict.DROP),
        (ended(), resource("snapshot"), Verdict.DROP),
        (ended(open=True), resource("snapshot"), Verdict.KEEP),
        (ended(instance_busy=True), resource("snapshot"), Verdict.KEEP),
        (ended(has_snapshots=True, instance_deleted=True), resource("volume"), Verdict.KEEP),
        (ended(has_snapshots=True, instance_deleted=True), resource("volume-held"), Verdict.KEEP),
        (ended(has_snapshots=True, instance_deleted=True), resource(), Verdict.DROP),
        (ended(has_snapshots=True, failed_create=True), resource("volume"), Verdict.KEEP),
    ],
)
def test_only_what_an_ended_operation_of_ours_left_behind_is_dropped(known, found, expected):
    assert verdict(found, known, NOW, GRACE) is expected


def test_a_stopped_machine_is_started_and_a_missing_one_is_left_to_people():
    kept = [Kept(name, "p") for name in ("stopped", "active", "missing", "error")]
    machines = {
        "stopped": Machine("1", MachineState.STOPPED),
        "active": Machine("2", MachineState.ACTIVE),
        "error": Machine("3", MachineState.ERROR),
    }
    assert [k.instance for k in to_recover(kept, machines)] == ["stopped"]


@pytest.mark.parametrize("kind", ["volume", "volume-held", "volume-size"])
def test_a_marked_volume_is_kept_though_the_rows_know_of_no_database(kind):
    assert verdict(resource(kind), ended(failed_create=True), NOW, GRACE, marked=True) is Verdict.KEEP
    assert verdict(resource(kind), ended(instance_deleted=True), NOW, GRACE, marked=True) is Verdict.DROP
