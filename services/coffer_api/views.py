"""Rows as the JSON that clients expect: which keys there are, and which are left out when there is nothing to say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec

from coffer_api.call import Call
from coffer_api.instance_rows import facts, volume_bytes
from coffer_api.status import at_rest, shown
from coffer_db.backup_tables import BackupState
from coffer_db.operation_views import OperationView
from coffer_shared.parameters import MAX_NAME

GIB = 1024**3
EMPTY = "[]"
_MOST_NAMES = 500
"""Of what a guest says of itself."""
_decode = msgspec.json.Decoder().decode


class Links:
    """The links of one reply; their beginnings are put together once."""

    __slots__ = ("_bookmark", "_self")

    def __init__(self, call: Call) -> None:
        self._bookmark = call.base() + "/"
        self._self = f"{self._bookmark}v1.0/{call.project}/"

    def to(self, collection: str, item: str) -> list[dict[str, str]]:
        path = f"{collection}/{item}"
        return [{"rel": "self", "href": self._self + path}, {"rel": "bookmark", "href": self._bookmark + path}]


def time(moment: datetime | None) -> str | None:
    """To the second, in UTC, without an offset: clients parse nothing else."""
    return None if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")


def instance(call: Call, links: Links, row: asyncpg.Record) -> dict[str, Any]:
    """The item of a list."""
    seen = shown(facts(row), call.api.settings.heartbeat_expiry)
    found: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "status": seen.status,
        "operating_status": seen.operating,
        "links": links.to("instances", row["id"]),
        "flavor": {"id": row["flavor_id"], "links": links.to("flavors", row["flavor_id"])},
        "datastore": {"type": row["datastore"], "version": row["version"]},
        "region": row["region"],
        "access": _access(row),
        "volume": {"size": row["volume_gib"]},
        "tenant_id": row["project_id"],
    }
    if row["addresses"] != EMPTY and row["task"] != "create_instance":
        addresses = _decode(row["addresses"])
        found["ip"] = [address["address"] for address in addresses]
        found["addresses"] = addresses
    return found


def instance_detail(call: Call, links: Links, row: asyncpg.Record) -> dict[str, Any]:
    found = instance(call, links, row)
    found["datastore"]["version_number"] = row["number"]
    found["created"] = time(row["created_at"])
    found["updated"] = time(row["updated_at"])
    found["service_status_updated"] = time(row["received_at"] or row["updated_at"])
    if row["configuration_id"]:
        found["configuration"] = {
            "id": row["configuration_id"], "name": row["configuration"],
            "links": links.to("configurations", row["configuration_id"]),
        }
    if row["restart_required"]:
        found["restart_required"] = [name[:MAX_NAME] for name in _decode(row["waiting"])[:_MOST_NAMES]]
    if row["locality"]:
        found["locality"] = row["locality"]
    if row["failed"] and at_rest(facts(row)):
        found["fault"] = {
            "message": row["fault_message"] or "The last operation failed.",
            "created": time(row["fault_at"] or row["updated_at"]),
            "details": row["fault_details"] if call.identity.admin else None,
        }
    if call.identity.admin:
        found |= {
            "server_id": row["server_id"], "volume_id": row["volume_id"], "encrypted_rpc_messaging": True,
        }
    return found


def with_volume_use(found: dict[str, Any], row: asyncpg.Record) -> dict[str, Any]:
    """What the agent last said of the data volume."""
    used, total = volume_bytes(row)
    if used:
        found["volume"]["used"] = round(used / GIB, 2)
        if total:
            found["volume"]["used_percent"] = round(100 * used / total, 2)
    return found


def flavor(links: Links, row: Mapping[str, Any] | asyncpg.Record) -> dict[str, Any]:
    number, vcpus = row["id"], row["vcpus"]
    return {
        "id": int(number) if number.isascii() and number.isdigit() else None,
        "str_id": number,
        "name": row["name"],
        "ram": row["ram_mb"],
        "vcpus": int(vcpus) if vcpus == int(vcpus) else vcpus,
        "disk": row["disk_gib"],
        "ephemeral": row["ephemeral_gib"],
        "links": links.to("flavors", number),
    }


def backup(row: asyncpg.Record) -> dict[str, Any]:
    """One that is being deleted looks as it did before: clients have no word for that and wait for it to be gone."""
    state = row["state"]
    if state == BackupState.DELETING:
        state = BackupState.FAILED if row["raw_bytes"] is None else BackupState.COMPLETED
    found: dict[str, Any] = {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "locationRef": row["location"],
        "instance_id": row["instance_id"],
        "created": time(row["created_at"]),
        "updated": time(row["updated_at"]),
        "size": _gib(row["raw_bytes"]),
        "status": str(state),
        "parent_id": row["parent_id"],
        "project_id": row["project_id"],
        "datastore": {"type": row["datastore"], "version": row["version"], "version_id": row["version_id"]},
        "stored_size": _gib(row["stored_bytes"]),
        "storage": row["storage"],
        "container": row["container"],
        "operation_id": row["operation_id"],
    }
    if state == BackupState.FAILED:
        found["fault"] = {
            "message": row["failure_text"] or "The backup failed.", "created": time(row["updated_at"]), "details": None,
        }
    return found


def operation(links: Links, op: OperationView) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": op.id,
        "instance_id": op.instance_id,
        "kind": op.kind,
        "state": op.state.value,
        "step": op.step,
        "progress": op.progress,
        "progress_text": op.progress_text,
        "attempts": op.attempts,
        "cancel_requested": op.cancel_requested,
        "user_id": op.user_id,
        "request_id": op.request_id,
        "created": time(op.created_at),
        "updated": time(op.updated_at),
        "deadline": time(op.deadline),
        "links": links.to("operations", op.id),
    }
    if op.finished_at is not None:
        found["finished"] = time(op.finished_at)
    if op.failure_code is not None:
        found["failure"] = {"code": op.failure_code, "message": op.failure_text, "step": op.failure_step}
    return found


def _gib(size: int | None) -> float | None:
    return None if size is None else round(size / GIB, 3)


def _access(row: asyncpg.Record) -> dict[str, Any]:
    found: dict[str, Any] = {"is_public": row["is_public"]}
    if row["allowed_cidrs"] != EMPTY:
        found["allowed_cidrs"] = _decode(row["allowed_cidrs"])
    return found
