"""A real OpenStack for tests of the driver: what an administrator prepares there, and what he sees is left.

The environment names it: COFFER_TEST_CLOUDS_FILE (a clouds.yaml), COFFER_TEST_CLOUD (its entry of the service user) and
COFFER_TEST_ADMIN_CLOUD (an administrator's). It needs an external network, a guest image and three flavors; their names
are below, and each can be given as COFFER_TEST_<NAME>.
"""

from __future__ import annotations

import os
import time
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from coffer_provisioner.cloud.openstack import OpenStackCloud, OpenStackSettings

T = TypeVar("T")
VARIABLES = ("COFFER_TEST_CLOUDS_FILE", "COFFER_TEST_CLOUD", "COFFER_TEST_ADMIN_CLOUD")
QUIET = "ignore::openstack.warnings.RemovedInSDK50Warning"
"""The SDK warns of what its own objects do."""
IMAGE = os.environ.get("COFFER_TEST_IMAGE", "debian-lab")
PUBLIC_NETWORK = os.environ.get("COFFER_TEST_PUBLIC_NETWORK", "public")
FLAVORS = tuple(os.environ.get("COFFER_TEST_FLAVORS", "lab.tiny,lab.small,lab.medium").split(","))


def configured() -> bool:
    return all(os.environ.get(name) for name in VARIABLES)


@dataclass
class Ground:
    """Projects here are words: Neutron does not ask Keystone about them."""

    file: str
    cloud: str
    admin: Any
    run: str = field(default_factory=lambda: f"t-{uuid.uuid4().hex[:8]}")
    service_project: str = ""
    router: Any = None
    public: Any = None
    networks: dict[str, Any] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=lambda: count(1))

    @classmethod
    def connect(cls) -> Ground:
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
        self.public = network.find_network(PUBLIC_NETWORK, ignore_missing=False)
        self.router = network.create_router(
            name=self.run, project_id=self.service_project, external_gateway_info={"network_id": self.public.id},
        )
        self.network("management", project=self.service_project, routed=False)

    def network(self, name: str, *, project: str, routed: bool = True, bits: int = 24) -> Any:
        """Made once for each name, with one subnet."""
        if name not in self.networks:
            network = self.admin.network
            made = network.create_network(name=f"{self.run}-{name}"[:250], project_id=project)
            self.networks[name] = made
            cidr = f"10.100.{next(self._numbers)}.0/{bits}"
            subnet = network.create_subnet(
                name=made.name, network_id=made.id, ip_version=4, cidr=cidr, project_id=project,
            )
            if routed:
                network.add_interface_to_router(self.router, subnet_id=subnet.id)
        return self.networks[name]

    def subnet(self, network: str) -> str:
        found: str = next(iter(self.admin.network.subnets(network_id=network))).id
        return found

    def settings(self, stack: str, **changed: Any) -> OpenStackSettings:
        given: dict[str, Any] = {
            "image": IMAGE, "management_networks": (f"{self.run}-management",), "public_network": PUBLIC_NETWORK,
            "clouds_file": self.file, "cloud": self.cloud, "stack": stack, "registry": "192.0.2.10:5000",
            "poll_seconds": 0.5, **changed,
        }
        return OpenStackSettings(**given)

    def door(self, stack: str, **changed: Any) -> OpenStackCloud:
        return OpenStackCloud(self.settings(stack, **changed))

    def bases(self) -> dict[str, str]:
        """Where the services are, for a proxy before them; that of the volumes is the service project's."""
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

    def servers(self, stack: str) -> list[Any]:
        found = self.admin.compute.servers(all_projects=True, project_id=self.service_project)
        return [one for one in found if one.metadata.get("coffer_stack") == stack]

    def volumes(self, stack: str) -> list[Any]:
        found = self.admin.block_storage.volumes(all_projects=True, project_id=self.service_project)
        return [one for one in found if one.metadata.get("coffer_stack") == stack]

    def neutron(self, kind: str, stack: str) -> list[Any]:
        """`kind`: ports, ips, security_groups."""
        marks = f"coffer-stack={stack} "
        return [one for one in getattr(self.admin.network, kind)() if (one.description or "").startswith(marks)]

    def groups(self, stack: str) -> list[Any]:
        found = self.admin.compute.get("/os-server-groups?all_projects=true", microversion="2.71").json()
        return [one for one in found["server_groups"] if f"coffer-stack={stack} " in one["name"]]

    def left_over(self, stack: str) -> list[str]:
        return [
            *(f"server {one.id}" for one in self.servers(stack)),
            *(f"volume {one.id} {one.status}" for one in self.volumes(stack)),
            *(f"{kind} {one.id}" for kind in ("ports", "ips", "security_groups") for one in self.neutron(kind, stack)),
            *(f"group {one['id']}" for one in self.groups(stack)),
        ]

    def stop_server(self, server: str) -> None:
        self.admin.compute.stop_server(server)
        self.until(lambda: self.admin.compute.get_server(server).status == "SHUTOFF", "the server stops")

    def clear(self, stack: str) -> None:
        """After a test that failed: take away what it left."""
        for server in self.servers(stack):
            self.admin.compute.delete_server(server.id, force=True)
        self.until(lambda: not self.servers(stack), "the servers go")
        for one in self.neutron("ips", stack):
            self.admin.network.delete_ip(one.id)
        for one in self.neutron("ports", stack):
            self.admin.network.delete_port(one.id)
        for one in self.neutron("security_groups", stack):
            self.admin.network.delete_security_group(one.id)
        for one in self.groups(stack):
            self.admin.compute.delete_server_group(one["id"])
        for one in self.volumes(stack):
            self.admin.block_storage.delete_volume(one.id, force=True)

    def close(self) -> None:
        network = self.admin.network
        for port in list(network.ports(device_id=self.router.id, device_owner="network:router_interface")):
            network.remove_interface_from_router(self.router, port_id=port.id)
        for made in self.networks.values():
            network.delete_network(made.id)
        network.delete_router(self.router.id)
        self.admin.close()

    @staticmethod
    def until(look: Callable[[], T], what: str, within: float = 90.0) -> T:
        end = time.monotonic() + within
        while not (found := look()):
            assert time.monotonic() < end, f"not within {within:g} s: {what}"
            time.sleep(0.5)
        return found
