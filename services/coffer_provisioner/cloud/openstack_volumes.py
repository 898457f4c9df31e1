"""Data volumes in Cinder.

Cinder knows no name that it would give only once, so two provisioners may both make a volume: whoever has made one
waits until the other's must be listed too, and both keep the same one of them.
"""

from __future__ import annotations

import asyncio
import time

from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, Tags, Volume
from coffer_provisioner.cloud.openstack_calls import Answer, Calls, Service, error_of
from coffer_provisioner.cloud.openstack_labels import HELD, Marks, OpenStackSettings, Thing, port_name, ranked, word

READY = {"available", "in-use", "reserved", "attaching", "detaching"}
_USED = {"in-use", "reserved", "attaching", "detaching"}


class Volumes:
    def __init__(self, calls: Calls, marks: Marks, settings: OpenStackSettings) -> None:
        self._calls = calls
        self._marks = marks
        self._settings = settings

    async def ensure(
        self, tags: Tags, gib: int, volume_type: str | None, zone: str | None, snapshot: str | None = None,
    ) -> Volume:
        found = await self.of(tags.instance)
        if not found:
            made = await self._make(tags, gib, volume_type, zone, snapshot)
            await asyncio.sleep(self._settings.settle_seconds)
            listed = await self.of(tags.instance)
            found = self._ranked({one["id"]: one for one in (made, *listed)}.values())
        clean = True
        for superfluous in found[1:]:
            clean = await self._delete(superfluous["id"]) and clean
        volume = await self._summary(found[0])
        return volume if clean else Volume(volume.id, volume.gib, ready=False, fault=volume.fault)

    async def of(self, instance: str) -> list[Thing]:
        """The one that counts first; more than one only for a moment."""
        return self._ranked(self._marks.mine(await self._calls.listing(
            "listing an instance's volumes", Service.VOLUMES, "/volumes/detail", "volumes",
            {"metadata": self._marks.volume_filter(instance)},
        ), instance))

    async def mark(self, tags: Tags) -> None:
        volume = await self.needed(tags.instance)
        await self._calls.ask(
            "marking a volume", Service.VOLUMES, "POST", f"/volumes/{volume['id']}/metadata",
            body={"metadata": {HELD: "true"}},
        )

    async def needed(self, instance: str) -> Thing:
        found = await self.of(instance)
        if not found:
            raise CloudRefused("no_volume", "the instance has no volume")
        return found[0]

    async def is_marked(self, instance: str) -> bool:
        return any(held(volume) for volume in await self.of(instance))

    async def grow(self, instance: str, gib: int) -> Volume:
        volume = await self.needed(instance)
        if gib < volume["size"]:
            raise CloudRefused("cannot_shrink", f"the volume has {volume['size']} GiB and cannot shrink")
        if gib == volume["size"] or volume["status"] not in {"available", "in-use"}:
            return await self._grown(volume, gib)
        what = "growing a volume"
        answer = await self._calls.ask(
            what, Service.VOLUMES, "POST", f"/volumes/{volume['id']}/action",
            body={"os-extend": {"new_size": gib}}, expected=(400, 409),
        )
        if answer.status >= 300:
            now = await self.needed(instance)
            if now["size"] == volume["size"] and now["status"] == volume["status"]:
                raise error_of(what, answer)
        return await self._grown(await self.needed(instance), gib)

    async def drop(self, instance: str) -> None:
        """Returns when it is gone."""
        for volume in await self.of(instance):
            await self._drop(volume)
        until = time.monotonic() + self._settings.wait_seconds
        while await self.of(instance):
            if time.monotonic() > until:
                raise CloudBusy("the volume is being deleted")
            await asyncio.sleep(self._settings.poll_seconds)

    async def all(self) -> list[Thing]:
        return self._marks.mine(await self._calls.listing(
            "listing all volumes", Service.VOLUMES, "/volumes/detail", "volumes",
            {"metadata": self._marks.volume_filter()},
        ))

    async def drop_one(self, identity: str) -> None:
        until = time.monotonic() + self._settings.wait_seconds
        asked = False
        while (volume := await self._look(identity)) is not None and self._marks.of(volume) is not None:
            if not asked:
                await self._drop(volume)
                asked = True
            elif time.monotonic() > until:
                raise CloudBusy("the volume is being deleted")
            else:
                await asyncio.sleep(self._settings.poll_seconds)

    async def _drop(self, volume: Thing) -> None:
        if volume["status"] in _USED or volume.get("attachments"):
            raise CloudBusy("the volume is in use by a machine")
        if not await self._delete(volume["id"], force=volume["status"] == "error_deleting"):
            if await self._has_snapshots(volume["id"]):
                raise CloudBusy("there are snapshots of the volume: it stays until they are gone")
            raise CloudBusy(f"the volume is {volume['status']} and cannot be deleted yet")

    async def _look(self, identity: str) -> Thing | None:
        return await self._calls.find("looking at a volume", Service.VOLUMES, f"/volumes/{identity}", "volume")

    async def _has_snapshots(self, identity: str) -> bool:
        """Whoever made them."""
        return bool(await self._calls.listing(
            "listing a volume's snapshots", Service.VOLUMES, "/snapshots", "snapshots", {"volume_id": identity},
        ))

    async def _check_source(self, snapshot: str, gib: int) -> None:
        """The service user may use every project's snapshots, so a volume is made only of one that is marked."""
        try:
            path = f"/snapshots/{word(snapshot)}"
        except ValueError:
            raise _no_snapshot(snapshot) from None
        found = await self._calls.find("looking at a snapshot", Service.VOLUMES, path, "snapshot")
        if found is None or self._marks.of(found) is None:
            raise _no_snapshot(snapshot)
        if found["status"] == "creating":
            raise CloudBusy("the snapshot is being made")
        if found["size"] > gib:
            raise CloudRefused("too_small", f"the snapshot is of {found['size']} GiB: no volume of it can be smaller")

    async def _make(
        self, tags: Tags, gib: int, volume_type: str | None, zone: str | None, snapshot: str | None,
    ) -> Thing:
        if snapshot is not None:
            await self._check_source(snapshot, gib)
        wanted = {
            "name": port_name(tags.instance),
            "size": gib,
            "metadata": self._marks.metadata(tags),
            **({"volume_type": volume_type} if volume_type else {}),
            **({"availability_zone": zone} if zone else {}),
            **({"snapshot_id": snapshot} if snapshot else {}),
        }
        what = "making a volume"
        answer = await self._calls.ask(
            what, Service.VOLUMES, "POST", "/volumes", body={"volume": wanted}, expected=(400, 404),
        )
        if answer.status >= 300:
            raise refusal(what, answer, volume_type, snapshot)
        return answer.one("volume")

    async def _delete(self, identity: str, *, force: bool = False) -> bool:
        """Whether Cinder begins with it; one that is being made it will not delete yet."""
        if force:
            answer = await self._calls.ask(
                "deleting a volume", Service.VOLUMES, "POST", f"/volumes/{identity}/action",
                body={"os-force_delete": {}}, expected=(400, 404),
            )
        else:
            answer = await self._calls.ask(
                "deleting a volume", Service.VOLUMES, "DELETE", f"/volumes/{identity}", expected=(400, 404),
            )
        if answer.status != 400:
            return True
        now = await self._look(identity)
        return now is None or now["status"] == "deleting"

    async def _grown(self, volume: Thing, gib: int) -> Volume:
        """Not ready before it has the size, whatever else Cinder says of it."""
        found = await self._summary(volume)
        return found if found.gib >= gib else Volume(found.id, found.gib, ready=False, fault=found.fault)

    async def _summary(self, volume: Thing) -> Volume:
        fault = await fault_of(self._calls, volume)
        return Volume(volume["id"], int(volume["size"]), ready=volume["status"] in READY, fault=fault)

    def _ranked(self, volumes: object) -> list[Thing]:
        """What a machine uses or has used is never the superfluous one."""
        found: list[Thing] = list(volumes)  # type: ignore[call-overload]
        return ranked(found, lambda one: one["status"] in _USED, held)


