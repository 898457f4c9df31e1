"""An OpenStack for tests of the driver: what an administrator prepares there, and what he sees is left.

There is the double, and a real one if the environment names it: COFFER_TEST_CLOUDS_FILE (a clouds.yaml),
COFFER_TEST_CLOUD (its entry of the service user) and COFFER_TEST_ADMIN_CLOUD (an administrator's). Of that, the first
public network, the first image and the three smallest flavors are taken, unless COFFER_TEST_PUBLIC_NETWORK,
COFFER_TEST_IMAGE and COFFER_TEST_FLAVORS (comma separated) name others.
"""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from coffer_provisioner.cloud.openstack import OpenStackCloud, OpenStackSettings
from support import openstack_double
from support.openstack_double import Double

T = TypeVar("T")
VARIABLES = ("COFFER_TEST_CLOUDS_FILE", "COFFER_TEST_CLOUD", "COFFER_TEST_ADMIN_CLOUD")
QUIET = "ignore::openstack.warnings.RemovedInSDK50Warning"
"""The SDK warns of what its own objects do."""
Thing = Any
"""A resource, as a mapping."""


def configured() -> bool:
    return all(os.environ.get(name) for name in VARIABLES)


# who names no cloud has not asked for its tests, so none is skipped
GROUNDS = ["double", *([pytest.param("real", marks=(
    pytest.mark.timeout(1200), pytest.mark.filterwarnings(QUIET),
))] if configured() else [])]


class Ground(Protocol):
    """Projects here are words: Neutron does not ask Keystone about them."""

    file: str
    """A clouds.yaml, and `cloud` its entry of the service user."""
    cloud: str
    service_project: str
    flavors: tuple[str, ...]
    """Three, each larger than the one before."""
    patience: float
    """How many seconds a call of the driver may take before it is reckoned lost."""

    def bases(self) -> dict[str, str]:
        """Where the services are, for a proxy before them; that of the volumes is the service project's."""
        ...

    def door(self, stack: str, **changed: Any) -> OpenStackCloud: ...

    def network(self, name: str, *, project: str, routed: bool = True, bits: int = 24) -> str:
        """Made once for each name, with one subnet."""
        ...

    def subnet(self, network: str) -> str: ...

    def share(self, network: str, project: str) -> None:
        """Let a project use a network that is not its own; "*": let all."""
        ...

    def add_flavor(self, name: str) -> None:
        """One that no host has room for."""
        ...

    def servers(self, stack: str) -> list[Thing]: ...

    def volumes(self, stack: str) -> list[Thing]: ...

    def snapshots(self, stack: str) -> list[Thing]: ...

    def neutron(self, kind: str, stack: str) -> list[Thing]:
        """`kind`: ports, floatingips, security_groups."""
        ...

    def rules(self, group: str) -> list[Thing]:
        """Ways in."""
        ...

    def groups(self, stack: str) -> list[Thing]: ...

    def stop_server(self, server: str) -> None: ...

    def clear(self, stack: str) -> None:
        """After a test that failed: take away what it left."""
        ...


KINDS = ("ports", "floatingips", "security_groups")


def left_over(ground: Ground, stack: str) -> list[str]:
    return [
        *(f"server {one['id']}" for one in ground.servers(stack)),
        *(f"volume {one['id']} {one['status']}" for one in ground.volumes(stack)),
        *(f"snapshot {one['id']} {one['status']}" for one in ground.snapshots(stack)),
        *(f"{kind} {one['id']}" for kind in KINDS for one in ground.neutron(kind, stack)),
        *(f"group {one['id']}" for one in ground.groups(stack)),
    ]


