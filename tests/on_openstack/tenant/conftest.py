"""What is done with a tenant's rights, on a real OpenStack that the environment names (see support.tenant_ground).
Without one these tests fail."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.api.conftest import api_role, choose, world  # noqa: F401 - fixtures
from support.tenant_ground import TenantGround


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.postgres")


@pytest.fixture
def ground() -> Iterator[TenantGround]:
    made = TenantGround.connect()
    yield made
    made.close()
