from __future__ import annotations

import os

import pytest

import coffer_datastores
from unit.guest.fakes import NAME, MemoryDriver, World


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Of the datastore `memory`, which exists only here."""
    made = World()
    driver = MemoryDriver(made, os.getuid())
    real = coffer_datastores.driver
    monkeypatch.setattr(coffer_datastores, "driver", lambda name: driver if name == NAME else real(name))
    return made
