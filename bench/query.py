"""A sealed question to a live guest and back, and how long a journaled command takes to be accepted.

Runs itself a second time in a container of the services image, with the services' own credentials: that is where the
messages start in production.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
import uuid
from pathlib import Path
from typing import Any

INSIDE = "COFFER_BENCH_INSTANCE"
ONE = 1500
MANY = 12_000
IN_FLIGHT = 16
COMMANDS = 60


def main() -> None:
    sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "tests")]
    from machine import line

    from support.stack import Stack, run

    stack = Stack.find()
    api = stack.api()
    made = api.create("bench", flavorRef="3")
    api.until_ready(made)
    xpub = stack.sql(f"SELECT encode(xpub, 'hex') FROM guests WHERE instance_id = '{made}'")
    try:
        print_lines = run(
            "docker", "run", "--rm", "--network", f"{stack.name}_control", "--user", "0:0",
            "-v", f"{stack.name}_state-api:/api:ro", "-v", f"{stack.name}_state-provisioner:/provisioner:ro",
            "-v", f"{Path(__file__).resolve()}:/bench.py:ro", "-e", f"{INSIDE}={made}", "-e", f"XPUB={xpub}",
            "coffer/services", "python3", "/bench.py", timeout=300,
        )
        for row in print_lines.splitlines():
            what, _, figure = row.partition("|")
            line(what, figure)
    finally:
        api.delete(made)


async def inside() -> None:
    from coffer_shared import identity, messages, subjects
    from coffer_shared.bus import Link, ask_sealed, tls_context
    from coffer_shared.seal import KeyPair, Kind, Peer

    instance = os.environ[INSIDE]
    subject = subjects.command(instance)

    async def connect(service: str) -> tuple[Link, Peer]:
        state = Path(f"/{service}")
        link = Link(
            ("tls://nats:4222",), lambda: identity.load(state / "guests.creds"), name="bench",
            tls=tls_context((state / "ca.pem").read_text()), inbox=f"_INBOX.{service}",
        )
        await link.start()
        await link.ready(20)
        keys = KeyPair.from_private(bytes.fromhex((state / "key").read_text()))
        return link, Peer("server", keys, bytes.fromhex(os.environ["XPUB"]))

    async def ask(link: Link, peer: Peer, command: Any) -> Any:
        body = await ask_sealed(
            link, peer, Kind.CMD, subject, messages.encode(command), answer=Kind.CMD_ANSWER, timeout=10,
        )
        return messages.decode_command_answer(body)

    def ping() -> Any:
        return messages.Query(name="ping", deadline=time.time() + 10)

    link, peer = await connect("api")
    for _ in range(100):
        answer = await ask(link, peer, ping())
        assert answer == messages.Answer(result=True), answer
    took = []
    for _ in range(ONE):
        began = time.perf_counter()
        await ask(link, peer, ping())
        took.append((time.perf_counter() - began) * 1e3)
    took.sort()
    report("sealed query, 1 in flight", f"p50 {took[ONE // 2]:.2f} ms, p99 {took[ONE * 99 // 100]:.2f} ms")

    async def worker() -> None:
        for _ in range(MANY // IN_FLIGHT):
            await ask(link, peer, ping())

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    report(f"sealed query, {IN_FLIGHT} in flight", f"{MANY / (time.perf_counter() - began):.0f} /s")
    await link.close()

    link, peer = await connect("provisioner")
    accepted: list[float] = []
    while len(accepted) < COMMANDS:
        command = messages.Start(
            op=str(uuid.uuid4()), kind="drop_database", args={"name": "is-not-there"}, deadline=time.time() + 30,
        )
        began = time.perf_counter()
        answer = await ask(link, peer, command)
        if isinstance(answer, messages.Accepted):
            accepted.append((time.perf_counter() - began) * 1e3)
        await asyncio.sleep(0.05)
    report("journaled command, sent to accepted", f"p50 {statistics.median(accepted):.1f} ms (n={COMMANDS})")
    await link.close()


def report(what: str, figure: str) -> None:
    sys.stdout.write(f"{what}|{figure}\n")


if __name__ == "__main__":
    if INSIDE in os.environ:
        import uvloop

        uvloop.run(inside())
    else:
        main()
