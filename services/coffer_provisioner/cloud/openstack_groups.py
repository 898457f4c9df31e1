"""Server groups: the machines of a primary and its replicas together on one host, or apart.

A group has neither metadata nor description, so its name carries the marks. A machine is put into one when it is made.
"""

from __future__ import annotations

from coffer_provisioner.cloud.interface import CloudRefused, MachineSpec, Tags
from coffer_provisioner.cloud.openstack_calls import Calls, Service
from coffer_provisioner.cloud.openstack_labels import Marks, Thing, ranked

_PAGE = 500
_POLICIES = ("affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity")


class Groups:
    def __init__(self, calls: Calls, marks: Marks) -> None:
        self._calls = calls
        self._marks = marks

    async def ensure(self, spec: MachineSpec) -> str | None:
        """Of the instance whose machines are to be together or apart; None if it asks for nothing."""
        if spec.locality is None:
            return None
        if spec.locality not in _POLICIES:
            raise CloudRefused("bad_locality", f"not a locality: {spec.locality[:64]}")
        owner = spec.locality_of or spec.tags.instance
        found = await self._of(owner)
        if not found:
            await self._calls.ask(
                "making a server group", Service.COMPUTE, "POST", "/os-server-groups",
                body={"server_group": {
                    "name": self._marks.group_name(Tags(owner, spec.tags.operation, spec.tags.project)),
                    "policy": spec.locality,
                }},
            )
            found = await self._of(owner)
        await self._keep_first(found)
        return str(found[0]["id"]) if found else None

    async def tidy(self, spec: MachineSpec) -> None:
        """When its machine is there: of groups that were made at once, the one with machines in it stays."""
        if spec.locality is not None:
            await self._keep_first(await self._of(spec.locality_of or spec.tags.instance))

    async def drop_unused(self, instance: str, of_machine: set[str]) -> None:
        """The instance's own, and those that its machine was in, unless another machine is in them."""
        for group in await self.all():
            mark = self._marks.of(group)
            if mark is not None and (mark.instance == instance or group["id"] in of_machine) and not group["members"]:
                await self._delete(group["id"])

    async def all(self) -> list[Thing]:
        """Nova tells no marker with this listing, so further pages are asked for until one is not full."""
        found: list[Thing] = []
        while True:
            answer = await self._calls.ask(
                "listing server groups", Service.COMPUTE, "GET", "/os-server-groups",
                query={"limit": _PAGE, "offset": len(found)},
            )
            page = answer.many("server_groups")
            found += page
            if len(page) < _PAGE:
                return self._marks.mine(found)

    async def drop_one(self, identity: str) -> None:
        """Unless a machine is in it, again or after all."""
        found = await self._calls.find(
            "looking at a server group", Service.COMPUTE, f"/os-server-groups/{identity}", "server_group",
        )
        if found is not None and self._marks.of(found) is not None and not found["members"]:
            await self._delete(identity)

    async def _keep_first(self, found: list[Thing]) -> None:
        for superfluous in found[1:]:
            if not superfluous["members"]:
                await self._delete(superfluous["id"])

    async def _of(self, owner: str) -> list[Thing]:
        return ranked(self._marks.mine(await self.all(), owner), lambda group: bool(group["members"]))

    async def _delete(self, identity: str) -> None:
        await self._calls.ask(
            "deleting a server group", Service.COMPUTE, "DELETE", f"/os-server-groups/{identity}", expected=(404,),
        )
