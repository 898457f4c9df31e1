"""The identity services that the suite runs against: the fake one, and a real Keystone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from coffer_api.keystone import Service
from coffer_api.keystone_service import connect
from support.fake_keystone import FakeKeystone

if TYPE_CHECKING:
    from support.keystone import Keystone


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.keystone")


@dataclass
class Directory:
    """`people` has accounts and makes tokens; `service` is what the API asks."""

    people: Any
    service: Service


@pytest.fixture
def real(keystone: Keystone) -> Iterator[Directory]:
    service, _ = connect(keystone.clouds(), "coffer", 20.0)
    yield Directory(keystone, service)
    service.close()


@pytest.fixture(params=["fake", pytest.param("keystone", marks=pytest.mark.docker)])
def directory(request: pytest.FixtureRequest) -> Directory:
    if request.param == "fake":
        fake = FakeKeystone()
        return Directory(fake, fake)
    found: Directory = request.getfixturevalue("real")
    return found
