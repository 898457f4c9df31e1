"""Processor time of the API for one request, with http_basic, as the kernel counts it for the API's process."""

from __future__ import annotations

import asyncio
import http.client
import secrets
import sys
import time
from base64 import b64encode
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]

from machine import cpu_seconds, line, spread

from support.stack import Stack, run

REQUESTS = 400
ROUNDS = 5
OWNED = 2000
"""Instances of the project: what a page costs must not depend on them."""
AT_A_TIME = 16
LOAD_SECONDS = 8.0


def main() -> None:
    stack = Stack.find()
    marker = f"bench-{secrets.token_hex(4)}"
    stack.sql(
        "INSERT INTO instances (id, project_id, user_id, name, flavor_id, datastore_version_id, volume_gib, fs_uuid, "
        "formatted, started_once, region, is_public, failed) SELECT gen_random_uuid(), 'other', 'bench', "
        f"'{marker}', '1', v.id, 1, gen_random_uuid(), false, false, 'RegionOne', false, false "
        f"FROM generate_series(1, {OWNED}), datastore_versions v WHERE v.name = '17'",
    )
    stack.sql(
        "INSERT INTO heartbeats (instance_id, seq, received_at, engine, facts) SELECT id, 1, now(), 'healthy', "
        f"'{{\"volume\": {{\"total_bytes\": 1000, \"used_bytes\": 10}}}}' FROM instances WHERE name = '{marker}'",
    )
    try:
        one = stack.sql(f"SELECT id FROM instances WHERE name = '{marker}' LIMIT 1")
        # which of the replicas has the port is Docker's choice, and the other does nothing meanwhile
        pids = [int(run("docker", "inspect", "-f", "{{.State.Pid}}", f"{stack.name}-api-{n}")) for n in (1, 2)]
        for what, path in (
            ("list of 20 instances", "/instances?limit=20"),
            ("list of 100 instances", "/instances?limit=100"),
            ("show one instance", f"/instances/{one}"),
        ):
            cpu, wall = zip(*(measure(stack, pids, path) for _ in range(ROUNDS)), strict=True)
            line(f"GET {what}: processor time of the API", spread(cpu, "ms"))
            line(f"GET {what}: one at a time", spread(wall, "ms"))
        rates = [asyncio.run(load(stack, "/instances?limit=20")) for _ in range(3)]
        line(f"GET list of 20 instances: {AT_A_TIME} in flight, two replicas", spread(tuple(rates), "/s"))
    finally:
        stack.sql(f"DELETE FROM heartbeats WHERE instance_id IN (SELECT id FROM instances WHERE name = '{marker}')")
        stack.sql(f"DELETE FROM instances WHERE name = '{marker}'")


def measure(stack: Stack, pids: list[int], path: str) -> tuple[float, float]:
    """Milliseconds of processor time, and of waiting, for each request."""
    at, headers = _caller(stack)
    connection = http.client.HTTPConnection(at.hostname or "", at.port)
    for _ in range(20):
        _get(connection, at.path + path, headers)
    cpu, began = sum(map(cpu_seconds, pids)), time.monotonic()
    for _ in range(REQUESTS):
        _get(connection, at.path + path, headers)
    took = time.monotonic() - began
    connection.close()
    return (sum(map(cpu_seconds, pids)) - cpu) * 1e3 / REQUESTS, took * 1e3 / REQUESTS


async def load(stack: Stack, path: str) -> float:
    """Requests answered in a second, over connections to both replicas, each with one request at a time."""
    at, headers = _caller(stack)
    first = at.port or 0
    wanted = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET {at.path}{path} HTTP/1.1\r\nHost: {at.netloc}\r\n{wanted}\r\n".encode()
    ends = time.monotonic() + LOAD_SECONDS
    done = await asyncio.gather(*(_keep_asking(at.hostname or "", first + n % 2, request, ends)
                                  for n in range(AT_A_TIME)))
    return sum(done) / LOAD_SECONDS


async def _keep_asking(host: str, port: int, request: bytes, ends: float) -> int:
    reader, writer = await asyncio.open_connection(host, port)
    count = 0
    while time.monotonic() < ends:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(head.decode())
        size = next(part for part in head.lower().split(b"\r\n") if part.startswith(b"content-length:"))
        await reader.readexactly(int(size.split(b":")[1]))
        count += 1
    writer.close()
    return count


def _caller(stack: Stack) -> tuple[SplitResult, dict[str, str]]:
    known = stack.clients["users"]["other"]
    basic = b64encode(f"other:{known['password']}".encode()).decode()
    return urlsplit(known["endpoint"]), {"Authorization": f"Basic {basic}"}


def _get(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> None:
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{path} answered {answer.status}: {body!r}")


if __name__ == "__main__":
    main()
