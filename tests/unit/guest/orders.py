"""Arguments of commands, for the datastore that lives in memory."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from coffer_shared import backups
from coffer_shared.backups import BackedUp, Grant

NAME = "memory"
UUID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


def prepare_args(**changes: Any) -> dict[str, Any]:
    return {
        "datastore": NAME,
        "version": "1",
        "image": "registry/memory@sha256:0",
        "port": 5432,
        "listen": ["10.1.0.5"],
        "memory_bytes": 1 << 30,
        "vcpus": 1.0,
        "fs_uuid": UUID,
        "format": True,
        "volume_bytes": 1 << 30,
        "allowed_cidrs": [],
        **changes,
    }


BACKUP = "6f1c2d0e-64a0-4be3-8f0e-0c8f1d7f4a11"
BACKED_UP = BackedUp("ab" * 32, 3_000_000, 1_000_000, 1, {"end_lsn": "0/3000000"}, {"memory_basebackup": "1"})


def grant(left: float = 30.0, *, method: str = "PUT", port: int = 8080, now: float | None = None) -> Grant:
    at = time.time() if now is None else now
    return Grant("swift", f"http://swift.coffer:{port}/v1/AUTH_x/c/i/b/", "temp_url_sig=s3cr3t", method, at + left)


def backup_args(**changes: Any) -> dict[str, Any]:
    order = backups.BackUp(BACKUP, "registry/memory-backup@sha256:0", "0d" * 32, grant())
    return {**msgspec.to_builtins(order), **changes}


def restore_args(**changes: Any) -> dict[str, Any]:
    order = backups.RestoreFrom(
        BACKUP, "registry/memory-backup@sha256:0", "0d" * 32, grant(3600, method="GET"), "ab" * 32
    )
    return prepare_args(restore=msgspec.to_builtins(order), **changes)
