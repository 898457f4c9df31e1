"""Renewing a storage grant for the guest whose command needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coffer_db.backup_tables import BackupState
from coffer_db.guest_events import TERMINAL
from coffer_db.tables import OperationState
from coffer_provisioner.backup_records import PostgresBackups
from coffer_provisioner.backup_store import read_grant, write_grant
from coffer_provisioner.storage.interface import Storage
from coffer_shared import log, subjects
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Denied, Failure, Granted

_log = log.get(__name__)

_FORWARD = frozenset({OperationState.PENDING, OperationState.RUNNING, OperationState.WAITING})


class BackupGrants:
    def __init__(self, backups: PostgresBackups, storages: Mapping[str, Storage]) -> None:
        self._backups = backups
        self._storages = storages

    async def renew(self, instance: str, operation: str) -> Granted | Denied:
        """Only for an operation of that instance that goes forward and whose command has not ended."""
        try:
            asking = await self._backups.asking(instance, subjects.instance_id(operation))
            if asking is None or not _goes_on(asking):
                return _forbidden(instance, operation, "no such operation goes on")
            if asking["kind"] == "create_backup":
                row = await self._backups.backup(asking["args"]["backup"])
                if row["operation_id"] == operation:
                    return Granted(grant=await write_grant(row, self._backups, self._storages))
            if asking["kind"] == "create_instance" and "restore" in asking["args"]:
                row = await self._backups.backup(asking["args"]["restore"])
                if row["state"] == BackupState.COMPLETED and row["project_id"] == asking["project_id"]:
                    return Granted(grant=await read_grant(row, self._backups, self._storages))
        except ValueError:
            return _forbidden(instance, "", "not an operation's id")
        except GiveUp as why:
            if why.code == Failure.STORAGE:
                return Denied(code=why.code, text=why.text)
            return _forbidden(instance, operation, why.text)
        return _forbidden(instance, operation, f"{asking['kind']} needs no grant")


def _goes_on(asking: Mapping[str, Any]) -> bool:
    return (
        asking["state"] in _FORWARD and not asking["cancel_requested"] and asking["guest_state"] not in TERMINAL
    )


def _forbidden(instance: str, operation: str, why: str) -> Denied:
    """Whoever asks learns nothing about operations that are not its own."""
    _log.warning("grant refused", instance=instance, operation=operation, why=why)
    return Denied(code=Failure.FORBIDDEN, text="no grant for this operation")
