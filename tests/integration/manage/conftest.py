"""Fixtures: `coffer-manage` over a real PostgreSQL."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("support.postgres")
