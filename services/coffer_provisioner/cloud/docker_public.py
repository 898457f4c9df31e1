"""Public addresses: one forwarder container per public instance, in the host's network, changed without a restart.

Its configuration is a file in the volume that also is the instance's claim to the address.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, ip_network
from typing import Any

from coffer_provisioner.cloud import docker_recipe as recipe
from coffer_provisioner.cloud.docker_engine import Description, Engine
from coffer_provisioner.cloud.docker_labels import HOLDS, DockerSettings, Kind, Marks
from coffer_provisioner.cloud.docker_reservations import Reservations
from coffer_provisioner.cloud.interface import CloudBusy, CloudRefused, Port, PublicAddress, Tags

_LOOKS, _LOOK_SECONDS = 100, 0.05


class PublicAddresses:
    def __init__(self, engine: Engine, marks: Marks, reservations: Reservations, settings: DockerSettings) -> None:
        self._engine = engine
        self._marks = marks
        self._reservations = reservations
        self._settings = settings

    async def ensure(self, tags: Tags, port: Port, tcp_port: int, allowed: tuple[str, ...]) -> PublicAddress:
        check_cidrs(allowed)
        claim = await self._reservations.take(
            tags, Kind.PUBLIC, self._pool(), owner=tags.instance,
            none_left=CloudRefused("no_public_address", "all public addresses are taken (setting public_pool)"),
        )
        address = claim[HOLDS]
        config = {"listen": [address, tcp_port], "target": [port.address, tcp_port], "allowed": allowed}
        found = await self._find(tags.instance)
        if found is None:
            await self._engine.create_container(
                self._marks.own(tags.instance, "public"),
                recipe.forwarder(
                    self._settings,
                    labels=self._marks.labels(tags, Kind.FORWARDER),
                    volume=self._reservations.claim_name(Kind.PUBLIC, tags.instance),
                ),
            )
            found = await self._engine.new_container(self._marks.filters(Kind.FORWARDER, instance=tags.instance))
        if found["State"] == "removing":
            raise CloudBusy("the forwarder is being removed")
        await self._tell(found, config)
        return PublicAddress(address, tcp_port)

    async def drop(self, instance: str) -> None:
        for container in await self._engine.containers(self._marks.filters(Kind.FORWARDER, instance=instance)):
            await self._engine.remove_container(container["Id"])
        await self._reservations.release(Kind.PUBLIC, instance)

    async def _tell(self, forwarder: Description, config: Mapping[str, Any]) -> None:
        """Until it says that this configuration is in force: an instance is told to be ready after that."""
        container, mark = forwarder["Id"], secrets.token_hex(8)
        await self._engine.put_file(
            container, recipe.FORWARDER_DIRECTORY, recipe.FORWARDER_NAME, json.dumps({**config, "mark": mark}).encode(),
            mode=0o644,
        )
        if forwarder["State"] in {"created", "exited"}:
            await self._engine.start(container)
        else:
            await self._engine.signal(container, "SIGHUP")
        log = ""
        for _ in range(_LOOKS):
            log = (await self._engine.log(container, 20)).strip()
            for line in log.splitlines():
                if mark in line:
                    if "error" in json.loads(line):
                        raise CloudBusy(f"the forwarder does not take its configuration: {line[-300:]}")
                    return
            await asyncio.sleep(_LOOK_SECONDS)
        raise CloudBusy(f"the forwarder does not stay up: {log[-300:]}")

    async def _find(self, instance: str) -> Description | None:
        found = await self._engine.containers(self._marks.filters(Kind.FORWARDER, instance=instance))
        return found[0] if found else None

    def _pool(self) -> Iterator[str]:
        hosts = IPv4Network(self._settings.public_pool).hosts()
        next(hosts, None)
        return (str(address) for address in hosts)


def check_cidrs(allowed: tuple[str, ...]) -> None:
    """CloudRefused `bad_cidr`."""
    for text in allowed:
        try:
            ip_network(text, strict=False)
        except ValueError:
            raise CloudRefused("bad_cidr", f"not a range of addresses: {text[:64]}") from None
