"""Every test here talks to a stack that is up (`deploy/up.sh`), as its users would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.stack import ROOT, Stack, eventually, run
from support.tenants import api, other, shop, stack

__all__ = ["api", "other", "shop", "stack", "wiretap"]


@pytest.fixture(scope="session", autouse=True)
def wiretap(stack: Stack) -> Iterator[str]:
    """Listens to everything that NATS carries while these tests run; `test_wiretap` looks at what it heard."""
    name = f"{stack.name}-wiretap"
    run("docker", "rm", "-f", "-v", name, check=False)
    script = ROOT / "tests" / "support" / "wiretap.py"
    run(
        "docker", "run", "-d", "--name", name, "--network", f"{stack.name}_control", "--user", "0:0",
        "-v", f"{stack.name}_state-operator:/state:ro", "-v", f"{script}:/wiretap.py:ro", "coffer/services",
        "python3", "/wiretap.py", "/state", "tls://nats:4222",
    )
    eventually(lambda: "listening" in run("docker", "logs", name), within=30, what="the wiretap listens")
    yield name
    run("docker", "rm", "-f", "-v", name)
