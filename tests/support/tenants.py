"""Fixtures of tests that talk to a stack that is up (`deploy/up.sh`), as its users would."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from support.stack import Api, Stack, address


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
