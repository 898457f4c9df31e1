"""The words that an instance shows, fact by fact."""

from __future__ import annotations

import pytest

from coffer_api.status import FULL, HEARTBEAT_EXPIRY, Facts, Shown, action_allowed, service, serving, shown
from coffer_shared.messages import Engine

FRESH = 5.0
STALE = HEARTBEAT_EXPIRY + 1
WELL = {"engine": Engine.HEALTHY, "age": FRESH}


@pytest.mark.parametrize(
    ("facts", "status", "operating"),
    [
        (Facts(task="create_instance"), "BUILD", ""),
        (Facts(task="create_instance", **WELL), "BUILD", ""),
        (Facts(task="create_instance", failed=True), "BUILD", ""),
        (Facts(task="delete_instance", **WELL), "SHUTDOWN", ""),
        (Facts(task="delete_instance", failed=True), "SHUTDOWN", ""),
        (Facts(task="restart_instance", **WELL), "REBOOT", ""),
        (Facts(task="restart_instance", failed=True, **WELL), "REBOOT", ""),
        (Facts(task="recover_instance", engine=Engine.HEALTHY, age=STALE), "REBOOT", ""),
        (Facts(task="create_backup", **WELL), "BACKUP", "HEALTHY"),
        (Facts(task="create_backup", engine=Engine.HEALTHY, age=STALE), "BACKUP", "ERROR"),
        (Facts(task="create_backup", **WELL, volume_use=FULL), "BACKUP", "BLOCKED"),
        (Facts(task="create_backup", failed=True, **WELL), "ERROR", ""),
        (Facts(task="create_backup", **WELL, restart_required=True), "RESTART_REQUIRED", ""),
        (Facts(task="reboot_instance", **WELL), "REBOOT", ""),
        (Facts(task="stop_instance", **WELL), "ACTIVE", ""),
        (Facts(task="update_access", **WELL), "ACTIVE", ""),
        (Facts(task="update_access", failed=True, **WELL), "ACTIVE", ""),
        (Facts(task="something_newer", **WELL), "ACTIVE", ""),
        (Facts(machine=False), "SHUTDOWN", "ERROR"),
        (Facts(machine=False, failed=True), "ERROR", ""),
        (Facts(machine=False, task="create_instance"), "BUILD", ""),
        (Facts(engine=Engine.HEALTHY), "ACTIVE", "ERROR"),
        (Facts(failed=True, **WELL), "ERROR", ""),
        (Facts(failed=True), "ERROR", ""),
        (Facts(**WELL), "ACTIVE", "HEALTHY"),
        (Facts(engine=Engine.HEALTHY, age=HEARTBEAT_EXPIRY), "ACTIVE", "HEALTHY"),
        (Facts(engine=Engine.HEALTHY, age=STALE), "ACTIVE", "ERROR"),
        (Facts(), "ACTIVE", "ERROR"),
        (Facts(engine=Engine.RUNNING, age=FRESH), "ACTIVE", "ACTIVE"),
        (Facts(engine=Engine.STARTING, age=FRESH), "ACTIVE", "ACTIVE"),
        (Facts(engine=Engine.UNHEALTHY, age=FRESH), "ACTIVE", "BLOCKED"),
        (Facts(engine=Engine.STOPPED, age=FRESH), "ACTIVE", "SHUTDOWN"),
        (Facts(engine=Engine.CRASHED, age=FRESH), "ACTIVE", "SHUTDOWN"),
        (Facts(engine=Engine.ABSENT, age=FRESH), "ACTIVE", "SHUTDOWN"),
        (Facts(engine="of a newer agent", age=FRESH), "ACTIVE", "ERROR"),
        (Facts(**WELL, volume_use=FULL), "ACTIVE", "BLOCKED"),
        (Facts(**WELL, volume_use=FULL - 0.01), "ACTIVE", "HEALTHY"),
        (Facts(**WELL, restart_required=True), "RESTART_REQUIRED", ""),
        (Facts(engine=Engine.HEALTHY, age=STALE, restart_required=True), "ACTIVE", "ERROR"),
    ],
)
def test_what_is_shown(facts: Facts, status: str, operating: str):
    assert shown(facts) == Shown(status, operating)


def test_every_engine_state_has_a_word():
    assert {service(Facts(engine=state, age=FRESH)) for state in Engine} == {
        "SHUTDOWN", "ACTIVE", "HEALTHY", "BLOCKED",
    }
    assert service(Facts(task="create_instance")) == "NEW"


@pytest.mark.parametrize(
    ("facts", "action", "asked"),
    [
        (Facts(**WELL), True, True),
        (Facts(failed=True, **WELL), True, True),
        (Facts(engine=Engine.CRASHED, age=FRESH), True, False),
        (Facts(engine=Engine.UNHEALTHY, age=FRESH), True, False),
        (Facts(engine=Engine.ABSENT, age=FRESH), False, False),
        (Facts(engine=Engine.HEALTHY, age=STALE), False, False),
        (Facts(), False, False),
        (Facts(task="restart_instance", **WELL), False, True),
        (Facts(task="update_access", **WELL), False, True),
        (Facts(task="stop_instance", **WELL), False, False),
        (Facts(task="reboot_instance", **WELL), False, False),
        (Facts(task="create_backup", **WELL), False, True),
        (Facts(task="create_backup", engine=Engine.CRASHED, age=FRESH), False, False),
        (Facts(task="create_instance", **WELL), False, False),
        (Facts(task="delete_instance", **WELL), False, False),
    ],
)
def test_what_may_be_done(facts: Facts, action: bool, asked: bool):
    assert action_allowed(facts) is action
    assert serving(facts) is asked


def test_the_expiry_is_a_setting():
    assert shown(Facts(**WELL), expiry=1.0).operating == "ERROR"
