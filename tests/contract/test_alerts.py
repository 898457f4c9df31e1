"""The alerts, as Prometheus itself tests them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


@pytest.mark.docker
@pytest.mark.parametrize("check", ["test rules /rules/alerts_test.yml", "check rules /rules/alerts.yml"])
def test_promtool_agrees(check: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "-v", f"{FOLDER}:/rules:ro", "--entrypoint", "promtool",
         "coffer/prometheus", *check.split()],
        capture_output=True, text=True, check=False, timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
