"""A machine on this host for a real engine in a real Docker; its volume is a directory, and it has no firewall."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import coffer_datastores
from coffer_guest.clock import Clock
from coffer_guest.commands import COMMANDS
from coffer_guest.containers import Containers
from coffer_guest.firewall import Firewall, Rules
from coffer_guest.journal import Journal
from coffer_guest.machine import Machine
from coffer_guest.options import Options
from coffer_guest.state import State
from coffer_guest.store import Store
from coffer_guest.volume import Volume
from coffer_guest.work import Work
from coffer_shared.backups import Grant
from coffer_shared.messages import Accepted, Finished, Start, decode_event
from support.engines import CLIENTS, Tenant

SOCKET = "/var/run/docker.sock"
LISTEN = "127.0.0.6"
PASSWORD = "s3cret word"
USERS = [{"name": "ann", "password": PASSWORD, "databases": ["shop"]}]


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout


async def nothing_is_copied(operation: str) -> bool:
    del operation
    return False


class NoVolume(Volume):
    async def ensure_mounted(self, fs_uuid: str, *, may_format: bool) -> None:
        Path(self._mount).mkdir(exist_ok=True)


class NoFirewall(Firewall):
    async def apply(self, rules: Rules) -> None:
        pass


class Host:
    """One machine, and the life of its agent that is now."""

    volume: type[Volume] = NoVolume

    def __init__(self, datastore: str = "postgresql") -> None:
        self.spec = coffer_datastores.specs()[datastore]
        self.client = CLIENTS[datastore]
        self.directory = Path(tempfile.mkdtemp(prefix="coffer-"))
        self.directory.chmod(0o755)
        self.container = f"coffer-test-{secrets.token_hex(4)}"
        self.fs_uuid = str(uuid.uuid4())
        with socket.socket() as listener:
            listener.bind((LISTEN, 0))
            self.port = listener.getsockname()[1]

    @property
    def options(self) -> Options:
        at = str(self.directory)
        return Options(
            state_dir=f"{at}/state", data_dir=f"{at}/data", jobs_dir=f"{at}/run/jobs", docker_socket=SOCKET
        )

    async def live(
        self,
        renew: Callable[[str], Awaitable[Grant]],
        is_copied: Callable[[str], Awaitable[bool]] = nothing_is_copied,
    ) -> None:
        options = self.options
        self.store = await Store.open(options.database)
        containers = Containers(SOCKET, name=self.container)
        self.machine = Machine(options, State(self.store), containers, self.volume(options), NoFirewall())
        await self.machine.volume.thaw()
        await self.machine.load(str(uuid.uuid4()))
        self.work = Work(Journal(self.store), self.machine, Clock(), COMMANDS, lambda: None, renew, is_copied)
        await self.work.load()
        await self.machine.boot()
        await self.work.resume()

    async def die(self) -> None:
        """With the agent; what it started goes on."""
        await self.work.close()
        await self.machine.close()
        await self.store.close()

    async def remove(self) -> None:
        """When no agent lives there any more."""
        docker = Containers(SOCKET, name=self.container)
        for operation in await self.machine.jobs.operations():
            for role in ("backup", "restore"):
                await docker.one_shot(role, operation).remove()
        await docker.remove()
        await docker.close()
        shutil.rmtree(self.directory)

    def order(self, **more: Any) -> dict[str, Any]:
        return {
            "datastore": self.spec.name,
            "version": self.spec.default_version,
            "image": f"{self.spec.image}:{self.spec.default_version}",
            "port": self.port,
            "listen": [LISTEN],
            "memory_bytes": 512 << 20,
            "vcpus": 1,
            "fs_uuid": self.fs_uuid,
            "format": True,
            "volume_bytes": 1 << 30,
            "allowed_cidrs": [],
            **more,
        }

    async def start(self, kind: str, args: dict[str, Any]) -> str:
        op = str(uuid.uuid4())
        assert await self.work.start(Start(op=op, kind=kind, args=args, deadline=time.time() + 100), 1) == Accepted()
        return op

    async def run(self, kind: str, args: dict[str, Any]) -> Finished:
        return await self.ending(await self.start(kind, args))

    async def ending(self, op: str) -> Finished:
        async with asyncio.timeout(100):
            while op in self.work.running:
                await asyncio.sleep(0.02)
        rows = await self.store.read(lambda db: db.execute("SELECT body FROM event WHERE op = ?", (op,)).fetchall())
        (found,) = (event for event in (decode_event(row[0]) for row in rows) if isinstance(event, Finished))
        return found

    @property
    def backup_image(self) -> str:
        return f"{self.spec.backup_image}:{self.spec.default_version}"

    def tenant(self) -> AbstractAsyncContextManager[Tenant]:
        return self.client.connect(LISTEN, self.port, "ann", PASSWORD, "shop")

    async def value(self, statement: str) -> Any:
        async with self.tenant() as tenant:
            return await tenant.fetchval(statement)

    async def is_clean(self) -> None:
        """No trace of a backup or a restore."""
        containers = docker("ps", "-a", "--format", "{{.Names}}").split()
        for op in await self.operations():
            assert f"backup-{op}" not in containers
            assert f"restore-{op}" not in containers
        jobs = self.directory / "run/jobs"
        assert not jobs.exists() or list(jobs.iterdir()) == []
        assert not (self.directory / "data/restoring").exists()

    async def operations(self) -> list[str]:
        return [row[0] for row in await self.store.read(lambda db: db.execute("SELECT op FROM command").fetchall())]

    async def held(self) -> list[Any]:
        """What the engine holds for a backup."""
        return await self.client.held(self.machine)
