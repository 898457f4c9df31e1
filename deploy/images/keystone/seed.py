"""Keystone's application, once what is to be there is there: services with their endpoints, projects, users, roles.

Asks the application itself, in this process, before anybody else can. What exists is left as it is, but for the
addresses of the catalogue. FILE: {"admin_password", "users": [{"name", "password", "project", "role"}]}.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from keystone.wsgi.api import application
from werkzeug.test import Client

REGION = "RegionOne"
FILE = Path("/etc/coffer/keystone.json")


class Identity:
    """Keystone as its admin asks it."""

    def __init__(self, password: str) -> None:
        self._client = Client(application)
        self._headers: dict[str, str] = {}
        domain = {"id": "default"}
        answer = self._ask("POST", "/auth/tokens", {"auth": {
            "identity": {
                "methods": ["password"],
                "password": {"user": {"name": "admin", "domain": domain, "password": password}},
            },
            "scope": {"project": {"name": "admin", "domain": domain}},
        }})
        self._headers = {"X-Auth-Token": answer.headers["X-Subject-Token"]}

    def ensure(self, kind: str, wanted: dict[str, Any], **more: Any) -> str:
        """The id of the one item that is as `wanted`, made with `more` besides if there is none."""
        found = self.find(kind, wanted)
        return str((found or self._ask("POST", f"/{kind}s", {kind: {**wanted, **more}}).json[kind])["id"])

    def find(self, kind: str, wanted: dict[str, Any]) -> Any:
        query = "&".join(f"{name}={value}" for name, value in wanted.items())
        found = self._ask("GET", f"/{kind}s?{query}").json[f"{kind}s"]
        return found[0] if found else None

    def place(self, service: str, interface: str, url: str) -> None:
        """The service's endpoint, moved if it is elsewhere."""
        wanted = {"service_id": service, "interface": interface, "region_id": REGION}
        endpoint = self.ensure("endpoint", wanted, url=url)
        if self.find("endpoint", wanted)["url"] != url:
            self._ask("PATCH", f"/endpoints/{endpoint}", {"endpoint": {"url": url}})

    def allow(self, user: str, project: str, role: str) -> None:
        self._ask("PUT", f"/projects/{project}/users/{user}/roles/{role}")

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._client.open("/v3" + path, method=method, json=body, headers=self._headers)
        if answer.status_code >= 300:
            raise SystemExit(f"keystone: {method} {path}: {answer.status} {answer.get_data(as_text=True)}")
        return answer


def seed(users: list[dict[str, str]], identity: Identity, urls: dict[str, str]) -> None:
    for kind, url in urls.items():
        service = identity.ensure("service", {"type": kind}, name=kind)
        for interface in ("public", "internal", "admin"):
            identity.place(service, interface, url)
    for user in users:
        project = identity.ensure("project", {"name": user["project"], "domain_id": "default"})
        made = identity.ensure("user", {"name": user["name"], "domain_id": "default"}, password=user["password"])
        identity.allow(made, project, identity.ensure("role", {"name": user["role"]}))


_content = json.loads(FILE.read_text(encoding="utf-8"))
seed(
    _content["users"], Identity(_content["admin_password"]),
    {"identity": os.environ["COFFER_IDENTITY_URL"], "database": os.environ["COFFER_DATABASE_URL"]},
)
