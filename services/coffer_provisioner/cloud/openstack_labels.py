"""How the OpenStack driver marks and names what it makes, and the settings it is given. No call is made here.

Marks are part of the call that creates a thing: metadata where there is some (servers, volumes, snapshots), otherwise
words in the description (Neutron) or in the name (server groups). Names are those that operators of Trove know, and
only narrow a listing; what does not carry our marks is never ours.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from coffer_provisioner.cloud.interface import MachineSpec, Tags

Thing = Mapping[str, Any]
"""A resource as one of OpenStack's services describes it."""

HELD = "coffer_held"
"""Metadata of a volume: it has held a started database."""
BACKUP = "coffer_backup"
"""Metadata of a snapshot: the backup that it is."""
REBUILT = "coffer_rebuild"
"""Metadata of a server: the operation that rebuilt it last."""
RESIZED = "coffer_resize"
"""Metadata of a server: the operation that asked for a size last, the size, and the last such request before it."""

TAG_LENGTH = 60
METADATA_LENGTH = 255
NAME_LENGTH = 255
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_STACK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_MARK = re.compile(r"\bcoffer-([a-z]+)=([A-Za-z0-9_.-]+)")


class Kind(StrEnum):
    """`Resource.kind`."""

    MACHINE = "machine"
    VOLUME = "volume"
    """Cinder volume that holds the tenant's data."""
    SNAPSHOT = "snapshot"
    """Of such a volume, and so holds it too, also when the instance is gone. No other kinds do."""
    VOLUME_HELD = "volume-held"
    """Not a thing of its own: the volume's mark that it has held a started database. Goes with the volume."""
    ADDRESS = "address"
    """Neutron port on the tenant's network."""
    MANAGEMENT = "management-port"
    ACCESS = "security-group"
    PUBLIC = "public"
    """Floating address."""
    GROUP = "server-group"
    """Listed only while no machine is in it, since several instances share it."""


class OpenStackSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the driver is told, each from COFFER_OPENSTACK_<NAME> (COFFER_OPENSTACK_<NAME>_FILE: the value is in that
    file). The only secret is behind `clouds_file`."""

    image: str = ""
    """Id or name of the guest image in Glance; of several with the name, the newest. Empty: the newest of those that
    were uploaded to the service project with `coffer-manage image upload`."""
    management_networks: tuple[str, ...]
    """Ids or names of networks on which machines reach the control plane."""
    management_security_groups: tuple[str, ...] = ()
    """Ids or names; they should let nothing in. None: the management ports let nothing in and everything out."""
    public_network: str = ""
    """Id or name of the external network that floating addresses come from."""
    clouds_file: str = ""
    """A clouds.yaml. Empty: as clients find theirs (OS_* variables, clouds.yaml)."""
    cloud: str = ""
    """Its entry: a user of the service project with the admin role."""
    stack: str = "coffer"
    """Stacks in one service project do not see each other's resources."""
    availability_zone: str = ""
    """Where a machine goes that asks for none. Empty: the cloud chooses."""
    key_pair: str = ""
    """Name of the service user's key pair for operators who must look into a machine. Empty: nobody can sign in."""
    ssh_cidrs: tuple[str, ...] = ()
    """Ranges of the management network from which that key opens a machine's ssh server. Empty: it does not run."""
    config_drive: bool = False
    boot_volume_gib: int = 0
    """More than 0: the system disk is a volume of that size instead of a disk of the host."""
    enable_access_check: bool = True
    """Refuse subnets without a router: nobody outside of them could reach a database there."""
    allow_icmp: bool = False
    """Let those in who may connect also ping."""
    registry: str = ""
    """host:port where machines pull engine images from."""
    registry_insecure: bool = False
    registry_ca: str = ""
    """PEM."""
    dns_domain: str = ""
    """Where names for instances would go in Designate: refused, since no release makes any."""
    call_seconds: float = 30.0
    """How long one call to one of OpenStack's services may take."""
    wait_seconds: float = 100.0
    """How long the driver waits within one of its calls for what the cloud has accepted; then it is CloudBusy."""
    stop_seconds: float = 80.0
    """How long a machine may take to stop its database before it is rebooted the hard way."""
    settle_seconds: float = 1.0
    """How far the clocks of the cloud's API servers may differ, and its listings lag behind what was made."""
    poll_seconds: float = 1.0
    threads: int = 8
    """Calls at the same time."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose a thing is, as it says itself."""

    instance: str
    operation: str
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Marks:
    """Names and marks of one stack."""

    stack: str

    def __post_init__(self) -> None:
        if not _STACK.fullmatch(self.stack):
            raise ValueError(f"not a name for a stack: {self.stack[:80]!r}")

    # --- Nova and Cinder ---

    def metadata(self, tags: Tags) -> dict[str, str]:
        return {
            "coffer_stack": self.stack,
            "coffer_instance": word(tags.instance),
            "coffer_operation": word(tags.operation),
            "coffer_project": tags.project[:METADATA_LENGTH],
        }

    def snapshot_metadata(self, tags: Tags, backup: str) -> dict[str, str]:
        return self.metadata(tags) | {BACKUP: word(backup)}

    def server_metadata(self, spec: MachineSpec) -> dict[str, str]:
        shown = {
            "trove_project_id": spec.tags.project, "trove_user_id": spec.user,
            "trove_instance_id": spec.tags.instance, "trove_manager": spec.manager,
        }
        return self.metadata(spec.tags) | {key: text[:METADATA_LENGTH] for key, text in shown.items() if text}

    def server_tags(self, spec: MachineSpec) -> list[str]:
        """The ones by which `machines_filter` finds it, and those that operators of Trove look for."""
        shown = {
            "trove_": spec.manager, "trove_project_id_": spec.tags.project, "trove_user_id_": spec.user,
        }
        return [
            "trove_instance", self._stack_tag, f"trove_instance_id_{word(spec.tags.instance)}",
            *(nova_tag(prefix + text) for prefix, text in shown.items() if text),
        ]

    def server_filter(self, instance: str | None = None) -> str:
        """The value of the query `tags` of a listing of servers, which must have all of them."""
        return ",".join([self._stack_tag, *([] if instance is None else [f"trove_instance_id_{word(instance)}"])])

    def volume_filter(self, instance: str | None = None) -> str:
        """The value of the query `metadata` of a listing of volumes."""
        return repr({"coffer_stack": self.stack} | ({} if instance is None else {"coffer_instance": word(instance)}))

    def snapshot_filter(self, backup: str | None = None) -> str:
        """As `volume_filter`."""
        return repr({"coffer_stack": self.stack} | ({} if backup is None else {BACKUP: word(backup)}))

    # --- Neutron ---

    def description(self, tags: Tags, kind: Kind) -> str:
        return " ".join(self.network_tags(tags, kind))

    def network_tags(self, tags: Tags, kind: Kind) -> list[str]:
        return [
            self._stack_tag, f"coffer-instance={word(tags.instance)}", f"coffer-operation={word(tags.operation)}",
            f"coffer-kind={kind.value}",
        ]

    def network_filter(self, instance: str | None = None) -> str:
        return ",".join([self._stack_tag, *([] if instance is None else [f"coffer-instance={word(instance)}"])])

    def mac(self, instance: str, network: str) -> str:
        """The hardware address of the instance's port on a network, always the same: Neutron lets a network have an
        address once, so that of two ports made at once only one comes to be."""
        digest = hashlib.sha256(f"{self.stack} {instance} {network}".encode()).hexdigest()
        return "06:" + ":".join(digest[at : at + 2] for at in range(0, 10, 2))

    # --- server groups ---

    def group_name(self, tags: Tags) -> str:
        return f"locality_{tags.instance} {self.description(tags, Kind.GROUP)}"

    # --- reading ---

    def of(self, thing: Thing) -> Mark | None:
        """None: it is not this stack's."""
        metadata = thing.get("metadata") or {}
        if "coffer_stack" in metadata:
            found = {key.removeprefix("coffer_"): str(text) for key, text in metadata.items()}
        else:
            found = read_marks(" ".join([
                str(thing.get("description") or ""), *(thing.get("tags") or []),
                str(thing.get("name") or "") if "members" in thing else "",
            ]))
        if found.get("stack") != self.stack or not found.get("instance"):
            return None
        return Mark(found["instance"], found.get("operation", ""), found.get("kind", ""))

    def mine(self, things: Iterable[Thing], instance: str | None = None, kind: Kind | None = None) -> list[Thing]:
        """Those that carry the marks, and the instance's and kind's if given."""
        return [
            thing for thing in things
            if (mark := self.of(thing)) is not None
            and instance in {None, mark.instance} and (kind is None or mark.kind == kind.value)
        ]

    @property
    def _stack_tag(self) -> str:
        return f"coffer-stack={self.stack}"


def read_marks(text: str) -> dict[str, str]:
    """The first of each key counts."""
    found: dict[str, str] = {}
    for key, value in _MARK.findall(text):
        found.setdefault(key, value)
    return found


def word(text: str) -> str:
    """An id as it may stand in a mark or a URL; ValueError for anything else."""
    if not _WORD.fullmatch(text):
        raise ValueError(f"not an id: {text[:80]!r}")
    return text


def port_name(instance: str) -> str:
    return f"trove-{word(instance)}"


def snapshot_name(backup: str) -> str:
    return f"trove-{word(backup)}-backup"


def access_name(instance: str) -> str:
    return f"trove_sg-{word(instance)}"


def nova_tag(text: str) -> str:
    """Nova takes neither commas nor slashes in tags, nor more than 60 characters."""
    return re.sub(r"[,/]", "-", text)[:TAG_LENGTH]


def server_name(name: str) -> str:
    """The tenant's name for the instance, as far as Nova takes it: printable, without space around it."""
    shown = "".join(c if c.isprintable() else " " for c in name)
    return shown.strip()[:NAME_LENGTH].strip() or "instance"


def ranked(things: Iterable[Thing], *better: Callable[[Thing], bool]) -> list[Thing]:
    """The one that stays first, then the ones that go: whoever looks comes to the same order.

    Those that are `better` come first, in the order of these tests, then the oldest, then the smallest id."""
    return sorted(things, key=lambda thing: (
        *(not test(thing) for test in better),
        str(thing.get("created_at") or thing.get("created") or ""),
        str(thing["id"]),
    ))
