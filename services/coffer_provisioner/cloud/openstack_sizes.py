"""Another size for a machine, and a new system disk.

Nova tells of a resize that it gave up only in the history of the server's actions, where nothing says who asked for it.
So before the driver asks, it writes down with the server which operation does so and what the last such action was; an
operation whose action has ended without the size is refused, not repeated. A rebuild carries its mark itself.
"""

from __future__ import annotations

from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, Machine, MachineSpec, MachineState, Size, Tags
from coffer_provisioner.cloud.openstack_calls import REBUILD_BOOT_VOLUME, Calls, Service
from coffer_provisioner.cloud.openstack_labels import REBUILT, RESIZED, Marks, OpenStackSettings, Thing, word
from coffer_provisioner.cloud.openstack_machines import Machines, refusal
from coffer_provisioner.cloud.openstack_states import UNCONFIRMED, flavor_name, summary, task
from coffer_provisioner.cloud.openstack_templates import Templates

_AT_REST = {"ACTIVE", "SHUTOFF"}
_NONE = "none"


class Sizes:
    def __init__(
        self, calls: Calls, marks: Marks, machines: Machines, templates: Templates, settings: OpenStackSettings,
    ) -> None:
        self._calls = calls
        self._marks = marks
        self._machines = machines
        self._templates = templates
        self._settings = settings

    async def resize(self, tags: Tags, size: Size) -> Machine:
        server = await self._machines.needed(tags.instance)
        flavor = await self._templates.flavor(size.flavor)
        if flavor_name(server) == flavor["name"]:
            return summary(server)
        if server["status"] == UNCONFIRMED:
            # of an earlier operation: nobody goes back to what was before that
            return await self._end(server, "confirmResize")
        if not _at_rest(server):
            return _meanwhile(server)
        return await self._ask_once(tags, server, flavor)

    async def confirm(self, instance: str) -> Machine:
        server = await self._machines.needed(instance)
        if server["status"] != UNCONFIRMED or task(server):
            return summary(server)
        return await self._end(server, "confirmResize")

    async def revert(self, tags: Tags, size: Size) -> Machine:
        server = await self._machines.needed(tags.instance)
        flavor = await self._templates.flavor(size.flavor)
        if server["status"] == UNCONFIRMED and flavor_name(server) != flavor["name"]:
            return summary(server) if task(server) else await self._end(server, "revertResize")
        return await self.resize(tags, size)

    async def rebuild(self, spec: MachineSpec) -> Machine:
        server = await self._machines.of(spec.tags.instance)
        if server is None:
            return await self._machines.ensure(spec)
        server = await self._machines.needed(spec.tags.instance)
        if server["metadata"].get(REBUILT) == spec.tags.operation:
            return summary(server)
        if server["status"] == UNCONFIRMED or task(server):
            raise CloudBusy(f"the machine is {server['status']} {task(server)}".rstrip())
        answer = await self._machines.act(
            server,
            {"rebuild": {
                "imageRef": await self._templates.image(),
                "user_data": await self._machines.told(spec),
                # all of it: it takes the place of what is there
                "metadata": server["metadata"] | {REBUILT: word(spec.tags.operation)},
            }},
            expected=(400, 403, 404),
            version=REBUILD_BOOT_VOLUME if self._settings.boot_volume_gib else None,
        )
        if answer.status == 409:
            raise CloudBusy(f"the machine cannot be rebuilt now: {answer.text}")
        if answer.status >= 300:
            raise refusal("rebuilding a machine", answer)
        return await self._as_building(server)

    async def _end(self, server: Thing, action: str) -> Machine:
        """400: somebody else has asked for it already, or the cloud itself."""
        await self._machines.act(server, {action: None}, expected=(400,))
        return await self._as_building(server)

    async def _ask_once(self, tags: Tags, server: Thing, flavor: Thing) -> Machine:
        asked = f"{word(tags.operation)} {flavor['id']}"
        actions = await self._actions(server)
        last = actions[0]["request_id"] if actions else _NONE
        # looked at again after them: an action that is listed and has left the server at rest has ended
        server = await self._machines.needed(tags.instance)
        if flavor_name(server) == flavor["name"]:
            return summary(server)
        if not _at_rest(server):
            return _meanwhile(server)
        noted = str(server["metadata"].get(RESIZED, ""))
        if noted.rpartition(" ")[0] != asked:
            await self._calls.ask(
                "noting who asks for a size", Service.COMPUTE, "POST", f"/servers/{server['id']}/metadata",
                body={"metadata": {RESIZED: f"{asked} {last}"}},
            )
        elif not noted.endswith(f" {last}"):
            raise await self._failure(server, actions[0])
        answer = await self._machines.act(
            server, {"resize": {"flavorRef": flavor["id"]}}, expected=(400, 403, 404),
        )
        if answer.status == 409:
            raise CloudBusy(f"the machine cannot be resized now: {answer.text}")
        if answer.status >= 300:
            raise refusal("resizing a machine", answer)
        return await self._as_building(server)

    async def _actions(self, server: Thing) -> list[Thing]:
        """Earlier resizes, the last one first."""
        answer = await self._calls.ask(
            "asking what was done with a machine", Service.COMPUTE, "GET",
            f"/servers/{server['id']}/os-instance-actions",
        )
        return [one for one in answer.many("instanceActions") if one["action"] == "resize"]

    async def _failure(self, server: Thing, action: Thing) -> Exception:
        """Why Nova gave up; its events say more to administrators."""
        answer = await self._calls.ask(
            "asking why a size was not given", Service.COMPUTE, "GET",
            f"/servers/{server['id']}/os-instance-actions/{action['request_id']}", expected=(403, 404),
        )
        events = answer.body.get("instanceAction", {}).get("events") or ()
        text = " ".join(f"{event.get('traceback') or ''} {event.get('details') or ''}" for event in events)
        if "NoValidHost" in text or "No valid host" in text:
            return CloudRefused("no_capacity", "the cloud has no room for a machine of this size")
        return CloudRefused("resize_failed", "the cloud could not give the machine this size; it runs in its old one")

    async def _as_building(self, server: Thing) -> Machine:
        """What the server says now, which may be a moment behind what Nova has just accepted."""
        now = await self._machines.look(server["id"]) or server
        return summary(now)


def _meanwhile(server: Thing) -> Machine:
    """While something is done with it. CloudBusy where that leaves it running: it would look as if all were done."""
    found = summary(server)
    if found.state is MachineState.ACTIVE:
        raise CloudBusy(f"the machine cannot be resized now: {task(server)}")
    return found


def _at_rest(server: Thing) -> bool:
    return server["status"] in _AT_REST and task(server) == ""
