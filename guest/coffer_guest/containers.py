"""The database container: its image, its life, what Docker says of it. All of Docker that the agent uses is here."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiodocker
import aiohttp
import msgspec
from aiodocker.exceptions import DockerError

from coffer_shared import log
from coffer_shared.datastore import ContainerSpec
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

_log = log.get(__name__)

ROLE = "coffer.role"
_SPEC = "coffer.spec"
_MIB = 1024 * 1024
_REQUEST_SECONDS = 30.0

Progress: TypeAlias = Callable[[int, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What Docker says of the container. `restarts` counts those by Docker's own policy since the last start."""

    exists: bool = False
    running: bool = False
    status: str = ""
    started_at: float = 0.0
    exit_code: int = 0
    out_of_memory: bool = False
    restarts: int = 0
    spec: str = ""


class Containers:
    """One container, called `name`. GiveUp where Docker refuses; DockerError and OSError where it does not answer."""

    def __init__(self, socket: str, *, name: str = "database", username: str = "", password: str = "") -> None:
        self._docker = aiodocker.Docker(url=f"unix://{socket}", timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS))
        self._name = name
        self._auth = (username, password)

    async def ready(self, seconds: float) -> None:
        """Wait until dockerd answers: it starts beside the agent."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await self._docker.version()
                except (DockerError, aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.05)
                else:
                    return

    async def pull(self, image: str, progress: Progress) -> None:
        """By digest nothing is asked of the registry where the image is already here."""
        if await self._has(image):
            return
        layers: dict[str, tuple[int, int]] = {}
        try:
            async for line in self._docker.images.pull(image, auth=self._login(image), stream=True, timeout=None):
                if "error" in line:
                    raise GiveUp(Failure.IMAGE, str(line["error"]))
                detail = line.get("progressDetail") or {}
                if line.get("status") == "Downloading" and detail.get("total"):
                    layers[line["id"]] = (detail["current"], detail["total"])
                    done, total = (sum(column) for column in zip(*layers.values(), strict=True))
                    await progress(100 * done // total, f"pulling the image: {done // _MIB} of {total // _MIB} MiB")
        except DockerError as error:
            raise GiveUp(Failure.IMAGE, f"{image}: {error.message}") from error
        if not await self._has(image):
            raise GiveUp(Failure.IMAGE, f"{image}: pulled, but it is not here")

    async def ensure(self, spec: ContainerSpec, *, memory_bytes: int) -> bool:
        """Make the container as specified; one that differs is replaced. Whether it was made now."""
        config = configuration(spec, memory_bytes=memory_bytes)
        seen = await self.look()
        if seen.exists and seen.spec == config["Labels"][_SPEC]:
            return False
        if seen.exists:
            await self.stop(spec.stop_seconds)
            await self.remove()
        try:
            await self._docker.containers.create(config, name=self._name)
        except DockerError as error:
            raise GiveUp(Failure.ENGINE, f"making the container: {error.message}") from error
        return True

    async def start(self) -> None:
        try:
            await self._container.start()
        except DockerError as error:
            raise GiveUp(Failure.ENGINE, f"starting the container: {error.message}") from error

    async def stop(self, seconds: int) -> None:
        """Cleanly, with that much time; then it is killed. Nothing happens when it does not run."""
        limit = aiohttp.ClientTimeout(total=seconds + _REQUEST_SECONDS)
        try:
            await self._container.stop(t=seconds, timeout=limit)
        except DockerError as error:
            if error.status not in {304, 404}:
                raise GiveUp(Failure.ENGINE, f"stopping the container: {error.message}") from error

    async def remove(self) -> None:
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
            spec=(shown["Config"]["Labels"] or {}).get(_SPEC, ""),
        )

    async def last_words(self, lines: int = 20) -> str:
        """The end of its log, for the text of a failure."""
        try:
            found = await self._container.log(stdout=True, stderr=True, tail=lines)
        except (DockerError, aiohttp.ClientError, OSError):
            return ""
        return "".join(found).strip()[-2000:]

    async def changes(self) -> AsyncIterator[str]:
        """What happens to the container, as it happens: start, die, oom. Ends when dockerd does."""
        filters = msgspec.json.encode({"type": ["container"], "container": [self._name]}).decode()
        events = self._docker.events
        subscriber = events.subscribe(create_task=False)  # type: ignore[no-untyped-call]
        reader = asyncio.create_task(events.run(filters=filters))
        try:
            while (event := await subscriber.get()) is not None:
                yield str(event.get("Action", ""))
        finally:
            reader.cancel()
            await asyncio.wait({reader})
            if not reader.cancelled() and reader.exception() is not None:
                _log.debug("docker events ended", reason=str(reader.exception()))

    async def close(self) -> None:
        await self._docker.close()

    @property
    def _container(self) -> Any:
        return self._docker.containers.container(self._name)

    async def _has(self, image: str) -> bool:
        try:
            await self._docker.images.inspect(image)
        except DockerError as error:
            if error.status in {400, 404}:  # 400: not a possible name, which the pull then says
                return False
            raise
        return True

    def _login(self, image: str) -> dict[str, str] | None:
        username, password = self._auth
        if not username:
            return None
        return {"username": username, "password": password, "serveraddress": image.split("/", 1)[0]}


def configuration(spec: ContainerSpec, *, memory_bytes: int) -> dict[str, Any]:
    """Docker's form of a spec, with what every container gets: no capabilities, a read-only root, capped logs."""
    tmpfs = f"rw,noexec,nosuid,nodev,mode=1777,uid={spec.uid},gid={spec.gid}"
    config: dict[str, Any] = {
        "Image": spec.image,
        "Cmd": list(spec.command),
        "Env": [f"{name}={value}" for name, value in sorted(spec.environment.items())],
        "User": f"{spec.uid}:{spec.gid}",
        "StopSignal": spec.stop_signal,
        "StopTimeout": spec.stop_seconds,
        "HostConfig": {
            "NetworkMode": "host",
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges"],
            "RestartPolicy": {"Name": "unless-stopped"},
            # Not Binds: those make a missing source, and an engine would start on an empty directory.
            "Mounts": [
                {"Type": "bind", "Source": source, "Target": target, "ReadOnly": mode == "ro"}
                for source, target, mode in spec.binds
            ],
            "Tmpfs": dict.fromkeys(spec.tmpfs, tmpfs),
            "ShmSize": spec.shm_bytes or 64 * _MIB,
            "Memory": engine_memory(memory_bytes),
            "MemorySwap": engine_memory(memory_bytes),
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        },
    }
    digest = hashlib.sha256(msgspec.json.encode(config, order="deterministic")).hexdigest()
    config["Labels"] = {ROLE: "database", _SPEC: digest}
    return config


def engine_memory(flavor_bytes: int) -> int:
    """The flavor's memory without what dockerd and the agent need beside the engine."""
    reserve = min(256 * _MIB, max(96 * _MIB, flavor_bytes // 10))
    return max(flavor_bytes - reserve, flavor_bytes // 2)


def _unix(text: str) -> float:
    """Docker's times have nanoseconds, which Python's do not take."""
    if text.startswith("0001"):
        return 0.0
    head, _, fraction = text.removesuffix("Z").partition(".")
    return dt.datetime.fromisoformat(f"{head}.{fraction[:6]:0<6}+00:00").timestamp()
