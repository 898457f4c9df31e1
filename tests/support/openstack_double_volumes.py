"""Cinder of the double: volumes and snapshots, and what may be done with them while others depend on them."""

from __future__ import annotations

import ast
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from support.openstack_double_network import Refusal, matching

Thing = dict[str, Any]
_DELETABLE = {"available", "error", "error_restoring", "error_extending", "error_managing"}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def found(things: Mapping[str, Thing], identity: str) -> Thing:
    if identity not in things:
        raise Refusal(404, f"{identity} could not be found.")
    return things[identity]


def paged(key: str, request: web.Request, things: list[Thing], page: int) -> Thing:
    after = [one["id"] for one in things].index(request.query["marker"]) + 1 if "marker" in request.query else 0
    shown = things[after : after + page]
    if after + page >= len(things):
        return {key: shown}
    href = f"http://inside.example:8774/v2.1/{key}?limit=3&marker={shown[-1]['id']}"
    return {key: shown, f"{key}_links": [{"rel": "next", "href": href}]}


@dataclass
class BlockStorage:
    """`later` does something when the real one would have come to it."""

    later: Callable[[Callable[[], object]], object]
    volumes: dict[str, Thing] = field(default_factory=dict)
    snapshots: dict[str, Thing] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    """By volume or snapshot: what a user is told of it."""
    keeps_copied_from: bool = False
    """As Ceph, which deletes no snapshot while a volume that was made of it is there."""
    quota: dict[str, int] = field(default_factory=dict)
    """How many snapshots there may be."""

    def answer(self, request: web.Request, parts: tuple[str, ...], body: Thing, page: int) -> Thing | None:
        if parts[0] == "messages":
            text = self.messages.get(request.query["resource_uuid"])
            return {"messages": [{"user_message": text}] if text else []}
        if parts[0] == "snapshots":
            return self._snapshots(request, parts[1:], body, page)
        match (request.method, *parts):
            case "GET", "volumes", "detail":
                return paged("volumes", request, _marked(self.volumes, request), page)
            case "POST", "volumes":
                return {"volume": self._make_volume(body["volume"])}
            case "GET", "volumes", identity:
                return {"volume": found(self.volumes, identity)}
            case "DELETE", "volumes", identity:
                self._delete_volume(found(self.volumes, identity))
                return None
            case "POST", "volumes", identity, "metadata":
                volume = found(self.volumes, identity)
                volume["metadata"] |= body["metadata"]
                return {"metadata": volume["metadata"]}
            case "POST", "volumes", identity, "action" if "os-extend" in body:
                self._extend(found(self.volumes, identity), int(body["os-extend"]["new_size"]), request)
                return None
        raise Refusal(404, f"no {parts}")

    def _snapshots(self, request: web.Request, parts: tuple[str, ...], body: Thing, page: int) -> Thing | None:
        match (request.method, *parts):
            case ("GET",):
                return paged("snapshots", request, matching(self.snapshots.values(), request.query), page)
            case "GET", "detail":
                return paged("snapshots", request, _marked(self.snapshots, request), page)
            case ("POST",):
                return {"snapshot": self._make_snapshot(body["snapshot"])}
            case "GET", identity:
                return {"snapshot": found(self.snapshots, identity)}
            case "DELETE", identity:
                snapshot = found(self.snapshots, identity)
                if snapshot["status"] not in {"available", "error"}:
                    raise Refusal(400, (
                        "Invalid snapshot: Snapshot status must be available or error and must not be part of a group."
                    ))
                self._delete_snapshot(snapshot)
                return None
            case "POST", identity, "action" if "os-force_delete" in body:
                self._delete_snapshot(found(self.snapshots, identity))
                return None
        raise Refusal(404, f"no {parts}")

    def _make_volume(self, wanted: Thing) -> Thing:
        if wanted.get("volume_type") not in {None, "rbd"}:
            raise Refusal(404, f"Volume type with name {wanted['volume_type']} could not be found.")
        if "snapshot_id" in wanted:
            source = self.snapshots.get(wanted["snapshot_id"])
            if source is None:
                raise Refusal(404, f"Snapshot {wanted['snapshot_id']} could not be found.")
            if source["status"] != "available":
                raise Refusal(400, "Invalid snapshot: Originating snapshot status must be one of 'available' values")
            if wanted["size"] < source["size"]:
                raise Refusal(400, (
                    f"Invalid input received: Volume size '{wanted['size']}'GB cannot be smaller than the snapshot"
                    f" size {source['size']}GB. They must be >= original snapshot size."
                ))
        volume = {
            "id": str(uuid.uuid4()), "status": "creating", "created_at": now(), "attachments": [], **wanted,
        }
        self.volumes[volume["id"]] = volume
        self.later(lambda: volume.update(status="available"))
        return dict(volume)

    def _delete_volume(self, volume: Thing) -> None:
        depending = any(one["volume_id"] == volume["id"] for one in self.snapshots.values())
        if volume["status"] not in _DELETABLE or depending:
            raise Refusal(400, (
                "Invalid volume: Volume status must be available or error or error_restoring or error_extending or"
                " error_managing and must not be migrating, attached, belong to a group, have snapshots, awaiting a"
                " transfer, or be disassociated from snapshots after volume transfer."
            ))
        volume["status"] = "deleting"
        self.later(lambda: self.volumes.pop(volume["id"], None))

    def _extend(self, volume: Thing, size: int, request: web.Request) -> None:
        before = volume["status"]
        if before not in {"available", "in-use"} or "3.42" not in request.headers.get("OpenStack-API-Version", ""):
            raise Refusal(400, "Invalid volume: Volume status must be available to extend")
        if size <= volume["size"]:
            raise Refusal(400, "Invalid input: New size for extend must be greater than current size.")
        volume["status"] = "extending"
        self.later(lambda: volume.update(size=size, status=before))

    def _make_snapshot(self, wanted: Thing) -> Thing:
        volume = found(self.volumes, wanted["volume_id"])
        if volume["status"] not in ({"available", "in-use"} if wanted.pop("force", False) else {"available"}):
            raise Refusal(400, (
                f"Invalid volume: Volume {volume['id']} status must be available, in-use, but current status is:"
                f" {volume['status']}."
            ))
        allowed = self.quota.get("snapshots", 10**6)
        if len(self.snapshots) >= allowed:
            raise Refusal(413, f"SnapshotLimitExceeded: Maximum number of snapshots allowed ({allowed}) exceeded")
        snapshot = {
            "id": str(uuid.uuid4()), "status": "creating", "created_at": now(), "size": volume["size"], **wanted,
        }
        self.snapshots[snapshot["id"]] = snapshot
        self.later(lambda: snapshot.update(status="available"))
        return dict(snapshot)

    def _delete_snapshot(self, snapshot: Thing) -> None:
        snapshot["status"] = "deleting"

        def end() -> None:
            if self.keeps_copied_from and any(v.get("snapshot_id") == snapshot["id"] for v in self.volumes.values()):
                snapshot["status"] = "available"
            else:
                self.snapshots.pop(snapshot["id"], None)

        self.later(end)


def _marked(things: Mapping[str, Thing], request: web.Request) -> list[Thing]:
    """From some version of the API on, Cinder heeds the filter; before, it shows all."""
    heeded = "3.42" in request.headers.get("OpenStack-API-Version", "")
    wanted = ast.literal_eval(request.query.get("metadata", "{}")) if heeded else {}
    return [one for one in things.values() if wanted.items() <= one["metadata"].items()]
