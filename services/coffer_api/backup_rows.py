"""The one statement behind every view of a backup, and the pages of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from coffer_api.call import Call
from coffer_api.instance_rows import UUID
from coffer_api.problems import Problem, bad_request, not_found

_MARKER = re.compile(r"[0-9]{1,18}", re.ASCII)
_SELECT = """
    SELECT b.id, b.project_id, b.instance_id, b.operation_id, b.name, b.description, b.parent_id, b.state, b.storage,
           b.container, b.location, b.raw_bytes, b.stored_bytes, b.volume_gib, b.fs_uuid, b.failure_text, b.created_at,
           b.updated_at,
           d.name AS datastore, v.name AS version, v.id AS version_id, v.version AS number
    FROM backups b
    JOIN datastore_versions v ON v.id = b.datastore_version_id
    JOIN datastores d ON d.id = v.datastore_id
    WHERE b.deleted_at IS NULL
"""
_ORDER = " ORDER BY {0}.updated_at DESC, {0}.id DESC"
_ONE = _SELECT + "AND b.id = $1"
_OF_OPERATION = _SELECT + "AND b.instance_id = $1 AND b.operation_id = $2"


@dataclass(slots=True)
class Page:
    """A statement as it is put together: its conditions, their values, and what must exist for it to have an answer."""

    values: list[Any] = field(default_factory=list)
    where: str = ""
    anchor: str = ""

    def put(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"

    def of_project(self, project: str) -> None:
        self.where += f" AND b.project_id = {self.put(project)}"

    def of_instance(self, instance: str) -> None:
        self.where += f" AND b.instance_id = {self.put(instance)}"

    def of_datastore(self, datastore: str) -> None:
        """By name or id. The page is None if there is no such datastore."""
        given = self.put(datastore)
        self.where += f" AND {given} IN (d.name, d.id)"
        self.anchor = f"SELECT FROM datastores WHERE {given} IN (name, id)"

    def of_live_instance(self, instance: str, project: str | None) -> None:
        """As `of_instance`. The page is None if there is no such instance, or not in this project."""
        given = self.put(instance)
        self.where += f" AND b.instance_id = {given}"
        self.anchor = f"SELECT FROM instances WHERE id = {given} AND deleted_at IS NULL"
        if project is not None:
            self.anchor += f" AND project_id = {self.put(project)}"

    async def read(self, call: Call, limit: int, offset: int) -> list[asyncpg.Record] | None:
        """Those that changed last first; one more than `limit` if there are more."""
        page = _SELECT + self.where + _ORDER.format("b")
        page += f" LIMIT {self.put(limit + 1)} OFFSET {self.put(offset)}"
        if not self.anchor:
            return await call.api.reads.fetch(page, *self.values)
        anchored = f"SELECT p.* FROM ({self.anchor}) AS a LEFT JOIN ({page}) AS p ON true"  # noqa: S608 - fixed parts
        rows = await call.api.reads.fetch(anchored + _ORDER.format("p"), *self.values)
        return [row for row in rows if row["id"] is not None] if rows else None


async def load(call: Call, backup: str) -> asyncpg.Record:
    """One that this caller may see. An id of any other form is simply not found."""
    row = await call.api.reads.one(_ONE, backup.lower()) if UUID.fullmatch(backup) else None
    if row is None or (row["project_id"] != call.project and not call.identity.admin):
        raise missing(backup)
    return row


async def made_by(call: Call, instance: str, operation: str) -> asyncpg.Record:
    row = await call.api.reads.one(_OF_OPERATION, instance, operation)
    if row is None:
        raise not_found(f"The backup that operation {operation} made cannot be found.")
    return row


def missing(backup: str) -> Problem:
    return not_found(f"Backup {backup[:255]} cannot be found.")


def offset(call: Call) -> int:
    """The marker of a page of backups: how many come before it."""
    text = call.marker()
    if text is None:
        return 0
    if not _MARKER.fullmatch(text):
        raise bad_request("Validation error: marker must be an integer of at least 0.")
    return int(text)
