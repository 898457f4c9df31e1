"""A running database of each datastore, started by the guest's own machinery in a container on this host."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import aiodocker
import pytest

import coffer_datastores
from coffer_guest import oneshot, still
from coffer_guest.containers import Containers
from coffer_guest.firewall import STORAGE_GID, Firewall, Rules
from coffer_guest.machine import Machine, make_data_directory
from coffer_guest.options import Options
from coffer_guest.programs import run
from coffer_guest.state import Prepared, State
from coffer_guest.store import Store
from coffer_guest.volume import Volume
from coffer_shared.commands import Prepare
from coffer_shared.datastore import ContainerSpec, Datastore, Driver, Order, Session
from support.engines import CLIENTS, Client

LISTEN = "127.0.0.5"
DOCKER_SOCKET = "/var/run/docker.sock"
Run: TypeAlias = Callable[..., Any]


class NoVolume(Volume):
    async def ensure_mounted(self, fs_uuid: str, *, may_format: bool) -> None:
        pass


class NoFirewall(Firewall):
    async def apply(self, rules: Rules) -> None:
        pass


@dataclass
class Running:
    """A database, and a tenant's way to it."""

    spec: Datastore
    driver: Any
    order: Order
    container: str
    """Its name."""

    @property
    def backup_image(self) -> str:
        return f"{self.spec.backup_image}:{self.spec.default_version}"

    def session(self, database: str | None = None) -> AbstractAsyncContextManager[Session]:
        driver: Driver = self.driver
        return driver.session(self.order, database=database)

    async def copy_still(self, source: str, target: str) -> None:
        """As the agent does it, on a file system of any sort."""
        Path(target).parent.mkdir(exist_ok=True)
        held, copied = ("docker", "pause", self.container), ("cp", "--archive", source, target)
        for words in (held, copied, ("docker", "unpause", self.container)):
            assert (await run(*words)).code == 0, words

    async def discard(self, directory: str) -> None:
        await still.discard(directory)

    @property
    def client(self) -> Client:
        return CLIENTS[self.spec.name]

    def tenant(self, user: str, password: str, database: str) -> AbstractAsyncContextManager[Any]:
        """Over TCP, as anybody would."""
        return self.client.connect(LISTEN, self.order.port, user, password, database)


@asynccontextmanager
async def machine_with(name: str, directory: Path, *, container: str, port: int) -> AsyncIterator[Machine]:
    spec = coffer_datastores.specs()[name]
    options = Options(state_dir=str(directory / "state"), data_dir=str(directory / "data"), docker_socket=DOCKER_SOCKET)
    store = await Store.open(options.database)
    machine = Machine(options, State(store), Containers(DOCKER_SOCKET, name=container), NoVolume(options), NoFirewall())
    await machine.load(str(uuid.uuid4()))
    await machine.record(
        Prepared(
            Prepare(
                datastore=name,
                version=spec.default_version,
                image=f"{spec.image}:{spec.default_version}",
                port=port,
                listen=[LISTEN],
                memory_bytes=512 << 20,
                vcpus=1,
                fs_uuid=str(uuid.uuid4()),
                format=False,
                volume_bytes=1 << 30,
                allowed_cidrs=[],
            )
        )
    )
    try:
        yield machine
    finally:
        await machine.close()
        await store.close()


async def start(name: str, directory: Path, container: str, port: int) -> Running:
    """A new database, or the one that is in the directory already."""
    async with machine_with(name, directory, container=container, port=port) as machine:
        make_data_directory(machine.order, machine.spec)
        async with asyncio.timeout(60):
            await machine.start_engine(ignore)
            await machine.wait_healthy()
        async with machine.session() as session:
            await machine.driver.after_first_start(session)
        return Running(coffer_datastores.specs()[name], machine.driver, machine.order, container)


@contextmanager
def another() -> Iterator[tuple[Path, str, int]]:
    """Place for a database: a directory, a container's name, a port."""
    directory = Path(tempfile.mkdtemp(prefix="coffer-"))
    container = f"coffer-test-{secrets.token_hex(4)}"
    with socket.socket() as listener:
        listener.bind((LISTEN, 0))
        port = listener.getsockname()[1]
    directory.chmod(0o755)
    try:
        yield directory, container, port
    finally:
        asyncio.run(remove(container))
        shutil.rmtree(directory, ignore_errors=True)


async def ignore(percent: int, text: str) -> None:
    pass


async def remove(container: str) -> None:
    containers = Containers(DOCKER_SOCKET, name=container)
    try:
        await containers.remove()
    finally:
        await containers.close()


@pytest.fixture(scope="session")
def running() -> Iterator[Callable[[str], Running]]:
    """One of each datastore, from when it is first asked for."""
    with ExitStack() as places:

        @cache
        def of(name: str) -> Running:
            return asyncio.run(start(name, *places.enter_context(another())))

        yield of


@pytest.fixture(scope="session", params=sorted(coffer_datastores.specs()))
def database(request: pytest.FixtureRequest, running: Callable[[str], Running]) -> Running:
    """Of every datastore: what each of them must do."""
    return running(request.param)


@pytest.fixture
def postgres(running: Callable[[str], Running]) -> Running:
    return running("postgresql")


@pytest.fixture
def mariadb(running: Callable[[str], Running]) -> Running:
    return running("mariadb")


@pytest.fixture
def mysql(running: Callable[[str], Running]) -> Running:
    return running("mysql")


@pytest.fixture
def elsewhere(database: Running) -> Iterator[tuple[Path, str, int]]:
    """Place for another database of that sort."""
    with another() as place:
        yield place


@pytest.fixture
async def in_container(tmp_path: Path) -> AsyncIterator[Run]:
    """Runs a shell line in a one-shot container; gives its exit code. `out` in it is `tmp_path / "out"` here."""
    docker = aiodocker.Docker(url="unix:///var/run/docker.sock")
    made: list[Any] = []

    async def run(spec: ContainerSpec, line: str) -> tuple[int, str]:
        tmp_path.chmod(0o711)
        (tmp_path / "out").mkdir(exist_ok=True)
        os.chown(tmp_path / "out", spec.uid, STORAGE_GID)
        config = oneshot.configuration(spec, role="backup", operation=secrets.token_hex(4), job=tmp_path)
        config |= {"Entrypoint": ["sh", "-c", f"exec 2>/job/out/words; {line}"], "Labels": {}}
        container = await docker.containers.create(config, name=f"coffer-test-{secrets.token_hex(4)}")
        made.append(container)
        await container.start()
        code = (await container.wait(timeout=60))["StatusCode"]
        return code, (tmp_path / "out" / "words").read_text()

    yield run
    for container in made:
        await container.delete(force=True, v=True)
    await docker.close()


@pytest.fixture
def word() -> str:
    """A name that no other test uses."""
    return f"t{secrets.token_hex(4)}"
