"""A real Keystone for tests: the stack's image in a throw-away container. As a pytest plugin: `keystone`."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import socket
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coffer_manage import keystone as users
from support.accounts import Account
from support.containers import docker

IMAGE = "coffer/keystone"
WITHIN = 180.0
DOMAIN = {"id": "default"}


class Refused(AssertionError):
    """Keystone does not do what it was asked for."""


class Keystone:
    """`Keystone.run()`; then accounts and tokens, `stop`, `start`. The caller ends it with `remove`."""

    def __init__(self, container: str, directory: Path, url: str, passwords: dict[str, str]) -> None:
        self.container, self.directory, self.url, self.passwords = container, directory, url, passwords
        self._admin: str = ""
        self._roles: dict[str, str] = {}

    @classmethod
    def run(cls) -> Keystone:
        assert docker("image", "ls", "-q", IMAGE), f"{IMAGE} is not built: run deploy/images/build.sh keystone first"
        passwords = {name: secrets.token_urlsafe(16) for name in users.NAMES}
        directory = Path(tempfile.mkdtemp(prefix="coffer-keystone-"))
        (directory / "etc").mkdir(mode=0o755)
        (directory / "etc/keystone.json").write_bytes(users.users_file(passwords))
        (directory / "etc/keystone.json").chmod(0o444)
        address = f"127.0.0.1:{_free_port()}"
        container = docker(
            "run", "-d", "--label=coffer.test=1", "-p", f"{address}:5000", "--read-only", "--tmpfs=/tmp",
            "--tmpfs=/var/lib/keystone:uid=10001,gid=10001,mode=0700", "--cap-drop=ALL",
            "--security-opt=no-new-privileges", "--memory=512m", "-v", f"{directory}/etc:/etc/coffer:ro",
            "-e", f"COFFER_IDENTITY_URL=http://{address}/v3",
            "-e", "COFFER_DATABASE_URL=http://127.0.0.1:1/v1.0/%(project_id)s", IMAGE,
        )
        found = cls(container, directory, f"http://{address}/v3", passwords)
        try:
            found._wait()
            found._login()
        except BaseException:
            found.remove()
            raise
        return found

    def clouds(self) -> str:
        """Path of a clouds.yaml with the service's user, as the cloud `coffer`."""
        path = self.directory / "clouds.yaml"
        path.write_bytes(users.service_clouds(self.passwords).replace(users.URL.encode(), self.url.encode()))
        return str(path)

    def account(self, role: str = "member", project: str | None = None) -> Account:
        """A user of their own, in a project of their own unless it is given."""
        name = uuid.uuid4().hex
        project = project or str(self.ask("POST", "/projects", {"project": {"name": name}})[1]["project"]["id"])
        password = secrets.token_urlsafe(12)
        user = self.ask("POST", "/users", {"user": {"name": name, "password": password}})[1]["user"]["id"]
        self.ask("PUT", f"/projects/{project}/users/{user}/roles/{self.role(role)}")
        return Account(user, password, project, role)

    def token(self, account: Account, scope: Any = "project") -> str:
        """`scope`: "project", "unscoped", or as Keystone's API has it."""
        scopes: dict[str, Any] = {"project": {"project": {"id": account.project}}, "unscoped": "unscoped"}
        identity = {
            "methods": ["password"], "password": {"user": {"id": account.id, "password": account.password}},
        }
        body = {"auth": {"identity": identity, "scope": scopes[scope] if isinstance(scope, str) else scope}}
        headers, _ = self.ask("POST", "/auth/tokens", body, token="")
        return str(headers["X-Subject-Token"])

    def short_token(self, account: Account) -> str:
        """One for the account's project that ends within seconds, by way of an application credential that does."""
        own = self.token(account)
        for seconds in (4, 8, 16, 32, 64):  # where the machine is slow, it may end before there is a token
            with contextlib.suppress(Refused):
                return self._token_for(account, own, seconds)
        raise AssertionError("no token that still lives")

    def _token_for(self, account: Account, own: str, seconds: float) -> str:
        ends = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        wanted = {"application_credential": {"name": uuid.uuid4().hex, "expires_at": ends}}
        path = f"/users/{account.id}/application_credentials"
        made = self.ask("POST", path, wanted, token=own)[1]["application_credential"]
        method = "application_credential"
        body = {"auth": {"identity": {"methods": [method], method: {"id": made["id"], "secret": made["secret"]}}}}
        return str(self.ask("POST", "/auth/tokens", body, token="")[0]["X-Subject-Token"])

    def revoke(self, token: str) -> None:
        self.ask("DELETE", "/auth/tokens", subject=token)

    def disable(self, account: Account) -> None:
        self.ask("PATCH", f"/users/{account.id}", {"user": {"enabled": False}})

    def strip(self, account: Account) -> None:
        """Take the role away that the account has in its project."""
        self.ask("DELETE", f"/projects/{account.project}/users/{account.id}/roles/{self.role(account.role)}")

    def on_domain(self, account: Account) -> None:
        self.ask("PUT", f"/domains/default/users/{account.id}/roles/{self.role(account.role)}")

    def on_system(self, account: Account) -> None:
        self.ask("PUT", f"/system/users/{account.id}/roles/{self.role(account.role)}")

    def place(self, service: str, url: str) -> None:
        """Where the catalogue says that the service is."""
        (found,) = self.ask("GET", f"/services?type={service}")[1]["services"]
        for endpoint in self.ask("GET", f"/endpoints?service_id={found['id']}")[1]["endpoints"]:
            self.ask("PATCH", f"/endpoints/{endpoint['id']}", {"endpoint": {"url": url}})

    def role(self, name: str) -> str:
        if name not in self._roles:
            self._roles |= {role["name"]: role["id"] for role in self.ask("GET", "/roles")[1]["roles"]}
        return self._roles[name]

    def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = None, subject: str = "",
    ) -> tuple[Any, Any]:
        """Headers and body of a good answer; as the admin unless another token is given."""
        request = urllib.request.Request(
            self.url + path, method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "X-Auth-Token": self._admin if token is None else token},
        )
        if subject:
            request.add_header("X-Subject-Token", subject)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
                return answer.headers, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            raise Refused(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def stop(self) -> None:
        """Nothing answers at its address, as when its host has no network; what is stored stays."""
        docker("pause", self.container)

    def start(self) -> None:
        docker("unpause", self.container)
        self._wait()

    def remove(self) -> None:
        docker("rm", "-f", "-v", self.container)
        shutil.rmtree(self.directory)

    def _login(self) -> None:
        user = {"name": "admin", "domain": DOMAIN, "password": self.passwords["admin"]}
        body = {"auth": {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": "admin", "domain": DOMAIN}},
        }}
        self._admin = str(self.ask("POST", "/auth/tokens", body, token="")[0]["X-Subject-Token"])

    def _wait(self) -> None:
        until = time.monotonic() + WITHIN
        while not self._is_well():
            assert time.monotonic() < until, docker("logs", self.container)[-3000:]
            time.sleep(0.2)

    def _is_well(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=3) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture(scope="session")
def keystone() -> Iterator[Keystone]:
    """One for all tests of the session: each makes accounts of its own."""
    running = Keystone.run()
    try:
        yield running
    finally:
        running.remove()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
