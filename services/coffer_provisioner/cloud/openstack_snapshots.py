"""Snapshots of data volumes in Cinder, one for each backup.

As with volumes, two provisioners may both make one, and both keep the same one of them: the oldest, whatever its state,
since of one that somebody has seen to be ready nobody may think later that it is the one to go.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

from coffer_provisioner.cloud.interface import CloudBusy, Snapshot, Tags
from coffer_provisioner.cloud.openstack_calls import Calls, Service, error_of
from coffer_provisioner.cloud.openstack_labels import BACKUP, Marks, OpenStackSettings, Thing, ranked, snapshot_name
from coffer_provisioner.cloud.openstack_volumes import Volumes, fault_of

_BEING_DELETED = "the snapshot is being deleted"


class Snapshots:
    def __init__(self, calls: Calls, marks: Marks, volumes: Volumes, settings: OpenStackSettings) -> None:
        self._calls = calls
        self._marks = marks
        self._volumes = volumes
        self._settings = settings

    async def ensure(self, tags: Tags, backup: str) -> Snapshot:
        found = await self._of(backup)
        if not found:
            made = await self._make(tags, backup)
            await asyncio.sleep(self._settings.settle_seconds)
            listed = await self._of(backup)
            found = ranked({one["id"]: one for one in (made, *listed)}.values())
        clean = True
        for superfluous in found[1:]:
            clean = await self._delete(superfluous) and clean
        snapshot = await self._summary(found[0])
        return snapshot if clean else replace(snapshot, ready=False)

    async def find(self, backup: str) -> Snapshot | None:
        found = await self._of(backup)
        return await self._summary(found[0]) if found else None

    async def drop(self, backup: str) -> None:
        """Returns when it is gone."""
        until = time.monotonic() + self._settings.wait_seconds
        while found := await self._of(backup):
            for snapshot in found:
                await self.drop_one(snapshot["id"])
            if time.monotonic() > until:
                raise CloudBusy(_BEING_DELETED)
            await asyncio.sleep(self._settings.poll_seconds)

    async def all(self) -> list[Thing]:
        return self._marks.mine(await self._calls.listing(
            "listing all snapshots", Service.VOLUMES, "/snapshots/detail", "snapshots",
            {"metadata": self._marks.snapshot_filter()},
        ))

    async def drop_one(self, identity: str) -> None:
        until = time.monotonic() + self._settings.wait_seconds
        asked = False
        while (snapshot := await self._look(identity)) is not None and self._marks.of(snapshot) is not None:
            if snapshot["status"] == "deleting":
                if time.monotonic() > until:
                    raise CloudBusy(_BEING_DELETED)
                await asyncio.sleep(self._settings.poll_seconds)
            elif asked:
                # the storage has refused what Cinder had accepted, as Ceph does while a clone depends on it
                fault = await fault_of(self._calls, snapshot)
                raise CloudBusy(fault or "the block storage keeps the snapshot: there is a volume that was made of it")
            elif await self._delete(snapshot):
                asked = True
            else:
                raise CloudBusy(f"the snapshot is {snapshot['status']} and cannot be deleted yet")

    async def _of(self, backup: str) -> list[Thing]:
        """The one that counts first; more than one only for a moment."""
        listed = await self._calls.listing(
            "listing a backup's snapshots", Service.VOLUMES, "/snapshots/detail", "snapshots",
            {"metadata": self._marks.snapshot_filter(backup)},
        )
        return ranked(one for one in self._marks.mine(listed) if one["metadata"].get(BACKUP) == backup)

    async def _look(self, identity: str) -> Thing | None:
        return await self._calls.find("looking at a snapshot", Service.VOLUMES, f"/snapshots/{identity}", "snapshot")

    async def _make(self, tags: Tags, backup: str) -> Thing:
        volume = await self._volumes.needed(tags.instance)
        what = "making a snapshot"
        answer = await self._calls.ask(
            what, Service.VOLUMES, "POST", "/snapshots", expected=(400,), body={"snapshot": {
                "volume_id": volume["id"],
                "name": snapshot_name(backup),
                "force": True,  # though a machine uses it
                "metadata": self._marks.snapshot_metadata(tags, backup),
            }},
        )
        if answer.status < 300:
            return answer.one("snapshot")
        if "invalid volume" in answer.text.lower() and not volume["status"].startswith("error"):
            raise CloudBusy(f"no snapshot can be made of the volume as it is: {answer.text}")
        raise error_of(what, answer)

    async def _delete(self, snapshot: Thing) -> bool:
        """Whether Cinder begins with it; one that is being made or read it will not delete yet."""
        path = f"/snapshots/{snapshot['id']}"
        if snapshot["status"] == "error_deleting":
            answer = await self._calls.ask(
                "deleting a snapshot", Service.VOLUMES, "POST", f"{path}/action", body={"os-force_delete": {}},
                expected=(400, 404),
            )
        else:
            answer = await self._calls.ask(
                "deleting a snapshot", Service.VOLUMES, "DELETE", path, expected=(400, 404),
            )
        if answer.status != 400:
            return True
        now = await self._look(snapshot["id"])
        return now is None or now["status"] == "deleting"

    async def _summary(self, snapshot: Thing) -> Snapshot:
        fault = await fault_of(self._calls, snapshot)
        return Snapshot(snapshot["id"], int(snapshot["size"]), ready=snapshot["status"] == "available", fault=fault)
