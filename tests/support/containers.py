"""Docker's command, for the servers that tests start in containers."""

from __future__ import annotations

import subprocess


def docker(*command: str) -> str:
    done = subprocess.run(["docker", *command], capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, f"docker {command[0]}: {done.stderr}"
    return done.stdout.strip()