@dataclass
class DoubleGround:
    double: Double
    file: str
    cloud: str = "double"
    service_project: str = "service-project"
    flavors: tuple[str, ...] = tuple(openstack_double.FLAVORS)
    patience: float = 1.0
    _networks: dict[str, str] = field(default_factory=dict)

    @classmethod
    async def start(cls, directory: Path) -> DoubleGround:
        double = Double()
        await double.start()
        made = cls(double, double.clouds(directory))
        made.network("management", project="service-project", routed=False)
        return made

    def bases(self) -> dict[str, str]:
        return self.double.bases()

    def door(self, stack: str, **changed: Any) -> OpenStackCloud:
        given: dict[str, Any] = {
            "image": "guest", "management_networks": ("management",), "public_network": "public",
            "clouds_file": self.file, "cloud": self.cloud, "stack": stack, "registry": "192.0.2.10:5000",
            "poll_seconds": 0.05, "settle_seconds": 0.1, "wait_seconds": 5.0, "stop_seconds": 2.0, **changed,
        }
        return OpenStackCloud(OpenStackSettings(**given))

    def network(self, name: str, *, project: str, routed: bool = True, bits: int = 24) -> str:
        if name not in self._networks:
            cidr = f"10.100.{len(self._networks)}.0/{bits}"
            made = self.double.network.add_network(project, cidr, name=name, routed=routed)
            self._networks[name] = made["id"]
        return self._networks[name]

    def subnet(self, network: str) -> str:
        subnets = self.double.network.things["subnets"].values()
        return next(str(one["id"]) for one in subnets if one["network_id"] == network)

    def share(self, network: str, project: str) -> None:
        self.double.network.make("rbac_policies", {
            "object_type": "network", "object_id": network, "action": "access_as_shared", "target_tenant": project,
        })

    def add_flavor(self, name: str) -> None:
        self.double.add_flavor(name, openstack_double.TOO_LARGE)

    def servers(self, stack: str) -> list[Thing]:
        return [s for s in self.double.servers.values() if s["metadata"]["coffer_stack"] == stack]

    def volumes(self, stack: str) -> list[Thing]:
        return [v for v in self.double.storage.volumes.values() if v["metadata"]["coffer_stack"] == stack]

    def snapshots(self, stack: str) -> list[Thing]:
        return [s for s in self.double.storage.snapshots.values() if s["metadata"].get("coffer_stack") == stack]

    def neutron(self, kind: str, stack: str) -> list[Thing]:
        marks = f"coffer-stack={stack} "
        return [one for one in self.double.network.things[kind].values() if one["description"].startswith(marks)]

    def rules(self, group: str) -> list[Thing]:
        rules = self.double.network.things["security_group_rules"].values()
        return [one for one in rules if one["security_group_id"] == group and one["direction"] == "ingress"]

    def groups(self, stack: str) -> list[Thing]:
        return [one for one in self.double.groups.values() if f"coffer-stack={stack} " in one["name"]]

    def stop_server(self, server: str) -> None:
        self.double.stop_server(server)

    def clear(self, stack: str) -> None:
        """It goes with the test."""


