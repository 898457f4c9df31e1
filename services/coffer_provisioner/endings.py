"""What the end of an operation changes about its instance, written in the transaction that ends it."""

from __future__ import annotations

from typing import Any

from coffer_db.operations import NOW
from coffer_db.tables import OperationState
from coffer_provisioner.plan import Job

_SETTLES = frozenset({
    "create_instance", "restart_instance", "recover_instance", "reboot_instance", "resize_flavor", "rebuild_instance",
    "upgrade_instance",
})
"""Kinds whose success takes back an earlier fault."""
_FAILS = frozenset({"create_instance"})
"""Kinds whose failure leaves an instance that cannot be used. Others may, and note so in the context: see `_fails`."""


def ending(job: Job, state: OperationState) -> dict[str, Any]:
    """Columns of the instance."""
    if job.kind == "delete_instance" and state is OperationState.SUCCEEDED:
        return {"deleted_at": NOW, "addresses": []}
    if state is OperationState.SUCCEEDED:
        if job.kind in _SETTLES:
            return {"failed": False, "fault_message": None, "fault_details": None, "fault_at": None}
        return {}
    if job.kind in _FAILS or job.kind in _SETTLES:
        changes: dict[str, Any] = {
            "fault_message": _sentence(job), "fault_details": _details(job), "fault_at": NOW,
        }
        return changes | ({"failed": True} if _fails(job) else {})
    return {}


def _sentence(job: Job) -> str:
    return f"{job.kind.replace('_', ' ')} failed ({job.failure_code}): {job.failure_text}"[:1000]


def _fails(job: Job) -> bool:
    """`begun`: a machine was given up for another one; `broken`: what the undo could not mend."""
    return job.kind in _FAILS or not {"begun", "broken"}.isdisjoint(job.context)


def _details(job: Job) -> str:
    """For administrators: what the undo found."""
    found = [job.context[name] for name in ("broken", "console") if job.context.get(name)]
    return "\n".join([f"operation {job.id}", *found])
