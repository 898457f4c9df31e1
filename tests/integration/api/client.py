"""The unmodified openstack client, as ann of project p1 calls it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

from integration.api.service import Caller

CLI = """
import json, sys
from openstackclient.shell import OpenStackShell
for words in json.load(sys.stdin):
    status = OpenStackShell().run(words)
    print(f"\\n--- {status}", flush=True)
"""


async def openstack(api: Caller, *commands: list[str]) -> list[tuple[int, str]]:
    """Exit status and words of each."""
    environ = {
        **{k: v for k, v in os.environ.items() if not k.startswith("OS_")},
        "OS_AUTH_TYPE": "http_basic", "OS_ENDPOINT": f"{api.base}/v1.0/p1", "OS_USERNAME": "ann",
        "OS_PASSWORD": "ann-password", "PYTHONWARNINGS": "ignore",
    }

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-c", CLI], input=json.dumps(commands), env=environ, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=True, timeout=100,
        )
        return done.stdout

    parts = (await asyncio.to_thread(run)).split("\n--- ")
    said = [parts[0], *(part.partition("\n")[2] for part in parts[1:-1])]
    return [(int(part.partition("\n")[0]), text) for text, part in zip(said, parts[1:], strict=True)]
