"""Volumes and snapshots of the cloud in memory: the same rules as Cinder's."""

from __future__ import annotations

from dataclasses import replace

from coffer_provisioner.cloud.fake_world import FakeSnapshot, Stack, World
from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, Snapshot, Tags, Volume


def ensure(world: World, mine: Stack, tags: Tags, gib: int, snapshot: str | None) -> Volume:
    if tags.instance not in mine.volumes:
        if snapshot is not None:
            mine.made_of[tags.instance] = _source(mine, snapshot, gib).id
        mine.volumes[tags.instance] = (tags, Volume(world.new_id("volume"), gib, ready=True))
    return mine.volumes[tags.instance][1]


def grow(world: World, mine: Stack, instance: str, gib: int) -> Volume:
    tags, volume = _existing(mine, instance)
    wanted, looks = mine.growing.pop(instance, (volume.gib, 0))
    if looks > 1:
        mine.growing[instance] = (wanted, looks - 1)
        return replace(volume, ready=False)
    volume = replace(volume, gib=wanted)
    mine.volumes[instance] = (tags, volume)
    if gib < volume.gib:
        raise CloudRefused("cannot_shrink", f"the volume has {volume.gib} GiB and cannot shrink")
    if gib > volume.gib and world.looks_until_grown:
        mine.growing[instance] = (gib, world.looks_until_grown)
        return replace(volume, ready=False)
    grown = replace(volume, gib=gib)
    mine.volumes[instance] = (tags, grown)
    return grown


def drop(mine: Stack, instance: str) -> None:
    if instance in mine.volumes:
        if instance in mine.machines:
            raise CloudBusy("the volume is in use by a machine")
        _, volume = mine.volumes[instance]
        if any(snapshot.volume == volume.id for snapshot in mine.snapshots.values()):
            raise CloudBusy("there are snapshots of the volume: it stays until they are gone")
        del mine.volumes[instance]
    mine.growing.pop(instance, None)
    mine.marked.pop(instance, None)
    mine.made_of.pop(instance, None)


def ensure_snapshot(world: World, mine: Stack, tags: Tags, backup: str) -> Snapshot:
    if backup in mine.snapshots:
        return mine.snapshots[backup].look()
    _, volume = _existing(mine, tags.instance)
    looks = world.looks_until_copied
    made = Snapshot(world.new_id("snapshot"), volume.gib, ready=not looks)
    mine.snapshots[backup] = FakeSnapshot(tags, volume.id, made, looks)
    return made


def drop_snapshot(world: World, mine: Stack, backup: str) -> None:
    if backup not in mine.snapshots:
        return
    found = mine.snapshots[backup].look()
    if not found.ready:
        raise CloudBusy("the snapshot is being made")
    if world.keeps_copied_from and found.id in mine.made_of.values():
        raise CloudBusy("the cloud keeps the snapshot: there is a volume that was made of it")
    del mine.snapshots[backup]


def _existing(mine: Stack, instance: str) -> tuple[Tags, Volume]:
    if instance not in mine.volumes:
        raise CloudRefused("no_volume", "the instance has no volume")
    return mine.volumes[instance]


def _source(mine: Stack, snapshot: str, gib: int) -> Snapshot:
    """The snapshot of that id, if a volume of this size can be made of it."""
    found = next((one for one in mine.snapshots.values() if one.seen.id == snapshot), None)
    if found is None:
        raise CloudRefused("no_snapshot", f"there is no snapshot {snapshot[:64]}")
    if gib < found.seen.gib:
        raise CloudRefused("too_small", f"the snapshot is of {found.seen.gib} GiB: no volume of it can be smaller")
    if not found.look().ready:
        raise CloudBusy("the snapshot is being made")
    return found.seen