@dataclass
class RealGround:
    file: str
    cloud: str
    admin: Any
    flavors: tuple[str, ...] = ()
    image: str = os.environ.get("COFFER_TEST_IMAGE", "")
    public_network: str = os.environ.get("COFFER_TEST_PUBLIC_NETWORK", "")
    patience: float = 10.0
    run: str = field(default_factory=lambda: f"t-{uuid.uuid4().hex[:8]}")
    service_project: str = ""
    router: Any = None
    made_networks: dict[str, str] = field(default_factory=dict)
    made_flavors: list[str] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    @classmethod
    def connect(cls) -> RealGround:
        from openstack.config import OpenStackConfig
        from openstack.connection import Connection

        missing = [name for name in VARIABLES if not os.environ.get(name)]
        assert not missing, f"these tests need an OpenStack: set {', '.join(missing)}"
        file, cloud, admin = (os.environ[name] for name in VARIABLES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = OpenStackConfig(config_files=[file])
            made = cls(file, cloud, Connection(config=config.get_one(cloud=admin)))
            made.service_project = str(Connection(config=config.get_one(cloud=cloud)).current_project_id)
            made.prepare()
        return made

    def prepare(self) -> None:
        network = self.admin.network
        by_size = {one.ram: one.name for one in self.admin.compute.flavors()}
        named = os.environ.get("COFFER_TEST_FLAVORS")
        self.flavors = tuple(named.split(",") if named else (by_size[ram] for ram in sorted(by_size)[:3]))
        self.image = self.image or next(self.admin.image.images(status="active")).name
        if self.public_network:
            public = network.find_network(self.public_network, ignore_missing=False)
        else:
            public = next(network.networks(is_router_external=True))
            self.public_network = public.id
        self.router = network.create_router(
            name=self.run, project_id=self.service_project, external_gateway_info={"network_id": public.id},
        )
        self.network("management", project=self.service_project, routed=False)

    def network(self, name: str, *, project: str, routed: bool = True, bits: int = 24) -> str:
        if name not in self.made_networks:
            network = self.admin.network
            made = network.create_network(name=f"{self.run}-{name}"[:250], project_id=project)
            self.made_networks[name] = made.id
            cidr = f"10.100.{next(self._numbers)}.0/{bits}"
            subnet = network.create_subnet(
                name=made.name, network_id=made.id, ip_version=4, cidr=cidr, project_id=project,
            )
            if routed:
                network.add_interface_to_router(self.router, subnet_id=subnet.id)
        return self.made_networks[name]

    def subnet(self, network: str) -> str:
        found: str = next(iter(self.admin.network.subnets(network_id=network))).id
        return found

    def door(self, stack: str, **changed: Any) -> OpenStackCloud:
        given: dict[str, Any] = {
            "image": self.image, "management_networks": (f"{self.run}-management",),
            "public_network": self.public_network, "clouds_file": self.file, "cloud": self.cloud, "stack": stack,
            "registry": "192.0.2.10:5000", "poll_seconds": 0.5, **changed,
        }
        return OpenStackCloud(OpenStackSettings(**given))

    def share(self, network: str, project: str) -> None:
        self.admin.network.create_rbac_policy(
            object_type="network", object_id=network, action="access_as_shared", target_project_id=project,
        )

    def add_flavor(self, name: str) -> None:
        self.made_flavors.append(self.admin.compute.create_flavor(name=name, vcpus=1, ram=256, disk=9_000_000).id)

    def bases(self) -> dict[str, str]:
        admin = self.admin
        identity = admin.config.auth["auth_url"].rstrip("/").removesuffix("/v3")
        volumes = admin.block_storage.get_endpoint().rstrip("/").rpartition("/")[0]
        return {
            "identity": identity,
            "compute": admin.compute.get_endpoint(),
            "network": admin.network.get_endpoint(),
            "block_storage": f"{volumes}/{self.service_project}",
            "image": admin.image.get_endpoint(),
        }

    # --- as an administrator sees it ---

    def servers(self, stack: str) -> list[Thing]:
        found = self.admin.compute.servers(all_projects=True, project_id=self.service_project)
        return [one for one in found if one.metadata.get("coffer_stack") == stack]

    def volumes(self, stack: str) -> list[Thing]:
        found = self.admin.block_storage.volumes(all_projects=True, project_id=self.service_project)
        return [one for one in found if one.metadata.get("coffer_stack") == stack]

    def snapshots(self, stack: str) -> list[Thing]:
        found = self.admin.block_storage.snapshots(all_projects=True, project_id=self.service_project)
        return [one for one in found if one.metadata.get("coffer_stack") == stack]

    def neutron(self, kind: str, stack: str) -> list[Thing]:
        marks = f"coffer-stack={stack} "
        found = getattr(self.admin.network, {"floatingips": "ips"}.get(kind, kind))()
        return [one for one in found if (one.description or "").startswith(marks)]

    def rules(self, group: str) -> list[Thing]:
        found = self.admin.network.get(f"/security-group-rules?security_group_id={group}&direction=ingress").json()
        rules: list[Thing] = found["security_group_rules"]
        return rules

    def groups(self, stack: str) -> list[Thing]:
        found = self.admin.compute.get("/os-server-groups?all_projects=true", microversion="2.71").json()
        return [one for one in found["server_groups"] if f"coffer-stack={stack} " in one["name"]]

    def stop_server(self, server: str) -> None:
        self.admin.compute.stop_server(server)
        self.until(lambda: self.admin.compute.get_server(server).status == "SHUTOFF", "the server stops")

    def clear(self, stack: str) -> None:
        for server in self.servers(stack):
            self.admin.compute.delete_server(server.id)
        self.until(lambda: not self.servers(stack), "the servers go")
        for one in self.neutron("floatingips", stack):
            self.admin.network.delete_ip(one.id)
        for one in self.neutron("ports", stack):
            self.admin.network.delete_port(one.id)
        for one in self.neutron("security_groups", stack):
            self.admin.network.delete_security_group(one.id)
        for one in self.groups(stack):
            self.admin.compute.delete_server_group(one["id"])
        self.until(lambda: self._without_volumes(stack), "the volumes and their snapshots go")

    def _without_volumes(self, stack: str) -> bool:
        """Delete what can be by now: a volume may wait for its snapshot, and that for a volume that was made of it."""
        from openstack.exceptions import SDKException

        storage = self.admin.block_storage
        snapshots, volumes = self.snapshots(stack), self.volumes(stack)
        for delete, things in ((storage.delete_snapshot, snapshots), (storage.delete_volume, volumes)):
            for one in things:
                if one.status != "deleting":
                    with suppress(SDKException):
                        delete(one.id, force=True)
        return not snapshots and not volumes

    def close(self) -> None:
        with warnings.catch_warnings(action="ignore"):  # no test's, so none of their marks counts for it
            self._close()

    def _close(self) -> None:
        network = self.admin.network
        for port in list(network.ports(device_id=self.router.id, device_owner="network:router_interface")):
            network.remove_interface_from_router(self.router, port_id=port.id)
        for made in self.made_networks.values():
            network.delete_network(made)
        network.delete_router(self.router.id)
        for flavor in self.made_flavors:
            self.admin.compute.delete_flavor(flavor)
        self.admin.close()

    @staticmethod
    def until(look: Callable[[], T], what: str, within: float = 90.0) -> T:
        end = time.monotonic() + within
        while not (found := look()):
            assert time.monotonic() < end, f"not within {within:g} s: {what}"
            time.sleep(0.5)
        return found
