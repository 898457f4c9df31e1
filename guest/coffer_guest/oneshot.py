"""Containers that run once, for one operation: a backup or a restore. They end by themselves and outlive the agent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiodocker
from aiodocker.exceptions import DockerError

from coffer_guest.container import MIB, ROLE, Container, bind, hardened
from coffer_guest.firewall import STORAGE_GID
from coffer_shared.backups import JOB_DIRECTORY
from coffer_shared.datastore import ContainerSpec
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

OPERATION = "coffer.operation"
STOP_SECONDS = 5
_MEMORY = 256 * MIB


class OneShot(Container):
    """GiveUp where Docker refuses; DockerError and OSError where it does not answer."""

    def __init__(self, docker: aiodocker.Docker, role: str, operation: str) -> None:
        super().__init__(docker, f"{role}-{operation}")
        self.role = role
        self.operation = operation

    async def make(self, spec: ContainerSpec, job: Path) -> None:
        """Not started yet. There must be none of its name."""
        config = configuration(spec, role=self.role, operation=self.operation, job=job)
        try:
            await self._docker.containers.create(config, name=self._name)
        except DockerError as error:
            raise GiveUp(Failure.ENGINE, f"making the {self.role} container: {error.message}") from error


def configuration(spec: ContainerSpec, *, role: str, operation: str, job: Path) -> dict[str, Any]:
    """The group is the one that the firewall lets to the object store. Nothing of it is logged: its words are files in
    the job directory. It yields to the engine in time and in memory, and dies before it."""
    config = hardened(spec, gid=STORAGE_GID, memory_bytes=_MEMORY)
    config["Labels"] = {ROLE: role, OPERATION: operation}
    host = config["HostConfig"]
    host["Mounts"] += [
        bind(str(job), str(JOB_DIRECTORY), read_only=True),
        bind(str(job / "out"), str(JOB_DIRECTORY / "out"), read_only=False),
    ]
    host |= {
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "none"},
        "CpuShares": 256,
        "PidsLimit": 64,
        "OomScoreAdj": 500,
    }
    return config
