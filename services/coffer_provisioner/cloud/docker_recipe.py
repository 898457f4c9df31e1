"""What Docker is asked to make for a machine and its helpers: plain values, no calls.

The recipe was found by leaving things out one at a time; what the machine's image expects is in
deploy/images/machine/README.md. A machine needs exactly these capabilities to run an engine of its own, whose
containers drop all of them; the device rule admits its own loop device and no other. It gets a private cgroup
namespace, since otherwise what it starts would be outside its own limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coffer_provisioner.cloud.docker_labels import DockerSettings
from coffer_provisioner.cloud.docker_networks import TenantNetwork
from coffer_provisioner.cloud.interface import MachineSpec, Size

CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_ADMIN", "SETFCAP", "SETGID", "SETUID",
    "SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE",
)  # fmt: skip
USER_DATA_DIRECTORY = "/etc/coffer"
USER_DATA_NAME = "user-data.json"
DATA_FILE = "/volume/disk.img"
FORWARDER_DIRECTORY = "/config"
FORWARDER_NAME = "forwarder.json"
_LOG = {"Type": "local", "Config": {"max-size": "10m", "max-file": "2"}}
_MIB = 2**20


def machine(
    settings: DockerSettings,
    spec: MachineSpec,
    *,
    labels: Mapping[str, str],
    volumes: Mapping[str, str],
    gib: int,
    seed: str | None,
    loop_minor: str,
    network: TenantNetwork,
    management_subnet: str,
) -> dict[str, Any]:
    """`volumes` maps the places in the machine to the names of Docker volumes."""
    environment = {
        **settings.guest_environment,
        "COFFER_INSTANCE": spec.tags.instance,
        "COFFER_REGISTRY": settings.registry,
        "COFFER_LOOP_MINOR": loop_minor,
        "COFFER_VOLUME_FILE": DATA_FILE,
        "COFFER_VOLUME_BYTES": str(gib * 2**30),
        "COFFER_TENANT_ADDRESS": spec.port.address,
        "COFFER_TENANT_SUBNET": str(network.subnet),
        "COFFER_TENANT_GATEWAY": network.gateway,
        "COFFER_MANAGEMENT_SUBNET": management_subnet,
    }
    mounts: list[dict[str, Any]] = [_volume(name, place) for place, name in volumes.items()]
    if seed is not None:
        mounts.append({**_volume(seed, "/seed"), "ReadOnly": True})
    return {
        "Image": settings.machine_image,
        "Hostname": _hostname(spec.name),
        "Labels": dict(labels),
        "Env": [f"{key}={value}" for key, value in environment.items()],
        "StopTimeout": settings.stop_seconds,
        "HostConfig": {
            # engines before 25 take one network here; the tenant's is connected before the first start
            "NetworkMode": settings.management_network,
            "CapDrop": ["ALL"],
            "CapAdd": list(CAPABILITIES),
            "SecurityOpt": ["seccomp=unconfined", "apparmor=unconfined"],
            "CgroupnsMode": "private",
            "DeviceCgroupRules": [f"b 7:{loop_minor} rwm"],
            "Tmpfs": {"/run": "exec,mode=755", "/tmp": "exec,mode=1777"},  # noqa: S108 - a mount point, not a file
            "RestartPolicy": {"Name": "unless-stopped"},
            **limits(spec.size),
            "PidsLimit": 4096,
            "Mounts": mounts,
            "LogConfig": _LOG,
        },
    }


def limits(size: Size) -> dict[str, int]:
    """What can be changed while the machine runs. Docker keeps it with the container, whatever is restarted."""
    return {"Memory": size.memory_mb * _MIB, "MemorySwap": size.memory_mb * _MIB, "NanoCpus": round(size.vcpus * 1e9)}


def volume_helper(
    settings: DockerSettings, *, labels: Mapping[str, str], volume: str, loop_minor: str, gib: int,
) -> dict[str, Any]:
    """Makes or enlarges the file that is the data volume, and makes the kernel have the loop device."""
    command = ["coffer-volume", "create", DATA_FILE, loop_minor, str(gib * 2**30)]
    return _helper(settings, labels, command, [_volume(volume, "/volume")])


def loop_helper(settings: DockerSettings, *, labels: Mapping[str, str], loop_minor: str) -> dict[str, Any]:
    """Lets the loop device go."""
    return _helper(settings, labels, ["coffer-loop", "remove", loop_minor], [])


def _helper(
    settings: DockerSettings, labels: Mapping[str, str], command: list[str], mounts: list[dict[str, Any]],
) -> dict[str, Any]:
    """Only helpers may open /dev/loop-control (c 10:237), which rules over all loop devices of the host."""
    return {
        "Image": settings.machine_image,
        "Labels": dict(labels),
        "Entrypoint": command[:1],
        "Cmd": command[1:],
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "CapAdd": ["MKNOD"],
            "SecurityOpt": ["no-new-privileges"],
            "DeviceCgroupRules": ["c 10:237 rwm"],
            "Memory": 64 * _MIB,
            "Mounts": mounts,
            "LogConfig": _LOG,
        },
    }


def forwarder(settings: DockerSettings, *, labels: Mapping[str, str], volume: str) -> dict[str, Any]:
    """Docker publishes nothing: the forwarder listens in the host's network, so it sees where peers come from."""
    return {
        "Image": settings.services_image,
        "Labels": dict(labels),
        "User": "10001:10001",
        "Entrypoint": [],
        "Cmd": ["coffer-forwarder", f"{FORWARDER_DIRECTORY}/{FORWARDER_NAME}"],
        "StopTimeout": 5,
        "HostConfig": {
            "NetworkMode": "host",
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "RestartPolicy": {"Name": "unless-stopped"},
            "Memory": 64 * _MIB,
            "MemorySwap": 64 * _MIB,
            "PidsLimit": 32,
            # writable for Docker, which puts the file there; the forwarder's user can only read it
            "Mounts": [_volume(volume, FORWARDER_DIRECTORY)],
            "LogConfig": _LOG,
        },
    }


def _volume(name: str, place: str) -> dict[str, Any]:
    return {"Type": "volume", "Source": name, "Target": place}


def _hostname(name: str) -> str:
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).strip("-")[:63].rstrip("-")
    return kept or "machine"
