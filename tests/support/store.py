"""The stack's object store as its tenants see it, and as somebody who can stop it does."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from support.stack import Stack, eventually, run
from support.watching import Watch


@dataclass(slots=True)
class Store:
    """`account` is a project; what is read and written is so under its own tenant's credentials."""

    stack: Stack
    access: dict[str, dict[str, Any]]

    @classmethod
    def of(cls, stack: Stack) -> Store:
        return cls(stack, {user["project"]: user["object_store"] for user in stack.clients["users"].values()})

    @property
    def endpoint(self) -> str:
        """http://host:port"""
        return str(next(iter(self.access.values()))["auth_url"]).rpartition("/auth")[0]

    def names(self, account: str, container: str, prefix: str) -> list[str]:
        status, body = self._ask("GET", account, f"{container}?format=json&prefix={quote(prefix)}")
        assert status in {200, 204, 404}, status
        return [str(each["name"]) for each in json.loads(body)] if status == 200 else []

    def read(self, account: str, container: str, name: str) -> bytes:
        status, body = self._ask("GET", account, f"{container}/{quote(name)}")
        assert status == 200, f"{name}: {status}"
        return body

    def write(self, account: str, container: str, name: str, data: bytes) -> None:
        status, _ = self._ask("PUT", account, f"{container}/{quote(name)}", data)
        assert status == 201, f"{name}: {status}"

    def as_tenant(self, user: str, container: str, name: str, *, account: str | None = None) -> int:
        """What a tenant is answered who asks for an object of `account`, its own if it is not given."""
        return self._ask("GET", account or user, f"{container}/{quote(name)}", user=user)[0]

    @contextmanager
    def paused_for_guests(self, step: str = "back_up") -> Iterator[None]:
        """From the moment that an operation enters the step in which its guest is at work, nobody is answered, and
        nothing is forgotten. Before, the provisioner needs the store itself."""

        def pause(_: list[str]) -> None:
            run("docker", "pause", self._container)

        watch = Watch(self.stack, step, pause)
        try:
            yield
        finally:
            watch.close()
            self._go_on()
            self.answers()

    def kill(self) -> None:
        """As kill -9 of all of it. It is started again, and answers when this returns."""
        self._go_on()
        run("docker", "kill", "-s", "KILL", self._container)
        run("docker", "start", self._container)
        self.answers()

    def answers(self) -> None:
        def look() -> bool:
            try:
                with urllib.request.urlopen(f"{self.endpoint}/healthcheck", timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        eventually(look, within=60, what="the object store answers")

    def _go_on(self) -> None:
        if run("docker", "inspect", "-f", "{{.State.Paused}}", self._container).strip() == "true":
            run("docker", "unpause", self._container)

    @property
    def _container(self) -> str:
        return f"{self.stack.name}-swift-1"

    def _ask(
        self, method: str, account: str, path: str, data: bytes | None = None, *, user: str | None = None,
    ) -> tuple[int, bytes]:
        access = self.access[user or account]
        login = urllib.request.Request(
            access["auth_url"], headers={"X-Auth-User": access["user"], "X-Auth-Key": access["key"]},
        )
        with urllib.request.urlopen(login, timeout=20) as answer:
            token = answer.headers["X-Auth-Token"]
        request = urllib.request.Request(
            f"{self.endpoint}/v1/AUTH_{account}/{path}", method=method, data=data, headers={"X-Auth-Token": token},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
