"""Machines as containers, and their data volumes. The recipe of the container is in docker_recipe.

A container in state "created" was never started: whoever finds one completes it (user data, network) and starts it, so
that a provisioner may die between any two calls.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coffer_provisioner.cloud import docker_recipe as recipe
from coffer_provisioner.cloud.docker_engine import Description, Engine
from coffer_provisioner.cloud.docker_labels import (
    GIB,
    HOLDS,
    INSTANCE,
    KIND,
    OPERATION,
    PROJECT,
    SEED,
    DockerSettings,
    Kind,
    Marks,
    labels_of,
)
from coffer_provisioner.cloud.docker_networks import TenantNetworks, read_network
from coffer_provisioner.cloud.docker_reservations import Reservations
from coffer_provisioner.cloud.interface import (
    CloudBusy,
    CloudRefused,
    Machine,
    MachineSpec,
    MachineState,
    Size,
    Tags,
    Volume,
)

_STATES = {
    "created": MachineState.BUILDING,
    "running": MachineState.ACTIVE,
    "paused": MachineState.STOPPED,
    "restarting": MachineState.STOPPED,
    "removing": MachineState.STOPPED,
    "exited": MachineState.STOPPED,
    "dead": MachineState.ERROR,
}
_LOOPS = Path("/sys/block")
_SETTLED_SECONDS = 2.0


class Machines:
    def __init__(
        self,
        engine: Engine,
        marks: Marks,
        reservations: Reservations,
        networks: TenantNetworks,
        settings: DockerSettings,
    ) -> None:
        self._engine = engine
        self._marks = marks
        self._reservations = reservations
        self._networks = networks
        self._settings = settings

    async def ensure(self, spec: MachineSpec) -> Machine:
        found = await self._find(spec.tags.instance)
        if found is None:
            await self._make(spec)
            found = await self._engine.new_container(self._marks.filters(Kind.MACHINE, instance=spec.tags.instance))
        await self._bring_up(found["Id"], spec.tags, spec)
        machine = await self.find(spec.tags.instance)
        if machine is None:
            raise CloudBusy("the machine was removed while it was being started")
        return machine

    async def find(self, instance: str) -> Machine | None:
        found = await self._find(instance)
        return None if found is None else _summary(found)

    async def existing(self, instance: str) -> Machine:
        found = await self.find(instance)
        if found is None:
            raise _no_machine()
        return found

    async def all(self) -> dict[str, Machine]:
        found = await self._engine.containers(self._marks.filters(Kind.MACHINE))
        return {labels_of(container).get(INSTANCE, ""): _summary(container) for container in found}

    async def restart(self, instance: str) -> None:
        """In two calls, so that one that was cut short between them is completed by the next."""
        found = await self._find(instance)
        if found is None:
            raise _no_machine()
        await self._stop(found["Id"])
        await self._bring_up(found["Id"], _tags(found), None)

    async def resize(self, instance: str, size: Size) -> Machine:
        """While it runs. Docker keeps the limits with the container, so they outlive its restarts and the host's."""
        machine = await self.existing(instance)
        described = await self._engine.container(machine.id)
        if described is None:
            raise CloudBusy("the machine is being removed")
        limits = recipe.limits(size)
        if any(described["HostConfig"].get(name) != value for name, value in limits.items()):
            await self._engine.limit(machine.id, limits)
        return machine

    async def rebuild(self, spec: MachineSpec) -> Machine:
        """A machine of another operation goes, with what was its own: its engine's volume and its agent's. These tell
        by their labels whether they are a former machine's, also where the container is gone already."""
        tags = spec.tags
        for container in await self._engine.containers(self._marks.filters(Kind.MACHINE, instance=tags.instance)):
            if labels_of(container).get(OPERATION) != tags.operation:
                await self._stop(container["Id"])
                await self._engine.remove_container(container["Id"])
        for kind in (Kind.ENGINE, Kind.STATE):
            for volume in await self._engine.volumes(self._marks.filters(kind, instance=tags.instance)):
                if labels_of(volume).get(OPERATION) != tags.operation:
                    await self._engine.remove_volume(volume["Name"])
        return await self.ensure(spec)

    async def drop(self, instance: str) -> None:
        for kind in (Kind.MACHINE, Kind.HELPER):
            for container in await self._engine.containers(self._marks.filters(kind, instance=instance)):
                await self._stop(container["Id"])
                await self._engine.remove_container(container["Id"])
        for kind in (Kind.ENGINE, Kind.STATE):
            for volume in await self._engine.volumes(self._marks.filters(kind, instance=instance)):
                await self._engine.remove_volume(volume["Name"])
        await self._drop_device(instance)

    async def console(self, instance: str, lines: int) -> str:
        found = await self._find(instance)
        return "" if found is None else await self._engine.log(found["Id"], lines)

    # --- the data volume ---

    async def ensure_volume(self, tags: Tags, gib: int) -> Volume:
        found = await self._volume(tags.instance)
        if found is not None:
            return found
        name = self._marks.own(tags.instance, "data")
        labels = await self._engine.create_volume(name, self._marks.labels(tags, Kind.VOLUME, gib=str(gib)))
        if labels.get(INSTANCE) != tags.instance or GIB not in labels:
            raise CloudRefused("name_taken", f"the volume {name} is not Coffer's: remove or rename it")
        return Volume(name, int(labels[GIB]), ready=True)

    async def grow_volume(self, instance: str, gib: int) -> Volume:
        """A volume's labels cannot be changed, so an empty volume beside it tells the new size.

        That comes first: whatever is cut short after it is completed by the next call, or the machine's next start."""
        volume = await self._existing_volume(instance)
        if gib < volume.gib:
            raise CloudRefused("cannot_shrink", f"the volume has {volume.gib} GiB and cannot shrink")
        described = await self._engine.volume(volume.id)
        if described is None:
            raise CloudBusy("the volume was removed")
        tags, grown = _tags(described), Volume(volume.id, gib, ready=True)
        if gib > volume.gib:
            await self._engine.create_volume(
                self._marks.own(instance, f"gib-{gib}"), self._marks.labels(tags, Kind.VOLUME_SIZE, gib=str(gib)),
            )
        minor = await self._device(tags, grown)
        machine = await self._find(instance)
        if machine is not None and machine["State"] == "running":
            await self._tell_device(machine["Id"], minor)
        return grown

    async def mark_volume(self, tags: Tags) -> None:
        await self._engine.create_volume(
            self._marks.own(tags.instance, "held"), self._marks.labels(tags, Kind.VOLUME_HELD),
        )

    async def volume_is_marked(self, instance: str) -> bool:
        return bool(await self._engine.volumes(self._marks.filters(Kind.VOLUME_HELD, instance=instance)))

    async def drop_volume(self, instance: str) -> None:
        """The mark goes last: a volume that is still there is still marked."""
        for kind in (Kind.VOLUME, Kind.VOLUME_SIZE, Kind.VOLUME_HELD):
            for volume in await self._engine.volumes(self._marks.filters(kind, instance=instance)):
                await self._engine.remove_volume(volume["Name"])

    async def _volume(self, instance: str) -> Volume | None:
        found = await self._engine.volumes(self._marks.filters(instance=instance))
        data = [v for v in found if labels_of(v)[KIND] == Kind.VOLUME.value]
        grown = [v for v in found if labels_of(v)[KIND] == Kind.VOLUME_SIZE.value]
        if not data:
            return None
        return Volume(data[0]["Name"], max(int(labels_of(v)[GIB]) for v in (*data, *grown)), ready=True)

    async def _existing_volume(self, instance: str) -> Volume:
        volume = await self._volume(instance)
        if volume is None:
            raise CloudRefused("no_volume", "the instance has no volume")
        return volume

    async def _tell_device(self, machine: str, minor: str) -> None:
        """Let the loop device notice that its file has grown. One that is not attached yet will see it then."""
        code, attached = await self._engine.run(machine, ["coffer-volume", "status", recipe.DATA_FILE, minor])
        if code == 0 and attached:
            code, said = await self._engine.run(machine, ["coffer-volume", "grow", recipe.DATA_FILE, minor])
            if code != 0:
                raise CloudBusy(f"the loop device {minor} does not grow: {said[-300:]}")

    # --- the loop device ---

    async def _minor(self, tags: Tags) -> str:
        in_use = await asyncio.to_thread(_loops_in_use)
        claim = await self._reservations.take(
            tags, Kind.LOOP, self._minors(in_use), owner=tags.instance,
            none_left=CloudRefused("no_loop_device", "all loop devices for machines are taken (setting loop_minors)"),
        )
        return claim[HOLDS]

    def _minors(self, in_use: set[int]) -> Iterator[str]:
        first, last = self._settings.loop_minors
        return (str(minor) for minor in range(first, last + 1) if minor not in in_use)

    async def _device(self, tags: Tags, volume: Volume) -> str:
        """Make the file, of at least this size, and the loop device, which does not outlive a restart of the host."""
        minor, labels = await self._minor(tags), self._marks.labels(tags, Kind.HELPER)
        code, said = await self._help(tags, recipe.volume_helper(
            self._settings, labels=labels, volume=volume.id, loop_minor=minor, gib=volume.gib,
        ))
        if code != 0:
            raise CloudBusy(f"the volume cannot be made ready: {said}")
        return minor

    async def _drop_device(self, instance: str) -> None:
        claim = await self._reservations.claim(Kind.LOOP, instance)
        if claim is not None:
            tags = Tags(instance, claim[OPERATION], claim[PROJECT])
            labels = self._marks.labels(tags, Kind.HELPER)
            # a device that stays does no harm, so it is no reason to keep the rest
            with suppress(CloudRefused):
                await self._help(tags, recipe.loop_helper(self._settings, labels=labels, loop_minor=claim[HOLDS]))
        await self._reservations.release(Kind.LOOP, instance)

    async def _help(self, tags: Tags, config: Mapping[str, Any]) -> tuple[int, str]:
        """Run a helper container to its end: its exit code, and what it said if that is not 0."""
        name = self._marks.own(tags.instance, f"helper-{uuid.uuid4().hex[:8]}")
        await self._engine.create_container(name, config)
        try:
            await self._engine.start(name)
            code = await self._engine.wait(name)
            return code, "" if code == 0 else (await self._engine.log(name, 5)).strip()
        finally:
            await self._engine.remove_container(name)

    # --- making one ---

    async def _make(self, spec: MachineSpec) -> None:
        tags, instance = spec.tags, spec.tags.instance
        volume = await self._existing_volume(instance)
        network, _ = await self._networks.network_of(tags)
        management = await self._engine.network(self._settings.management_network)
        if management is None:
            raise CloudBusy(f"there is no Docker network {self._settings.management_network}")
        minor = await self._minor(tags)
        state = self._marks.own(instance, "agent")
        await self._engine.create_volume(state, self._marks.labels(tags, Kind.STATE))
        seed = await self._engine_volume(tags)
        config = recipe.machine(
            self._settings, spec,
            labels=self._marks.labels(tags, Kind.MACHINE),
            volumes={
                "/var/lib/docker": self._marks.own(instance, "docker"),
                "/volume": volume.id,
                "/var/lib/coffer": state,
            },
            gib=volume.gib, seed=seed, loop_minor=minor, network=network,
            management_subnet=str(read_network(management).subnet),
        )
        # another provisioner may be first; then its container is the one
        await self._engine.create_container(self._marks.own(instance), config)

    async def _engine_volume(self, tags: Tags) -> str | None:
        """Make the volume for the machine's own engine. It has links into the seed that it was made with: its name."""
        name, wanted = self._marks.own(tags.instance, "docker"), self._settings.seed_volume
        if wanted is not None and await self._engine.volume(wanted) is None:
            wanted = None
        for _ in range(2):
            labels = await self._engine.create_volume(name, self._marks.labels(tags, Kind.ENGINE, seed=wanted or ""))
            seed = labels.get(SEED, "")
            if not seed or await self._engine.volume(seed) is not None:
                return seed or None
            # it belonged to a container that is no more, and holds nothing that cannot be pulled again
            await self._engine.remove_volume(name)
        raise CloudBusy("the machine's volume for its engine cannot be made")

    async def _bring_up(self, container: str, tags: Tags, spec: MachineSpec | None) -> None:
        described = await self._engine.container(container)
        status = described["State"]["Status"] if described else "removing"
        if described is None or status == "removing":
            raise CloudBusy("the machine is being removed")
        if status == "paused":
            await self._engine.unpause(container)
        elif status in {"created", "exited"}:
            network, address = await self._networks.network_of(tags)
            if spec is None and status == "created":
                raise CloudBusy("the machine is still being made")
            if spec is not None:
                # also into one that has run: the caller's new credential has made its old one worthless
                await self._engine.put_file(
                    container, recipe.USER_DATA_DIRECTORY, recipe.USER_DATA_NAME, spec.user_data, mode=0o600,
                )
            connected = described["NetworkSettings"]["Networks"].get(network.name)
            if connected is None or connected["NetworkID"] not in {"", network.id}:
                await self._engine.connect(network.id, container, address)
            await self._device(tags, await self._existing_volume(tags.instance))
            await self._engine.start(container)

    async def _stop(self, container: str) -> None:
        """A first process that has only just begun ignores the signal, and then all of the stop time would pass."""
        described = await self._engine.container(container)
        if described is not None and described["State"]["Running"]:
            age = datetime.now(UTC) - datetime.fromisoformat(described["State"]["StartedAt"][:19] + "+00:00")
            await asyncio.sleep(max(0.0, _SETTLED_SECONDS - age.total_seconds()))
            await self._engine.stop(container, self._settings.stop_seconds)

    async def _find(self, instance: str) -> Description | None:
        found = await self._engine.containers(self._marks.filters(Kind.MACHINE, instance=instance))
        return found[0] if found else None


def _summary(container: Description) -> Machine:
    """From the short description in a list, whose Status reads like `Exited (137) 3 minutes ago`."""
    state = _STATES.get(container["State"], MachineState.ERROR)
    fault = "" if state in {MachineState.ACTIVE, MachineState.BUILDING} else container.get("Status", container["State"])
    return Machine(container["Id"], state, fault)


def _no_machine() -> CloudRefused:
    return CloudRefused("no_machine", "the instance has no machine")


def _tags(container: Mapping[str, object]) -> Tags:
    labels = labels_of(container)
    return Tags(labels[INSTANCE], labels[OPERATION], labels[PROJECT])


def _loops_in_use() -> set[int]:
    """Devices that somebody else on this host uses, as far as it can be seen from here."""
    found = _LOOPS.glob("loop*/loop/backing_file")
    return {int(n) for path in found if (n := path.parts[-3].removeprefix("loop")).isdigit()}
