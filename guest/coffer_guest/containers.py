"""The database container: its image, its making, what happens to it. The agent's one connection to Docker is here."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import aiodocker
import aiohttp
import msgspec
from aiodocker.exceptions import DockerError

from coffer_guest.container import MIB, REQUEST_SECONDS, ROLE, SPEC, Container, hardened
from coffer_guest.oneshot import OPERATION, OneShot
from coffer_shared import log
from coffer_shared.datastore import ContainerSpec
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

_log = log.get(__name__)

Progress: TypeAlias = Callable[[int, str], Awaitable[None]]


class Containers(Container):
    """One container, called `name`. GiveUp where Docker refuses; DockerError and OSError where it does not answer."""

    def __init__(self, socket: str, *, name: str = "database", username: str = "", password: str = "") -> None:
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        super().__init__(aiodocker.Docker(url=f"unix://{socket}", timeout=timeout), name)
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
                    await progress(100 * done // total, f"pulling the image: {done // MIB} of {total // MIB} MiB")
        except DockerError as error:
            raise GiveUp(Failure.IMAGE, f"{image}: {error.message}") from error
        if not await self._has(image):
            raise GiveUp(Failure.IMAGE, f"{image}: pulled, but it is not here")

    async def ensure(self, spec: ContainerSpec, *, memory_bytes: int) -> bool:
        """Make the container as specified; one that differs is replaced. Whether it was made now."""
        config = configuration(spec, memory_bytes=memory_bytes)
        seen = await self.look()
        if seen.exists and seen.spec == config["Labels"][SPEC]:
            return False
        if seen.exists:
            await self.stop(spec.stop_seconds)
            await self.remove()
        try:
            await self._docker.containers.create(config, name=self._name)
        except DockerError as error:
            raise GiveUp(Failure.ENGINE, f"making the container: {error.message}") from error
        return True

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

    def one_shot(self, role: str, operation: str) -> OneShot:
        return OneShot(self._docker, role, operation)

    async def one_shots(self) -> list[OneShot]:
        """All that are here, running or not."""
        filters = msgspec.json.encode({"label": [OPERATION, ROLE]}).decode()
        found = [listed["Labels"] for listed in await self._docker.containers.list(all=True, filters=filters)]
        return [self.one_shot(labels[ROLE], labels[OPERATION]) for labels in found]

    async def close(self) -> None:
        await self._docker.close()

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
    """The database's container comes back by itself after a crash; its log is capped."""
    config = hardened(spec, gid=spec.gid, memory_bytes=engine_memory(memory_bytes))
    config["HostConfig"] |= {
        "RestartPolicy": {"Name": "unless-stopped"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
    }
    digest = hashlib.sha256(msgspec.json.encode(config, order="deterministic")).hexdigest()
    config["Labels"] = {ROLE: "database", SPEC: digest}
    return config


def engine_memory(flavor_bytes: int) -> int:
    """The flavor's memory without what dockerd and the agent need beside the engine."""
    reserve = min(256 * MIB, max(96 * MIB, flavor_bytes // 10))
    return max(flavor_bytes - reserve, flavor_bytes // 2)
