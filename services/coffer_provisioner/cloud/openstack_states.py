"""What a server's description says about the machine. Pure."""

from __future__ import annotations

from coffer_provisioner.cloud.interface import Machine, MachineState
from coffer_provisioner.cloud.openstack_calls import short
from coffer_provisioner.cloud.openstack_labels import Thing

UNCONFIRMED = "VERIFY_RESIZE"
_MOVING = {"BUILD", "REBUILD", "RESIZE", "REVERT_RESIZE", "MIGRATING", "REBOOT", "HARD_REBOOT"}
_DOWN = {
    "SHUTOFF": "it is shut off", "PAUSED": "it is paused", "SUSPENDED": "it is suspended", "SHELVED": "it is shelved",
    "SHELVED_OFFLOADED": "it is shelved", "RESCUE": "it is in rescue mode", "SOFT_DELETED": "it is being deleted",
}
_POWERED_DOWN = {3: "it is paused", 4: "it has shut itself down", 6: "it has crashed", 7: "it is suspended"}
_STARTING = {"powering-on", "unpausing", "resuming", "unshelving", "spawning", "resize_confirming", "resize_reverting"}

WAYS_UP = {
    "SHUTOFF": "os-start", "PAUSED": "unpause", "SUSPENDED": "resume", "SHELVED": "unshelve",
    "SHELVED_OFFLOADED": "unshelve", "RESCUE": "unrescue",
}
"""The action that makes it run again."""


def summary(server: Thing) -> Machine:
    state, fault = _state(server)
    unconfirmed = server["status"] == UNCONFIRMED and task(server) == ""
    return Machine(server["id"], state, fault, unconfirmed=unconfirmed)


def task(server: Thing) -> str:
    """What Nova is doing with it now; nothing: ""."""
    return str(server.get("OS-EXT-STS:task_state") or "")


def going(server: Thing) -> bool:
    return task(server) in {"deleting", "soft-deleting"} or server["status"] in {"DELETED", "SOFT_DELETED"}


def flavor_name(server: Thing) -> str:
    return str((server.get("flavor") or {}).get("original_name") or "")


def _state(server: Thing) -> tuple[MachineState, str]:
    status, power = server["status"], server.get("OS-EXT-STS:power_state")
    if going(server):
        return MachineState.STOPPED, "it is being deleted"
    if status == "ERROR":
        return MachineState.ERROR, short(str((server.get("fault") or {}).get("message") or "")) or "Nova tells no cause"
    if status in _MOVING or task(server) in _STARTING:
        return MachineState.BUILDING, ""
    if status in _DOWN:
        return MachineState.STOPPED, _DOWN[status]
    if server.get("host_status") == "DOWN":
        return MachineState.STOPPED, "its host is down"
    if power in _POWERED_DOWN and task(server) == "":
        return MachineState.STOPPED, _POWERED_DOWN[power]
    return MachineState.ACTIVE, ""
