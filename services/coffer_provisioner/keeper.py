"""What nobody asked for but must happen: machines that went down are started, what nothing needs is swept.

Both compare the database with the cloud, one call to each, and act through operations or on resources whose operation
this database knows. Anything unknown is reported, never deleted: a control plane restored from an old backup must not
take today's instances for rubbish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from coffer_provisioner.cloud.interface import Machine, MachineState, Resource


@dataclass(frozen=True, slots=True)
class Kept:
    """An instance that should be running: prepared once, not deleted, with no open operation."""

    instance: str
    project: str


@dataclass(frozen=True, slots=True)
class Ended:
    """An operation of this database that made resources, and what became of its instance."""

    operation: str
    instance: str
    open: bool
    instance_deleted: bool
    instance_busy: bool
    """Another operation of the instance is open."""
    failed_create: bool
    held_a_database: bool
    finished_at: datetime | None
    keeps_snapshot: bool = False
    """It has made a snapshot that is a backup still."""
    has_snapshots: bool = False
    """There are backups of the instance that are snapshots of its volume."""


class Verdict(StrEnum):
    KEEP = "keep"
    DROP = "drop"
    UNKNOWN = "unknown"
    """It carries our tag, but this database has never heard of its operation."""


def to_recover(kept: Sequence[Kept], machines: Mapping[str, Machine]) -> list[Kept]:
    """Instances whose machine is there and stopped. A machine that is missing altogether is a matter for people."""
    return [
        k for k in kept
        if (machine := machines.get(k.instance)) is not None and machine.state is MachineState.STOPPED
    ]


def verdict(
    resource: Resource, ended: Mapping[str, Ended], now: datetime, grace: timedelta, *, marked: bool = False,
) -> Verdict:
    """What to do with one tagged resource. `ended` is by operation id; `grace` lets running clean-ups finish.

    `marked`: the cloud says that the instance's volume has held a started database."""
    operation = ended.get(resource.operation)
    if operation is None or operation.instance != resource.instance:
        return Verdict.UNKNOWN
    if operation.open or operation.instance_busy:
        return Verdict.KEEP
    if operation.finished_at is None or now - operation.finished_at < grace:
        return Verdict.KEEP
    if resource.kind == "snapshot":
        return Verdict.KEEP if operation.keeps_snapshot else Verdict.DROP
    if resource.kind.startswith("volume") and operation.has_snapshots:
        return Verdict.KEEP  # they need it, also when the instance is long deleted
    if operation.instance_deleted:
        return Verdict.DROP
    held = operation.held_a_database or marked
    if operation.failed_create and not (resource.kind.startswith("volume") and held):
        return Verdict.DROP
    return Verdict.KEEP