def held(volume: Thing) -> bool:
    return (volume.get("metadata") or {}).get(HELD) == "true"


async def fault_of(calls: Calls, thing: Thing) -> str:
    """What Cinder says is wrong with a volume or a snapshot; empty if nothing is."""
    if not thing["status"].startswith("error"):
        return ""
    told = await calls.ask(
        "asking what failed", Service.VOLUMES, "GET", "/messages", query={"resource_uuid": thing["id"]},
        expected=(400, 403, 404),
    )
    texts = [one["user_message"] for one in told.body.get("messages", ()) if one.get("user_message")]
    return f"the block storage reports {thing['status']}" + (f": {texts[0][:200]}" if texts else "")


def _no_snapshot(snapshot: str, why: str = "it is not there") -> CloudRefused:
    return CloudRefused("no_snapshot", f"no volume can be made of the snapshot {snapshot[:64]}: {why}")


def refusal(what: str, answer: Answer, volume_type: str | None, snapshot: str | None) -> Exception:
    text = answer.text.lower()
    if "availability zone" in text or "availability_zone" in text:
        return CloudRefused("no_zone", f"the block storage cannot do so in that availability zone: {answer.text}")
    if snapshot and "compatible" in text:
        return CloudRefused("no_volume_type", f"the volume type does not fit the snapshot's: {answer.text}")
    if snapshot and "snapshot" in text:
        return _no_snapshot(snapshot, answer.text)
    if volume_type and "type" in text:
        return CloudRefused("no_volume_type", f"there is no volume type {volume_type[:64]}")
    return CloudRefused("cloud_refused", str(error_of(what, answer)))
