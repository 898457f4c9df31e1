from __future__ import annotations

import os

import pytest

import coffer_datastores
from unit.guest.fakes import World
from unit.guest.memory_driver import MemoryDriver
from unit.guest.orders import NAME


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are looked at as often as can be, and their files belong to whoever runs the tests."""
    monkeypatch.setattr("coffer_guest.commands.job._POLL_SECONDS", 0.002)
    monkeypatch.setattr("coffer_guest.commands.backup._TRY_SECONDS", 0.002)
    monkeypatch.setattr("coffer_guest.commands.snapshot._ASK_SECONDS", 0.002)
    monkeypatch.setattr("coffer_guest.jobs.STORAGE_GID", os.getgid())
    monkeypatch.setattr("coffer_guest.commands.prepare.STORAGE_GID", os.getgid())


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Of the datastore `memory`, which exists only here."""
    made = World()
    driver = MemoryDriver(made, os.getuid())
    real = coffer_datastores.driver
    monkeypatch.setattr(coffer_datastores, "driver", lambda name: driver if name == NAME else real(name))
    return made
