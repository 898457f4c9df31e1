"""What `status` and `operating_status` an instance shows, and what may be done to it, from facts with an age.

Pure: no clock, no database. The words are Trove's, because clients compare them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coffer_shared.messages import Engine

HEARTBEAT_EXPIRY = 90.0
"""Seconds after which a silent agent's facts no longer count."""
FULL = 0.97
"""Share of the data volume beyond which an engine that still answers is not called healthy."""

_TASKS: Mapping[str, str] = {
    "create_instance": "BUILD",
    "delete_instance": "SHUTDOWN",
    "restart_instance": "REBOOT",
    "recover_instance": "REBOOT",
    "reboot_instance": "REBOOT",
    "create_backup": "BACKUP",
    "create_snapshot": "BACKUP",
    "resize_volume": "RESIZE",
    "resize_flavor": "RESIZE",
    "rebuild_instance": "BUILD",
    "upgrade_instance": "UPGRADE",
}
_BESIDE = frozenset({None, "create_backup", "create_snapshot"})
"""Tasks during which an instance goes on serving, and shows what it would show without them."""
_SERVED = _BESIDE | {"restart_instance", "update_access", "resize_volume"}
"""Tasks during which users, databases and root may be read and changed, if the database answers."""
_SERVICE: Mapping[str, str] = {
    Engine.ABSENT: "SHUTDOWN",
    Engine.STARTING: "ACTIVE",
    Engine.RUNNING: "ACTIVE",
    Engine.HEALTHY: "HEALTHY",
    Engine.UNHEALTHY: "BLOCKED",
    Engine.STOPPED: "SHUTDOWN",
    Engine.CRASHED: "SHUTDOWN",
}
_SERVING = frozenset({Engine.RUNNING, Engine.HEALTHY})


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one instance."""

    task: str | None = None
    """Kind of the open lifecycle operation."""
    failed: bool = False
    """The last lifecycle operation failed."""
    engine: str | None = None
    """As the last heartbeat said; None if there was none yet."""
    age: float | None = None
    """Seconds since that heartbeat was received; None also if that was before an administrator reset the status."""
    machine: bool = True
    """It has, or had, a machine that was not taken back."""
    restart_required: bool = False
    volume_use: float = 0.0
    """Used share of the data volume, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Shown:
    status: str
    operating: str


def shown(facts: Facts, expiry: float = HEARTBEAT_EXPIRY) -> Shown:
    if not at_rest(facts):
        return Shown(doing(facts), "")
    if facts.failed:
        return Shown("ERROR", "")
    if not facts.machine:
        return Shown("SHUTDOWN", service(facts, expiry))
    if facts.restart_required and heard(facts, expiry):
        return Shown("RESTART_REQUIRED", "")
    return Shown(doing(facts), service(facts, expiry))


def doing(facts: Facts) -> str:
    """The word for the task alone."""
    return _TASKS.get(facts.task or "", "ACTIVE")


def at_rest(facts: Facts) -> bool:
    """Whether nothing is being done that could change how the instance is."""
    return facts.task in _BESIDE


def service(facts: Facts, expiry: float = HEARTBEAT_EXPIRY) -> str:
    """Trove's word for the database service alone, whatever task runs."""
    if facts.engine is None and facts.task == "create_instance":
        return "NEW"
    if not heard(facts, expiry):
        return "ERROR"
    word = _SERVICE.get(facts.engine or "", "ERROR")
    return "BLOCKED" if word == "HEALTHY" and facts.volume_use >= FULL else word


def heard(facts: Facts, expiry: float = HEARTBEAT_EXPIRY) -> bool:
    return facts.engine is not None and facts.age is not None and facts.age <= expiry


def action_allowed(facts: Facts, expiry: float = HEARTBEAT_EXPIRY) -> bool:
    """Whether a task may begin. A failed instance whose agent reports may be acted upon: that is how it recovers."""
    return facts.task is None and heard(facts, expiry) and facts.engine != Engine.ABSENT


def serving(facts: Facts, expiry: float = HEARTBEAT_EXPIRY) -> bool:
    """Whether users, databases and root can be read or changed now."""
    return facts.task in _SERVED and heard(facts, expiry) and facts.engine in _SERVING
