"""A real Swift for tests: the stack's image in a throw-away container. As a pytest plugin: the fixture `swift`."""

from __future__ import annotations

import dataclasses
import http.client
import os
import re
import secrets
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from coffer_provisioner.storage.swift import SwiftSettings
from support.containers import docker

IMAGE = "coffer/swift"
WITHIN = 60.0
_CONFIGURATION = Path(__file__).parents[2] / "deploy/images/swift/etc"


class Swift:
    """`Swift.run()`; then `settings`, `stop`, `start`, `kill`, `log`. The caller ends it with `remove`."""

    def __init__(self, container: str, directory: Path, settings: SwiftSettings) -> None:
        self.container, self._directory, self._settings = container, directory, settings

    @classmethod
    def run(cls, *, max_upload_time: int | None = None) -> Swift:
        """With users and keys of its own. `max_upload_time`: in place of the image's, and as its client_timeout too."""
        assert docker("image", "ls", "-q", IMAGE), f"{IMAGE} is not built: run deploy/images/build.sh swift first"
        url = f"http://127.0.0.1:{_free_port()}"
        settings = SwiftSettings(
            url=url, guest_url=url, setup_user="coffer:setup", setup_key=secrets.token_urlsafe(32),
            user="coffer:backup", key=secrets.token_urlsafe(32),
        )
        directory = Path(tempfile.mkdtemp(prefix="coffer-swift-"))
        mounts = ["-v", f"{_users(directory, settings)}:/etc/coffer:ro"]
        for file in _hastened(directory, max_upload_time) if max_upload_time is not None else ():
            mounts += ["-v", f"{file}:/etc/swift/{file.name}:ro"]
        container = docker(
            "run", "-d", "--label=coffer.test=1", "--restart=on-failure", "-p", f"{urlsplit(url).netloc}:8080",
            "--read-only", "--tmpfs=/run/swift:uid=10001,gid=10001,mode=0700", "--tmpfs=/tmp", "--cap-drop=ALL",
            "--security-opt=no-new-privileges", "--memory=512m", *mounts, IMAGE,
        )
        swift = cls(container, directory, settings)
        try:
            swift._wait()
        except BaseException:
            swift.remove()
            raise
        return swift

    def settings(self, **changed: Any) -> SwiftSettings:
        return dataclasses.replace(self._settings, **changed)

    def stop(self) -> None:
        docker("stop", "-t", "20", self.container)

    def kill(self) -> None:
        """As with kill -9."""
        docker("kill", self.container)

    def start(self) -> None:
        """Again, on the same port and with what is stored."""
        docker("start", self.container)
        self._wait()

    def log(self) -> str:
        return docker("logs", self.container)

    def end(self, program: str) -> None:
        """kill -9 one of the programs in the container, which then comes up again by itself."""
        starts = self._starts()
        seen = docker("top", self.container, "-eo", "pid,args").splitlines()[1:]
        [pid] = [line.split()[0] for line in seen if program in line]
        os.kill(int(pid), signal.SIGKILL)
        until = time.monotonic() + WITHIN
        while self._starts() == starts:
            assert time.monotonic() < until, f"the container outlives {program}"
            time.sleep(0.05)
        self._wait()

    def remove(self) -> None:
        docker("rm", "-f", "-v", self.container)
        shutil.rmtree(self._directory)

    def _wait(self) -> None:
        until = time.monotonic() + WITHIN
        while not self._is_well():
            assert time.monotonic() < until, self.log()[-3000:]
            time.sleep(0.05)

    def _starts(self) -> tuple[str, str]:
        started, restarts = docker(
            "inspect", "-f", "{{.State.StartedAt}} {{.RestartCount}}", self.container,
        ).split()
        return started, restarts

    def _is_well(self) -> bool:
        connection = http.client.HTTPConnection(urlsplit(self._settings.url).netloc, timeout=5)
        try:
            connection.request("GET", "/healthcheck")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@pytest.fixture(scope="session")
def swift() -> Iterator[Swift]:
    """One for all tests of the session: each uses containers, or projects, of its own."""
    running = Swift.run()
    try:
        yield running
    finally:
        running.remove()


def _users(directory: Path, settings: SwiftSettings) -> Path:
    """The directory with users.conf, readable by the uid in the container."""
    users = directory / "users"
    users.mkdir(mode=0o755)
    lines = {settings.setup_user: f"{settings.setup_key} .reseller_admin", settings.user: settings.key}
    (users / "users.conf").write_text(
        "".join(f"user_{user.replace(':', '_')} = {value}\n" for user, value in lines.items())
    )
    (users / "users.conf").chmod(0o444)
    return users


def _hastened(directory: Path, seconds: int) -> list[Path]:
    made = []
    for name in ("object-server.conf", "proxy-server.conf"):
        text = (_CONFIGURATION / name).read_text()
        text = re.sub(r"^(max_upload_time|client_timeout) = .*$", rf"\1 = {seconds}", text, flags=re.MULTILINE)
        made.append(directory / name)
        made[-1].write_text(text)
        made[-1].chmod(0o444)
    return made


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
