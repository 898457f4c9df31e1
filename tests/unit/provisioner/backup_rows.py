"""The rows of backups in memory, by the same rules as `coffer_provisioner.backup_records` has them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from coffer_provisioner.storage.interface import Container
from coffer_shared.errors import GiveUp
from unit.provisioner.backup_material import BACKUP

INSTANCE = "11111111-1111-4111-8111-111111111111"
KEY = b"\x11" * 32
CONTAINER = Container("p", "database_backups", ("first" * 8, "second" * 8))
_FORWARD = {"pending", "running", "waiting"}


class BackupRows:
    """One backup, made by the operation of `operation` (its state decides)."""

    def __init__(self, operation: dict[str, Any]) -> None:
        self.operation = operation
        self.closed = 0
        """How often the container was noted as closed."""
        self.clearing = 0
        """How many operations were filed that remove what is stored."""
        self.row: dict[str, Any] = {
            "id": BACKUP, "project_id": "p", "instance_id": INSTANCE, "state": "NEW", "storage": "swift",
            "container": "database_backups", "prefix": f"{INSTANCE}/{BACKUP}/", "grant_until": None, "data_key": None,
            "failure_text": None, "location": None, "manager": "postgresql", "version": "17",
            "backup_image": "coffer/postgres-backup:17", "backup_image_digest": "sha256:" + "b" * 64,
            "manifest_sha256": None,
        }

    async def backup(self, backup: str) -> dict[str, Any]:
        if self.row["state"] == "DELETED" or backup != self.row["id"]:
            raise GiveUp("backup_gone", "the backup is gone")
        return dict(self.row)

    async def set_state(self, backup: str, state: str) -> None:
        before = {"BUILDING": {"NEW"}, "SAVING": {"NEW", "BUILDING"}}.get(state)
        if self.row["state"] != "DELETED" and (before is None or self.row["state"] in before):
            self.row["state"] = str(state)

    async def fail(self, backup: str, text: str) -> None:
        if self.row["state"] not in {"FAILED", "DELETED"}:
            self.row |= {"state": "FAILED", "failure_text": text}
            self.clearing += self.row["grant_until"] is not None

    async def container(self, backup: dict[str, Any]) -> Container:
        return CONTAINER

    async def note_closed(self, backup: Any) -> None:
        self.closed += 1

    async def data_key(self, backup: dict[str, Any]) -> bytes:
        if self.row["data_key"] is None:
            self._unless_closed({"NEW", "BUILDING"})
            self.row["data_key"] = b"wrapped"
        return KEY

    async def note_grant(self, backup: str, until: float) -> None:
        self._unless_closed({"BUILDING"})
        end = datetime.fromtimestamp(until, UTC)
        self.row["grant_until"] = max(self.row["grant_until"] or end, end)

    async def complete(self, backup: str, found: Any, location: str) -> None:
        self._unless_closed({"SAVING", "COMPLETED"})
        self.row |= {
            "state": "COMPLETED", "location": location, "manifest_sha256": found.manifest_sha256,
            "raw_bytes": found.raw_bytes, "stored_bytes": found.stored_bytes, "segments": found.segments,
            "position": found.position, "tools": found.tools,
        }

    async def complete_snapshot(self, backup: str, snapshot: str, *, gib: int, used_bytes: int) -> None:
        self._unless_closed({"SAVING", "COMPLETED"})
        self.row |= {
            "state": "COMPLETED", "location": f"cinder://{snapshot}", "volume_gib": gib, "raw_bytes": used_bytes,
        }

    async def has_snapshots(self, instance: str) -> bool:
        return self.row["storage"] == "cinder" and self.row["state"] not in {"FAILED", "DELETED"}

    async def forget(self, backup: str) -> None:
        self.row |= {"state": "DELETED", "data_key": None}

    def _unless_closed(self, states: set[str]) -> None:
        if self.row["state"] not in states or self.operation["state"] not in _FORWARD:
            raise GiveUp("backup_closed", "nothing may be written to this backup any more")
