"""Fixtures of tests that talk to a stack that is up (`deploy/up.sh`), as its users would."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from support.stack import Api, Stack, address, run


@dataclass(frozen=True, slots=True)
class Shop:
    """An instance with a database and a user, made once for all tests that only use it."""

    id: str
    password: str
    public: str
    private: str
    shown: dict[str, Any]


@pytest.fixture(scope="session")
def stack() -> Stack:
    return Stack.find()


@pytest.fixture(scope="session")
def api(stack: Stack) -> Api:
    return stack.api("demo")


@pytest.fixture(scope="session")
def other(stack: Stack) -> Api:
    """A member of another project."""
    return stack.api("other")


@pytest.fixture(scope="session")
def shop(api: Api) -> Iterator[Shop]:
    password = secrets.token_urlsafe(18)
    made = api.create(
        "shop", access={"is_public": True}, databases=[{"name": "shop"}],
        users=[{"name": "app", "password": password, "databases": [{"name": "shop"}]}],
    )
    shown = api.until_ready(made)
    yield Shop(made, password, address(shown, "public"), address(shown, "private"), shown)
    api.delete(made)


@contextmanager
def connection(shop: Shop, script: str, *, ends: bool) -> Iterator[str]:
    """A client of the shop's on one connection, in a container of that name: it does what the script of psql says, and
    stops at the first statement that fails. `ends`: it goes when it has done all."""
    name = f"coffer-test-{secrets.token_hex(4)}"
    program = (
        'umask 077; read -r line; printf "%s" "$line" > /tmp/pass; PGPASSFILE=/tmp/pass PGCONNECT_TIMEOUT=5 exec psql '
        f"-XAtq -v ON_ERROR_STOP=1 -h {shop.public} -U app -d shop"
    )
    process = subprocess.Popen(
        ["docker", "run", "--name", name, "-i", "--network", "host", "--user", "0:0", "--entrypoint", "sh",
         "coffer/postgres:17", "-c", program],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
    )
    assert process.stdin is not None
    process.stdin.write(f"{shop.public}:5432:*:app:{shop.password}\n{script}")
    process.stdin.flush()
    if ends:
        process.stdin.close()
    try:
        yield name
    finally:
        run("docker", "rm", "-f", name)
        process.kill()
        process.wait()
