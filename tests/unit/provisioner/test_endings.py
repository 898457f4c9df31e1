"""What the end of each kind of operation writes onto its instance."""

import pytest

from coffer_db.operations import NOW
from coffer_db.tables import OPEN_STATES, Instance, OperationState
from coffer_provisioner.endings import ending
from coffer_provisioner.plan import Job
from coffer_provisioner.plans import DATA_COMMANDS, PLANS

DONE, FAILED, CANCELLED = OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED
ENDS = [state for state in OperationState if state not in OPEN_STATES]
CLEARED = {"failed": False, "fault_message": None, "fault_details": None, "fault_at": None}


def job(kind, **more):
    return Job(
        id="op", instance="i", project="p", kind=kind, secret_args={}, context={}, undoing=False, seconds_left=1.0,
        **({"args": {}, "failure_code": "quota", "failure_text": "no room"} | more),
    )


def fault(kind):
    return {"fault_message": f"{kind} failed (quota): no room", "fault_details": "operation op", "fault_at": NOW}


@pytest.mark.parametrize(("kind", "state", "expected"), [
    ("create_instance", DONE, CLEARED),
    ("restart_instance", DONE, CLEARED),
    ("recover_instance", DONE, CLEARED),
    ("reboot_instance", DONE, CLEARED),
    ("reboot_instance", FAILED, fault("reboot instance")),
    ("stop_instance", DONE, {}),
    ("stop_instance", FAILED, {}),
    ("update_access", DONE, {}),
    ("update_access", FAILED, {}),
    ("delete_instance", DONE, {"deleted_at": NOW, "addresses": []}),
    ("create_users", DONE, {}),
    ("create_backup", DONE, {}),
    ("create_backup", FAILED, {}),
    ("create_backup", CANCELLED, {}),
    ("resize_flavor", DONE, CLEARED),
    ("resize_flavor", FAILED, fault("resize flavor")),
    ("upgrade_instance", DONE, CLEARED),
    ("upgrade_instance", FAILED, fault("upgrade instance")),
    ("resize_volume", DONE, {}),
    ("resize_volume", FAILED, {}),
    ("rebuild_instance", DONE, CLEARED),
    ("rebuild_instance", FAILED, fault("rebuild instance")),
    ("delete_backup", DONE, {}),
    ("delete_backup", FAILED, {}),
    ("create_instance", FAILED, fault("create instance") | {"failed": True}),
    ("create_instance", CANCELLED, fault("create instance") | {"failed": True}),
    ("restart_instance", FAILED, fault("restart instance")),
    ("recover_instance", FAILED, fault("recover instance")),
    ("delete_instance", FAILED, {}),
    ("enable_root", FAILED, {}),
    ("create_users", FAILED, {}),
])
def test_an_instance_is_marked_as_its_operation_ended(kind, state, expected):
    assert ending(job(kind), state) == expected


@pytest.mark.parametrize(("kind", "context", "details"), [
    ("create_instance", {"console": "panic\n"}, "operation op\npanic\n"),
    ("rebuild_instance", {"begun": True, "console": "panic"}, "operation op\npanic"),
    ("resize_flavor", {"broken": "no host"}, "operation op\nno host"),
])
def test_what_is_broken_is_in_error_and_administrators_see_why(kind, context, details):
    work = job(kind)
    work.context |= context
    found = ending(work, FAILED)
    assert (found["failed"], found["fault_details"]) == (True, details)
    assert "panic" not in found["fault_message"]


def test_only_columns_that_exist_are_written_whatever_ends_how():
    columns = set(Instance.model_fields)
    for kind in PLANS:
        for state in ENDS:
            assert ending(job(kind), state).keys() <= columns, (kind, state)


def test_only_a_deletion_that_succeeded_deletes():
    deleting = [(k, s) for k in PLANS for s in ENDS if "deleted_at" in ending(job(k), s)]
    assert deleting == [("delete_instance", DONE)]


def test_users_databases_and_backups_never_mark_the_instance():
    kinds = (*DATA_COMMANDS, "create_backup", "delete_backup")
    assert [ending(job(kind), state) for kind in kinds for state in ENDS] == [{}] * 3 * len(kinds)


def test_a_restore_that_fails_ends_as_a_creation_does():
    assert ending(job("create_instance", args={"restore": "b"}), FAILED)["failed"]


def test_a_long_story_is_cut():
    assert len(ending(job("create_instance", failure_text="x" * 5000), FAILED)["fault_message"]) == 1000
