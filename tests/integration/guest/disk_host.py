"""A machine on this host whose volume is a file with a real XFS in it. Needs root, for the mounts are this host's."""

from __future__ import annotations

import secrets
import shutil
import subprocess
from pathlib import Path

from coffer_guest.containers import Containers
from coffer_guest.options import Options
from coffer_guest.volume import Volume
from integration.guest.host import SOCKET, Host

ROOT = Path(__file__).resolve().parents[3]
IMAGE = "coffer/machine"
GIB = 1 << 30
# The host need not have XFS's programs: those of the machine's image see its loop devices and its mount.
INSIDE = (
    "exec docker run --rm --network none --cap-drop ALL --cap-add SYS_ADMIN --device-cgroup-rule 'b 7:* rwm' "
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined -v /dev:/dev"
)
PROGRAMS = {
    "mkfs.xfs": f'{INSIDE} --entrypoint mkfs.xfs {IMAGE} "$@"',
    "xfs_growfs": f'{INSIDE} -v "$1:$1" --entrypoint xfs_growfs {IMAGE} "$1"',
}


def sh(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class DiskHost(Host):
    """Its volume is a file, attached as a loop device, as in a machine container."""

    volume = Volume

    def __init__(self, datastore: str = "postgresql") -> None:
        super().__init__(datastore)
        self.minor = str(20_000 + secrets.randbelow(10_000))
        self.disk = self.directory / "disk.img"
        self.data = self.directory / "data"
        sh("coffer-loop", "add", self.minor)

    @property
    def options(self) -> Options:
        at = str(self.directory)
        return Options(
            state_dir=f"{at}/state",
            data_dir=str(self.data),
            jobs_dir=f"{at}/run/jobs",
            docker_socket=SOCKET,
            volume_file=str(self.disk),
            loop_minor=int(self.minor),
        )

    async def mount(self) -> Volume:
        made = Volume(self.options)
        await made.ensure_mounted(self.fs_uuid, may_format=True)
        return made

    def detach(self) -> None:
        """The machine is switched off."""
        subprocess.run(["fsfreeze", "-u", str(self.data)], capture_output=True, check=False)
        if self.data.is_mount():
            sh("umount", str(self.data))
        if self.disk.exists():
            sh("coffer-volume", "detach", str(self.disk), self.minor)

    async def switch_off(self) -> None:
        containers = Containers(SOCKET, name=self.container)
        await containers.remove()
        await containers.close()
        self.detach()

    async def remove(self) -> None:
        """When no agent lives there any more."""
        await self.switch_off()
        sh("coffer-loop", "remove", self.minor)
        shutil.rmtree(self.directory)
