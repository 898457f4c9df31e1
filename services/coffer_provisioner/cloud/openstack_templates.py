"""What machines are made from: flavors and the guest image."""

from __future__ import annotations

import re

from coffer_provisioner.cloud.interface import CloudRefused
from coffer_provisioner.cloud.openstack_calls import Calls, Service
from coffer_provisioner.cloud.openstack_labels import OpenStackSettings, Thing

TAG = "coffer-guest"
"""Which images `coffer-manage image upload` has brought."""
_ID = re.compile(r"[A-Za-z0-9_.-]{1,255}")


class Templates:
    def __init__(self, calls: Calls, settings: OpenStackSettings) -> None:
        self._calls = calls
        self._settings = settings

    async def flavor(self, wanted: str) -> Thing:
        """By id, or else by name."""
        if _ID.fullmatch(wanted):
            found = await self._calls.find("looking at a flavor", Service.COMPUTE, f"/flavors/{wanted}", "flavor")
            if found is not None:
                return found
        listed = await self._calls.listing(
            "listing flavors", Service.COMPUTE, "/flavors/detail", "flavors", {"is_public": "None"},
        )
        for one in listed:
            if one["name"] == wanted:
                return one
        raise CloudRefused("no_flavor", f"the cloud has no flavor {wanted[:64]}")

    async def image(self) -> str:
        """The id of the guest image of today."""
        wanted = self._settings.image
        if not wanted:
            return await self._newest({"tag": TAG, "owner": await self._calls.project()}, f"tagged {TAG}")
        if _ID.fullmatch(wanted):
            by_id = await self._calls.find("looking at the guest image", Service.IMAGES, f"/images/{wanted}", "")
            if by_id is not None and by_id.get("status") == "active":
                return str(by_id["id"])
        return await self._newest({"name": wanted}, f"{wanted[:64]} (setting image)")

    async def _newest(self, wanted: dict[str, str], called: str) -> str:
        answer = await self._calls.ask(
            "looking for the guest image", Service.IMAGES, "GET", "/images",
            query={**wanted, "status": "active", "sort": "created_at:desc", "limit": 1},
        )
        for one in answer.many("images"):
            return str(one["id"])
        raise CloudRefused("no_image", f"the image service has no image {called}")
