"""Machines: Nova servers of the service project, made with their marks, ports and data volume in one request.

The data volume decides races: Nova reserves it before it answers, so of two servers that are to have it one is refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, Machine, MachineSpec
from coffer_provisioner.cloud.openstack_calls import Answer, Calls, Service, error_of
from coffer_provisioner.cloud.openstack_groups import Groups
from coffer_provisioner.cloud.openstack_labels import Kind, Marks, OpenStackSettings, Thing, ranked, server_name, word
from coffer_provisioner.cloud.openstack_ports import Ports, address_of
from coffer_provisioner.cloud.openstack_states import UNCONFIRMED, WAYS_UP, going, summary, task
from coffer_provisioner.cloud.openstack_templates import Templates
from coffer_provisioner.cloud.openstack_user_data import cloud_config, machine_file
from coffer_provisioner.cloud.openstack_volumes import READY, Volumes

_ACTIONS_THAT_START = {"start", "reboot", "unpause", "resume", "rebuild", "resize"}


class Machines:
    def __init__(
        self, calls: Calls, marks: Marks, ports: Ports, volumes: Volumes, groups: Groups, templates: Templates,
        settings: OpenStackSettings,
    ) -> None:
        self._calls = calls
        self._marks = marks
        self._ports = ports
        self._volumes = volumes
        self._groups = groups
        self._templates = templates
        self._settings = settings

    async def ensure(self, spec: MachineSpec) -> Machine:
        server = await self.of(spec.tags.instance)
        if server is None:
            return summary(await self._make(spec))
        await self._groups.tidy(spec)
        return await self._with_cause(await self._start(server) if task(server) == "" else server)

    async def find(self, instance: str) -> Machine | None:
        server = await self.of(instance)
        return None if server is None else await self._with_cause(server)

    async def all(self) -> dict[str, Machine]:
        found = ranked(await self.listed(), _usable)
        return {mark.instance: summary(s) for s in reversed(found) if (mark := self._marks.of(s)) is not None}

    async def restart(self, instance: str) -> None:
        """Killed after the stop, the next call starts it; killed after the start, it is restarted once more."""
        server = await self.needed(instance)
        if server["status"] == UNCONFIRMED:
            raise CloudBusy("the machine has a new size that is not confirmed yet")
        until = time.monotonic() + self._settings.wait_seconds
        if server["status"] == "ACTIVE" and task(server) == "":
            server = await self._stop(server)
        while server["status"] != "ACTIVE" or task(server):
            if server["status"] == "ERROR" and task(server) == "":
                await self.act(server, {"reboot": {"type": "HARD"}})
            elif task(server) == "":
                await self._start(server)
            if time.monotonic() > until:
                raise CloudBusy(f"the machine is being restarted: {server['status']} {task(server)}".rstrip())
            server = await self._after_a_moment(server["id"])

    async def drop(self, instance: str) -> None:
        """Returns when it is gone."""
        groups: set[str] = set()
        for server in self._marks.mine(await self._listed(instance), instance):
            shown = await self.look(server["id"])  # a listing does not tell the groups
            groups |= set((shown or {}).get("server_groups") or ())
            await self._drop(server)
        await self._ports.drop(instance, Kind.MANAGEMENT)
        await self._groups.drop_unused(instance, groups)

    async def drop_one(self, identity: str) -> None:
        server = await self.look(identity)
        if server is not None and self._marks.of(server) is not None:
            await self._drop(server)

    async def console(self, instance: str, lines: int) -> str:
        server = await self.of(instance)
        if server is None:
            return ""
        answer = await self._calls.ask(
            "reading a console", Service.COMPUTE, "POST", f"/servers/{server['id']}/action",
            body={"os-getConsoleOutput": {"length": lines}}, expected=(400, 404, 409, 501),
        )
        return str(answer.body.get("output") or "")

    # --- for what else is done with machines ---

    async def of(self, instance: str) -> Thing | None:
        """The instance's server. Others of it are deleted: they never had the volume."""
        found = ranked(self._marks.mine(await self._listed(instance), instance), _usable, _has_volume)
        for superfluous in found[1:]:
            if not going(superfluous) and not _has_volume(superfluous):
                await self._delete(superfluous["id"])
        return found[0] if found else None

    async def needed(self, instance: str) -> Thing:
        server = await self.of(instance)
        if server is None:
            raise CloudRefused("no_machine", "the instance has no machine")
        if going(server):
            raise CloudBusy("the machine is being removed")
        return server

    async def listed(self) -> list[Thing]:
        """Every server of this stack."""
        return self._marks.mine(await self._listed(None))

    async def look(self, identity: str) -> Thing | None:
        return await self._calls.find("looking at a machine", Service.COMPUTE, f"/servers/{identity}", "server")

    async def act(
        self, server: Thing, action: dict[str, Any], *, expected: tuple[int, ...] = (), version: str | None = None,
    ) -> Answer:
        """409, always expected: Nova is at something else just now."""
        name = next(iter(action))
        return await self._calls.ask(
            f"asking a machine for {name}", Service.COMPUTE, "POST", f"/servers/{server['id']}/action", body=action,
            expected=(409, *expected), version=version,
        )

    async def told(self, spec: MachineSpec) -> str:
        """User data, as Nova takes it, for the machine that has these ports and this volume."""
        port, volume = await self._ports.needed(spec.tags.instance), await self._volume(spec.tags.instance)
        return self._told(spec, port, await self._ports.ensure_management(spec.tags), volume)

    # --- making one ---

    async def _make(self, spec: MachineSpec) -> Thing:
        tags, chosen = spec.tags, self._settings
        volume = await self._volume(tags.instance)
        port = await self._ports.needed(tags.instance)
        if volume["status"] != "available":
            raise CloudBusy(f"the volume is {volume['status']}: perhaps the machine is being made by somebody else")
        management = await self._ports.ensure_management(tags)
        image, flavor = await self._templates.image(), await self._templates.flavor(spec.size.flavor)
        group = await self._groups.ensure(spec)
        zone = spec.availability_zone or chosen.availability_zone
        server = {
            "name": server_name(spec.name),
            "flavorRef": flavor["id"],
            "networks": [{"port": one["id"]} for one in (*management, port)],
            "block_device_mapping_v2": [_system_disk(chosen, image), {
                "boot_index": -1, "source_type": "volume", "destination_type": "volume", "uuid": volume["id"],
                "delete_on_termination": False,
            }],
            "metadata": self._marks.server_metadata(spec),
            "tags": self._marks.server_tags(spec),
            "user_data": self._told(spec, port, management, volume),
            "config_drive": chosen.config_drive,
            **({} if chosen.boot_volume_gib else {"imageRef": image}),
            **({"key_name": chosen.key_pair} if chosen.key_pair else {}),
            **({"availability_zone": zone} if zone else {}),
        }
        body: dict[str, Any] = {"server": server}
        if group is not None:
            body["os:scheduler_hints"] = {"group": group}
        what = "making a machine"
        answer = await self._calls.ask(
            what, Service.COMPUTE, "POST", "/servers", body=body, expected=(400, 403, 404, 409),
        )
        if answer.status >= 300:
            return await self._made_by_another(spec, what, answer)
        made = await self.look(answer.one("server")["id"])
        if made is None:
            raise CloudBusy("the machine is being made")
        return made

    async def _made_by_another(self, spec: MachineSpec, what: str, answer: Answer) -> Thing:
        """Or it is refused for good."""
        there = await self.of(spec.tags.instance)
        if there is not None:
            return there
        volume = await self._volume(spec.tags.instance)
        if answer.status != 403 and volume["status"] != "available":
            raise CloudBusy(f"the volume is {volume['status']}: perhaps the machine is being made by somebody else")
        raise refusal(what, answer)

    async def _volume(self, instance: str) -> Thing:
        found = await self._volumes.of(instance)
        if not found:
            raise CloudRefused("no_volume", "the instance has no volume")
        if found[0]["status"] not in READY:
            raise CloudBusy(f"the volume is {found[0]['status']}")
        return found[0]

    def _told(self, spec: MachineSpec, port: Thing, management: list[Thing], volume: Thing) -> str:
        machine = machine_file(
            self._settings, volume=volume["id"], mac=port["mac_address"], address=address_of(port),
            management_macs=[one["mac_address"] for one in management],
        )
        return cloud_config(spec.user_data, machine)

    # --- starting, stopping, deleting ---

    async def _start(self, server: Thing) -> Thing:
        """Ask for it if it is down; what comes of it the next look will tell."""
        action = WAYS_UP.get(server["status"])
        if server["status"] == "ACTIVE" and summary(server).fault and server.get("host_status") != "DOWN":
            action = "os-stop"  # Nova has not noticed yet that it went down by itself, and would not start it
        if action is None:
            return server
        await self.act(server, {action: None})
        return await self.look(server["id"]) or server

    async def _stop(self, server: Thing) -> Thing:
        """Its agent stops the database. One that does not go down is rebooted the hard way."""
        answer = await self.act(server, {"os-stop": None})
        if answer.status == 409:
            # somebody else restarts it, which is as good
            return await self._until(server["id"], lambda now: task(now) == "")
        now = await self._until(server["id"], lambda now: task(now) == "" or now["status"] != "ACTIVE")
        if now["status"] == "ACTIVE" and not await self._started_since(now):
            await self.act(now, {"reboot": {"type": "HARD"}})
            now = await self._after_a_moment(server["id"])
        return now

    async def _started_since(self, server: Thing) -> bool:
        """It runs after it was to be stopped: whether somebody else has started it, so that it has been down."""
        answer = await self._calls.ask(
            "asking what was done with a machine", Service.COMPUTE, "GET",
            f"/servers/{server['id']}/os-instance-actions",
        )
        return [one["action"] for one in answer.many("instanceActions")[:1]] != ["stop"]

    async def _until(self, identity: str, done: Callable[[Thing], bool]) -> Thing:
        """The server then, or after stop_seconds."""
        until = time.monotonic() + self._settings.stop_seconds
        while True:
            now = await self._after_a_moment(identity)
            if done(now) or time.monotonic() > until:
                return now

    async def _after_a_moment(self, identity: str) -> Thing:
        await asyncio.sleep(self._settings.poll_seconds)
        server = await self.look(identity)
        if server is None or going(server):
            raise CloudBusy("the machine is being removed")
        return server

    async def _drop(self, server: Thing) -> None:
        await self._delete(server["id"])
        until = time.monotonic() + self._settings.wait_seconds
        while (now := await self.look(server["id"])) is not None:
            if now["status"] == "SOFT_DELETED":
                await self.act(now, {"forceDelete": None}, expected=(404,))
            elif now["status"] == "ERROR" and task(now) == "":
                # a delete that failed
                await self._delete(server["id"])
            if time.monotonic() > until:
                raise CloudBusy("the machine is being deleted")
            await asyncio.sleep(self._settings.poll_seconds)

    async def _delete(self, identity: str) -> None:
        await self._calls.ask(
            "deleting a machine", Service.COMPUTE, "DELETE", f"/servers/{identity}", expected=(404, 409),
        )

    async def _with_cause(self, server: Thing) -> Machine:
        """Nova says that a machine failed a moment before it says why."""
        if server["status"] == "ERROR" and not server.get("fault"):
            await asyncio.sleep(self._settings.poll_seconds)
            server = await self.look(server["id"]) or server
        return summary(server)

    async def _listed(self, instance: str | None) -> list[Thing]:
        return await self._calls.listing(
            "listing machines", Service.COMPUTE, "/servers/detail", "servers",
            {"tags": self._marks.server_filter(None if instance is None else word(instance))},
        )


