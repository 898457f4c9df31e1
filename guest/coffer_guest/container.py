"""One container, by its name: what Docker says of it, its start and its end. What it is made from is others' affair."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

from coffer_shared.datastore import ContainerSpec
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

ROLE = "coffer.role"
SPEC = "coffer.spec"
MIB = 1024 * 1024
REQUEST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What Docker says of a container. `restarts` counts those by Docker's own policy since the last start."""

    exists: bool = False
    running: bool = False
    status: str = ""
    started_at: float = 0.0
    """Zero if it was never started."""
    exit_code: int = 0
    out_of_memory: bool = False
    restarts: int = 0
    spec: str = ""


class Container:
    """GiveUp where Docker refuses; DockerError and OSError where it does not answer."""

    def __init__(self, docker: aiodocker.Docker, name: str) -> None:
        self._docker = docker
        self._name = name

    async def start(self) -> None:
        try:
            await self._container.start()
        except DockerError as error:
            raise GiveUp(Failure.ENGINE, f"starting the container: {error.message}") from error

    async def stop(self, seconds: int) -> None:
        """Cleanly, with that much time; then it is killed. Nothing happens when it does not run."""
        limit = aiohttp.ClientTimeout(total=seconds + REQUEST_SECONDS)
        try:
            await self._container.stop(t=seconds, timeout=limit)
        except DockerError as error:
            if error.status not in {304, 404}:
                raise GiveUp(Failure.ENGINE, f"stopping the container: {error.message}") from error

    async def hold(self) -> None:
        """All that runs in it stands still until `let_go`."""
        try:
            await self._container.pause()
        except DockerError as error:
            raise GiveUp(Failure.ENGINE, f"holding the container: {error.message}") from error

    async def let_go(self) -> None:
        """Nothing happens when it is not held."""
        if (await self.look()).status == "paused":
            await self._container.unpause()

    async def remove(self) -> None:
        """Also while it runs, which kills it."""
        try:
            await self._container.delete(force=True, v=True)
        except DockerError as error:
            if error.status != 404:
                raise

    async def look(self) -> Seen:
        try:
            shown = await self._container.show()
        except DockerError as error:
            if error.status == 404:
                return Seen()
            raise
        state = shown["State"]
        return Seen(
            exists=True,
            running=bool(state["Running"]) and not state["Restarting"],
            status=state["Status"],
            started_at=_unix(state["StartedAt"]),
            exit_code=state["ExitCode"],
            out_of_memory=state["OOMKilled"],
            restarts=shown["RestartCount"],
            spec=(shown["Config"]["Labels"] or {}).get(SPEC, ""),
        )

    @property
    def _container(self) -> Any:
        return self._docker.containers.container(self._name)


def hardened(spec: ContainerSpec, *, gid: int, memory_bytes: int) -> dict[str, Any]:
    """Docker's form of a spec, with what every container gets: no capabilities, a read-only root, bounded memory."""
    tmpfs = f"rw,noexec,nosuid,nodev,mode=1777,uid={spec.uid},gid={gid}"
    return {
        "Image": spec.image,
        "Cmd": list(spec.command),
        "Env": [f"{name}={value}" for name, value in sorted(spec.environment.items())],
        "User": f"{spec.uid}:{gid}",
        "StopSignal": spec.stop_signal,
        "StopTimeout": spec.stop_seconds,
        "HostConfig": {
            "NetworkMode": "host",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            # Not Binds: those make a missing source, and an engine would start on an empty directory.
            "Mounts": [bind(source, target, read_only=mode == "ro") for source, target, mode in spec.binds],
            "Tmpfs": dict.fromkeys(spec.tmpfs, tmpfs),
            "ShmSize": spec.shm_bytes or 64 * MIB,
            "Memory": memory_bytes,
            "MemorySwap": memory_bytes,
        },
    }


def bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": target, "ReadOnly": read_only}


def _unix(text: str) -> float:
    """Docker's times have nanoseconds, which Python's do not take."""
    if text.startswith("0001"):
        return 0.0
    head, _, fraction = text.removesuffix("Z").partition(".")
    return dt.datetime.fromisoformat(f"{head}.{fraction[:6]:0<6}+00:00").timestamp()
