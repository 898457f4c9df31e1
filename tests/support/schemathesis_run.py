"""Running schemathesis over a whole API: every phase, every check, with credentials or without."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

CONFIG = """
[parameters]
{parameters}

# What belongs to a later release answers 501, documented.
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", 501]

# What is right may still name nothing that exists, or ask for too much.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "4xx", 501]

# What is wrong may be too large before it is looked at, or ask for what is of a later release.
[checks.negative_data_rejection]
expected-statuses = ["4xx", 501]

# Ids in paths are fixed, so what was just made is not what is asked for next.
[checks.ensure_resource_availability]
enabled = false
[checks.use_after_free]
enabled = false

# A method that is not routed is not found, as in Trove.
[checks.unsupported_method]
enabled = false

# These ask a guest, to which there may be no way where this runs, or wait for one that cannot do it in time.
[[operations]]
include-operation-id = [
    "ping_guest", "enable_root", "show_root", "list_databases", "list_users", "show_user", "list_user_access",
]
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", 501, 503]
checks.positive_data_acceptance.expected-statuses = ["2xx", "4xx", 501, 503]
checks.negative_data_rejection.expected-statuses = ["4xx", 501, 503]
"""


@dataclass(frozen=True, slots=True)
class Report:
    status: int
    output: str

    def told(self) -> str:
        """What it printed, without the ends of the bodies that it made up."""
        return "\n".join(line[:500] for line in self.output.splitlines())[-20_000:]


async def run(
    base: str, folder: Path, *, parameters: dict[str, str], headers: dict[str, str], examples: int, seed: int = 7,
    more: tuple[str, ...] = (),
) -> Report:
    """`base`: scheme and authority. `folder`: for the configuration and what the tool stores. `parameters`: values of
    those of every path, by name.

    The document is made stricter than what clients see: a reply with a key that it does not name is a failure.
    """
    async with aiohttp.ClientSession() as session, session.get(f"{base}/openapi.json") as answer:
        document = folder / "openapi.json"
        document.write_text(json.dumps(_strict(await answer.json())))
    config = folder / "schemathesis.toml"
    fixed = "\n".join(f'"path.{name}" = "{value}"' for name, value in parameters.items())
    config.write_text(CONFIG.format(parameters=fixed))
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run",
        str(document), "--url", base, "--phases", "examples,coverage,fuzzing,stateful",
        "--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure", "--no-shrink",
        "--suppress-health-check", "all", "--warnings", "off", "--request-timeout", "30", *more,
    ]
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return Report(process.returncode or 0, output.decode())


def _strict(document: dict[str, Any]) -> dict[str, Any]:
    """Replies may have no keys that are not described. In requests, what is unknown stays passed by."""
    schemas = document["components"]["schemas"]
    waiting = [
        reference
        for operations in document["paths"].values() for operation in operations.values()
        for answer in operation["responses"].values() for reference in _references(answer)
    ] + list(_references(document["components"]["responses"]))
    closed: set[str] = set()
    while waiting:
        name = waiting.pop().rsplit("/", 1)[1]
        if name in schemas and name not in closed:
            closed.add(name)
            waiting += _references(schemas[name])
            if "properties" in schemas[name]:
                schemas[name].setdefault("additionalProperties", False)
    return document


def _references(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [
            found
            for key, value in node.items()
            for found in ([value] if key == "$ref" else _references(value))
        ]
    if isinstance(node, list):
        return [found for part in node for found in _references(part)]
    return []
