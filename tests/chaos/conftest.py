"""Faults in a stack that is up, with a writer that counts what was acknowledged."""

from __future__ import annotations

import os

import pytest

from support.tenants import api, other, shop, stack

__all__ = ["api", "full", "other", "shop", "stack"]


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether every case runs, or a few of each."""
    return os.environ.get("DEPTH", "short") == "full"
