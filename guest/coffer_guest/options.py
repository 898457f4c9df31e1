"""The agent's settings, from its environment (COFFER_<FIELD>)."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Options(msgspec.Struct, frozen=True, kw_only=True):
    state_dir: str = "/var/lib/coffer"
    user_data: str = "/etc/coffer/user-data.json"
    docker_socket: str = "/run/docker.sock"
    jobs_dir: str = "/run/coffer/jobs"
    """Where backups and restores are told what to do, keys included: never on a disk."""
    data_dir: str = "/data"
    """Where the data volume is mounted."""
    volume_file: str = "/volume/disk.img"
    """The data volume as a file, attached as the loop device of `loop_minor`."""
    loop_minor: int | None = None
    data_volume: str = ""
    """The block storage's id of the data volume, where there is no `loop_minor`: its disk is found by it."""
    tenant_gateway: str = ""
    """The tenant network's gateway, where the cloud knows it and the routes do not tell."""
    gateway_forwards: bool = True
    """The host behind that gateway passes on connections of those who are allowed, and of nobody else."""
    leases: bool = False
    """The machine leases its addresses from the networks by itself."""
    resolver: str = "127.0.0.11"
    """Whom the machine asks for names: Docker's DNS in a container."""
    management_macs: list[str] = []
    ssh_cidrs: list[str] = []
    """Who may reach port 22 at the ports of `management_macs`."""
    cloud_init: bool = False
    """cloud-init brought the user data, and has copies of it."""
    registry_username: str = ""
    registry_password: str = ""
    heartbeat_seconds: float = 10.0
    health_seconds: float = 3.0
    sync_seconds: float = 300.0
    log_level: str = "info"

    @property
    def database(self) -> Path:
        """The agent's own database file."""
        return Path(self.state_dir) / "agent.db"

    @property
    def engine_data(self) -> str:
        """On the volume, never the mount point itself: where nothing is mounted it does not exist, and the container
        then does not start rather than start on an empty directory."""
        return f"{self.data_dir}/engine"

    @property
    def restoring(self) -> str:
        """Beside the engine's data, so that it can take that place by being renamed."""
        return f"{self.data_dir}/restoring"

    @property
    def former(self) -> str:
        """The engine's data as they were before an upgrade, beside them for the same reason."""
        return f"{self.data_dir}/former"

    @property
    def engine_config(self) -> str:
        return f"{self.state_dir}/engine/config"

    @property
    def engine_run(self) -> str:
        return f"{self.state_dir}/engine/run"