def refusal(what: str, answer: Answer) -> Exception:
    """What Nova means with its 400, 403 and 409 to a request for a machine or a size."""
    text = answer.text.lower()
    if "server group" in text or "instance group" in text:
        return CloudBusy(f"OpenStack, {what}: {answer.text}")  # somebody else has kept another one
    if "no valid host" in text or "not enough" in text:
        return CloudRefused("no_capacity", "the cloud has no room for a machine of this size")
    if answer.status == 400:
        for word_, code in (("availability zone", "no_zone"), ("flavor", "no_flavor"), ("image", "no_image")):
            if word_ in text:
                return CloudRefused(code, f"Nova makes no such machine: {answer.text}")
    return error_of(what, answer)


def _system_disk(settings: OpenStackSettings, image: str) -> dict[str, Any]:
    disk: dict[str, Any] = {
        "boot_index": 0, "source_type": "image", "uuid": image, "delete_on_termination": True,
        "destination_type": "volume" if settings.boot_volume_gib else "local",
    }
    return disk | ({"volume_size": settings.boot_volume_gib} if settings.boot_volume_gib else {})


def _usable(server: Thing) -> bool:
    return not going(server)


def _has_volume(server: Thing) -> bool:
    return bool(server.get("os-extended-volumes:volumes_attached"))
