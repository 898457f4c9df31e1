"""A clock of the test's own, for whoever asks for it."""

from __future__ import annotations

import time

import pytest

from unit.provisioner.backup_stage import Stage
from unit.provisioner.world import Clock


@pytest.fixture
def clock(monkeypatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "time", made)
    return made


@pytest.fixture
def stage(clock) -> Stage:
    return Stage(clock)
