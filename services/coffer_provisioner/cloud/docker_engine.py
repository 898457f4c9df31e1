"""The calls to the Docker Engine that the driver uses, with types, deadlines and the driver's own errors.

Every call ends within the given time. What Docker answers to a call that came too late or for the second time (it is
there already, it is gone already) is a return value; everything else is CloudBusy or CloudRefused.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiodocker
import aiohttp

from coffer_provisioner.cloud.docker_labels import checked_name
from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused

Description = Mapping[str, Any]
"""A container, volume or network as Docker describes it."""


class Engine:
    def __init__(self, socket: str, call_seconds: float) -> None:
        self._socket = socket
        self._seconds = call_seconds
        self._client: Any = None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # --- containers ---

    async def containers(self, labels: Sequence[str]) -> list[Description]:
        async with self._asking("listing containers") as docker:
            found = await docker.containers.list(all=True, filters=_json_filters(labels))
            return [container._container for container in found]  # noqa: SLF001 - the summary has no other door

    async def new_container(self, labels: Sequence[str]) -> Description:
        """The one that was just made, by this caller or by another: its name is taken a moment before it is listed."""
        for _ in range(25):
            if found := await self.containers(labels):
                return found[0]
            await asyncio.sleep(0.1)
        raise CloudBusy("a container is being made by somebody else, or its name is in use outside Coffer")

    async def container(self, name: str) -> Description | None:
        async with self._asking("looking at a container") as docker:
            try:
                return _described(await docker.containers.container(checked_name(name)).show())
            except aiodocker.DockerError as error:
                if error.status == 404:
                    return None
                raise

    async def create_container(self, name: str, config: Mapping[str, Any]) -> bool:
        """False if there is a container of that name already."""
        async with self._asking("making a container") as docker:
            try:
                await docker.containers.create(dict(config), name=checked_name(name))
            except aiodocker.DockerError as error:
                if error.status == 409:
                    return False
                if error.status == 404 and "no such image" in error.message.lower():
                    raise CloudRefused(
                        "image_missing",
                        f"the Docker Engine has no image {config['Image']}: build or pull it there, then try again",
                    ) from error
                if error.status == 400:
                    raise CloudRefused("machine_refused", f"Docker refuses: {_short(error.message)}") from error
                raise
            return True

    async def start(self, container: str) -> None:
        async with self._asking("starting a container") as docker:
            await docker.containers.container(container).start()

    async def limit(self, container: str, limits: Mapping[str, int]) -> None:
        """CloudBusy also while it uses more memory than it is to have; CloudRefused for what the host does not have."""
        path = f"containers/{checked_name(container)}/update"
        async with self._asking("changing a container's limits") as docker:
            try:
                await docker._query_json(path, method="POST", data=dict(limits))  # noqa: SLF001 - aiodocker lacks it
            except aiodocker.DockerError as error:
                if error.status == 400:
                    raise CloudRefused("no_capacity", f"Docker refuses: {_short(error.message)}") from error
                raise

    async def unpause(self, container: str) -> None:
        async with self._asking("waking a container") as docker:
            try:
                await docker.containers.container(container).unpause()
            except aiodocker.DockerError as error:
                if "is not paused" not in error.message:
                    raise

    async def stop(self, container: str, seconds: int) -> None:
        """Returns when it has stopped. If this call is cut short, Docker still stops it."""
        async with self._asking("stopping a container", seconds + self._seconds) as docker:
            with _gone_is_fine():
                await docker.containers.container(container).stop(t=seconds)

    async def signal(self, container: str, name: str) -> None:
        """Not an error if the container is not running."""
        async with self._asking("sending a signal") as docker:
            try:
                await docker.containers.container(container).kill(signal=name)
            except aiodocker.DockerError as error:
                if error.status not in {404, 409}:
                    raise

    async def remove_container(self, container: str) -> None:
        """Returns when it is gone, even if somebody else is removing it."""
        async with self._asking("removing a container") as docker:
            while True:
                try:
                    await docker.containers.container(container).delete(force=True, v=True)
                except aiodocker.DockerError as error:
                    if error.status == 404:
                        return
                    if error.status != 409:
                        raise
                    await asyncio.sleep(0.1)
                else:
                    return

    async def wait(self, container: str) -> int:
        """The exit code, when it has ended."""
        async with self._asking("waiting for a container") as docker:
            return int((await docker.containers.container(container).wait())["StatusCode"])

    async def put_file(self, container: str, directory: str, name: str, data: bytes, *, mode: int) -> None:
        """Write a file of root's into a container, started or not. The directory must exist."""
        async with self._asking("writing a file into a container") as docker:
            await docker.containers.container(container).put_archive(directory, _tar(name, data, mode))

    async def run(self, container: str, command: Sequence[str]) -> tuple[int, str]:
        """Run a short command in a running container: its exit code and what it printed."""
        async with self._asking("running a command in a container") as docker:
            run = await docker.containers.container(container).exec(list(command), stdout=True, stderr=True)
            said = []
            async with run.start(detach=False) as stream:
                while (message := await stream.read_out()) is not None:
                    said.append(message.data)
            return (await run.inspect())["ExitCode"], b"".join(said).decode(errors="replace").strip()

    async def log(self, container: str, lines: int) -> str:
        async with self._asking("reading a container's log") as docker:
            with _gone_is_fine():
                return "".join(await docker.containers.container(container).log(stdout=True, stderr=True, tail=lines))
            return ""

    # --- volumes ---

    async def volumes(self, labels: Sequence[str]) -> list[Description]:
        async with self._asking("listing volumes") as docker:
            return (await docker.volumes.list(filters={"label": list(labels)}))["Volumes"] or []

    async def volume(self, name: str) -> Description | None:
        async with self._asking("looking at a volume") as docker:
            try:
                return _described(await _volume(docker, name).show())
            except aiodocker.DockerError as error:
                if error.status == 404:
                    return None
                raise

    async def create_volume(self, name: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Make it if it is not there. Answers with the labels of the one that is there now, which tell whose it is."""
        async with self._asking("making a volume") as docker:
            made = await docker.volumes.create({"Name": checked_name(name), "Labels": dict(labels)})
            return (await made.show())["Labels"] or {}

    async def remove_volume(self, name: str) -> None:
        """CloudBusy while a container uses it."""
        async with self._asking("removing a volume") as docker:
            with _gone_is_fine():
                await _volume(docker, name).delete()

    # --- networks ---

    async def networks(self, labels: Sequence[str]) -> list[Description]:
        async with self._asking("listing networks") as docker:
            return await docker.networks.list(filters={"label": list(labels)} if labels else None) or []

    async def network(self, name: str) -> Description | None:
        async with self._asking("looking at a network") as docker:
            try:
                return _described(await _network(docker, name).show())
            except aiodocker.DockerError as error:
                if error.status == 404:
                    return None
                raise

    async def create_network(self, config: Mapping[str, Any]) -> bool:
        """False if its name or its range of addresses is in use."""
        async with self._asking("making a network") as docker:
            try:
                await docker.networks.create({"CheckDuplicate": True, **config})
            except aiodocker.DockerError as error:
                if error.status == 409 or "overlap" in error.message.lower():
                    return False
                raise
            return True

    async def connect(self, network: str, container: str, address: str) -> None:
        async with self._asking("connecting a container to its network") as docker:
            try:
                await _network(docker, network).connect(
                    {"Container": container, "EndpointConfig": {"IPAMConfig": {"IPv4Address": address}}},
                )
            except aiodocker.DockerError as error:
                # somebody else connected and started it just now
                if error.status != 403 or "already exists in network" not in error.message:
                    raise

    async def remove_network(self, network: str) -> bool:
        """False if something is still connected to it."""
        async with self._asking("removing a network") as docker:
            try:
                await _network(docker, network).delete()
            except aiodocker.DockerError as error:
                if error.status == 403:
                    return False
                if error.status != 404:
                    raise
            return True

    @asynccontextmanager
    async def _asking(self, what: str, seconds: float | None = None) -> AsyncIterator[Any]:
        if self._client is None:
            # made here because it needs a running loop
            self._client = aiodocker.Docker(self._socket)
        try:
            async with asyncio.timeout(seconds or self._seconds):
                yield self._client
        except aiodocker.DockerError as error:
            raise CloudBusy(f"Docker, {what}: {_short(error.message)}") from error
        except TimeoutError as error:
            raise CloudBusy(f"Docker, {what}: no answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise CloudBusy(f"Docker, {what}: the Docker Engine cannot be reached") from error


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """Swallow Docker's answer that the thing is not there."""
    try:
        yield
    except aiodocker.DockerError as error:
        if error.status != 404:
            raise


def _volume(docker: Any, name: str) -> Any:
    handle: Any = aiodocker.volumes.DockerVolume
    return handle(docker, checked_name(name))


def _network(docker: Any, name: str) -> Any:
    handle: Any = aiodocker.networks.DockerNetwork
    return handle(docker, checked_name(name))


def _json_filters(labels: Sequence[str]) -> str:
    return aiodocker.utils.clean_filters({"label": list(labels)})


def _described(answer: Any) -> Description:
    return answer  # type: ignore[no-any-return]


def _short(message: str) -> str:
    return message.strip().splitlines()[0][:300] if message.strip() else "no reason given"


def _tar(name: str, data: bytes, mode: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), mode
        archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()
