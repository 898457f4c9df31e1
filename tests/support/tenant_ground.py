"""A real OpenStack for tests of what is done with a tenant's rights.

The environment names it: COFFER_TEST_CLOUDS_FILE (a clouds.yaml), and its entries COFFER_TEST_CLOUD (the service's
user, with the role `service`), COFFER_TEST_TENANT_CLOUD (a member of some project) and COFFER_TEST_ADMIN_CLOUD (an
administrator's, who makes users, private flavors and others' networks). All that is made is removed again.
"""

from __future__ import annotations

import json
import os
import secrets
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from keystoneauth1.exceptions import ClientException
from keystoneauth1.session import Session

VARIABLES = ("COFFER_TEST_CLOUDS_FILE", "COFFER_TEST_CLOUD", "COFFER_TEST_TENANT_CLOUD", "COFFER_TEST_ADMIN_CLOUD")


def configured() -> bool:
    return all(os.environ.get(name) for name in VARIABLES)


@dataclass
class TenantGround:
    file: str
    cloud: str
    region: str
    keystone: str
    service: Session
    tenant: Session
    admin: Session
    _undo: list[Callable[[], Any]] = field(default_factory=list)

    @classmethod
    def connect(cls) -> TenantGround:
        from openstack.config.loader import OpenStackConfig

        missing = [name for name in VARIABLES if not os.environ.get(name)]
        assert not missing, f"these tests need an OpenStack: set {', '.join(missing)}"
        file, *clouds = (os.environ[name] for name in VARIABLES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = OpenStackConfig(config_files=[file])
            service, tenant, admin = (config.get_one(cloud=name) for name in clouds)
            return cls(
                file, clouds[0], str(service.region_name), str(service.config["auth"]["auth_url"]),
                service.get_session(), tenant.get_session(), admin.get_session(),
            )

    @property
    def project(self) -> str:
        """The tenant's."""
        return str(self.tenant.get_project_id())

    @property
    def token(self) -> str:
        return str(self.tenant.get_token())

    def close(self) -> None:
        for undo in reversed(self._undo):
            with suppress(ClientException, OSError, ValueError):  # what is left is told by its name
                undo()
        self._undo.clear()

    # --- the object store, as its owner ---
    def container(self) -> str:
        """A name of its own; what is there under it in the end is removed."""
        name = f"coffer-test-{uuid.uuid4().hex[:12]}"
        self.forget_container(name)
        return name

    def forget_container(self, name: str) -> None:
        """In the end."""
        self._undo.append(lambda: self.remove_container(name))

    def store(self, method: str, name: str, headers: dict[str, str] | None = None) -> Any:
        return self.ask(self.tenant, "object-store", method, f"/{quote(name)}", headers=headers or {})

    def headers(self, name: str) -> dict[str, str]:
        return {key.lower(): value for key, value in self.store("HEAD", name).headers.items()}

    def remove_container(self, name: str) -> None:
        listed = self.ask(self.tenant, "object-store", "GET", f"/{quote(name)}?format=json")
        if listed.status_code == 404:
            return
        for item in listed.json():
            self.store("DELETE", f"{name}/{item['name']}")
        self.store("DELETE", name)

    # --- what an administrator and a tenant make ---
    def storage_user(self, directory: Path) -> tuple[str, str]:
        """A user with the role `reader` in the service's project and nothing else: the path of its clouds.yaml (the
        cloud `storage`), and PROJECT_ID:USER_ID."""
        project, password = str(self.service.get_project_id()), secrets.token_urlsafe(16)
        user = self.user(project, "reader", password)
        path = directory / "storage-clouds.yaml"
        path.write_text(json.dumps({"clouds": {"storage": {
            "auth": {"auth_url": self.keystone, "user_id": user, "password": password, "project_id": project},
            "identity_api_version": 3, "region_name": self.region,
        }}}))
        return str(path), f"{project}:{user}"

    def user(self, project: str, role: str, password: str) -> str:
        wanted = {"user": {"name": f"coffer-test-{uuid.uuid4().hex[:12]}", "password": password}}
        user = self.make(self.admin, "identity", "/users", wanted)["user"]["id"]
        (found,) = self.ask(self.admin, "identity", "GET", f"/roles?name={role}").json()["roles"]
        self.ask(self.admin, "identity", "PUT", f"/projects/{project}/users/{user}/roles/{found['id']}")
        return str(user)

    def network(self, who: Session, cidr: str, **more: Any) -> tuple[str, str]:
        """With one subnet; the ids of both."""
        name = f"coffer-test-{uuid.uuid4().hex[:12]}"
        network = self.make(who, "network", "/v2.0/networks", {"network": {"name": name, **more}})["network"]["id"]
        wanted = {"network_id": network, "cidr": cidr, "ip_version": 4, "name": name}
        return network, self.make(who, "network", "/v2.0/subnets", {"subnet": wanted})["subnet"]["id"]

    def external_network(self) -> str:
        found = self.ask(self.tenant, "network", "GET", "/v2.0/networks?router:external=true").json()["networks"]
        return str(next(each["id"] for each in found if not each["shared"]))

    def private_flavor(self) -> str:
        wanted = {
            "name": f"coffer-test-{uuid.uuid4().hex[:12]}", "ram": 256, "vcpus": 1, "disk": 1,
            "os-flavor-access:is_public": False,
        }
        return str(self.make(self.admin, "compute", "/flavors", {"flavor": wanted})["flavor"]["id"])

    def make(self, who: Session, service: str, path: str, wanted: dict[str, Any]) -> Any:
        answer = self.ask(who, service, "POST", path, json=wanted)
        assert answer.status_code in {200, 201}, answer.text
        ((_, inside),) = (item for item in answer.json().items())
        self._undo.append(lambda: self.ask(who, service, "DELETE", f"{path}/{inside['id']}"))
        return answer.json()

    def ask(self, who: Session, service: str, method: str, path: str, **more: Any) -> Any:
        url = who.get_endpoint(
            service_type=service, interface="public", region_name=self.region, skip_discovery=True,
        )
        return who.request(f"{(url or '').rstrip('/')}{path}", method, raise_exc=False, **more)
