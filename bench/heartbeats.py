"""What a heartbeat costs: simulated guests, sealed messages over 8 TLS connections, a real collector, real servers.

    bench/heartbeats.py [--guests 10000] [--seconds 20] [--rates 1000,5000] [--collectors 1]

Prints, for each rate, the CPU time of collector, NATS server and PostgreSQL for 1,000 heartbeats stored. PostgreSQL
runs without fsync, so its figure says nothing of disks. Everything shares this machine: mind the load average, and
the yardstick, which is the CPU time that opening one envelope takes at that moment.
"""



from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections import Counter
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / name) for name in ("shared", "services", "tests")]

import nats
import psutil  # type: ignore[import-untyped]
from machine import cpu_seconds

from coffer_db import migrate, roles
from coffer_db.catalogue import register
from coffer_db.database import Database
from coffer_provisioner import account
from coffer_provisioner.issuer import service_credentials
from coffer_shared import identity, keyset, subjects
from coffer_shared.bus import tls_context
from coffer_shared.jwt import Template
from coffer_shared.keyset import KeySet, ServiceKey
from coffer_shared.messages import Engine, Heartbeat, VolumeFacts, encode
from coffer_shared.seal import KeyPair, Kind, Peer
from support.nats_server import Keys, NatsServer, free_port

CONNECTIONS = 8
COLLECTOR_KEY = KeyPair.from_private(hashlib.sha256(b"collector").digest())
METRICS = {f"pg_stat_example_{n}": float(n) for n in range(12)}
DATABASE = "bench"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guests", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rates", default="1000,5000")
    parser.add_argument("--collectors", type=int, default=1)
    parser.add_argument("--generate", nargs=2, metavar=("URL", "FOLDER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.generate:
        url, folder = chosen.generate
        asyncio.run(generate(url, folder, chosen.guests))
        return
    with tempfile.TemporaryDirectory(prefix="coffer-bench-") as folder:
        measure(chosen, Path(folder))


def measure(chosen: argparse.Namespace, folder: Path) -> None:
    from support import postgres as support

    cast("Any", account.TEMPLATES["GUESTS"])["bench"] = Template(publish=(subjects.HEARTBEATS,), subscribe=())
    keys = Keys()
    server = NatsServer.start(folder, keys=keys)
    database = support._started()  # noqa: SLF001  the choice of a server is the fixture's own
    processes: list[subprocess.Popen[str]] = []
    try:
        asyncio.run(prepare(database, chosen.guests))
        state = lay(folder, server)
        bench = service_credentials("bench", keys.signing["GUESTS"]["bench"], keys.accounts["GUESTS"].public)
        identity.save(bench, folder / "bench.creds")
        ports = [free_port() for _ in range(chosen.collectors)]
        collectors = [start_collector(server, database, state, port) for port in ports]
        processes += collectors
        generator = subprocess.Popen(
            [sys.executable, __file__, "--guests", str(chosen.guests), "--generate", server.url, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        processes.append(generator)
        assert said(generator) == "ready"
        wait_ready(ports)
        tell(generator, 2000, chosen.guests / 2000)  # every guest once: keys agreed, rows made
        settle(ports, int(said(generator)), Counter())
        watched = {
            "collector": [psutil.Process(p.pid) for p in collectors],
            "nats": [psutil.Process(server.pid)],
            "postgres": postmaster(database.port),
        }
        for rate in (int(text) for text in chosen.rates.split(",")):
            run(generator, ports, watched, rate, chosen)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        server.kill()
        database.stop()


def run(
    generator: subprocess.Popen[str], ports: list[int], watched: dict[str, list[psutil.Process]], rate: int,
    chosen: argparse.Namespace,
) -> None:
    before, spent = counts(ports), {name: cpu(some) for name, some in watched.items()}
    tell(generator, rate, chosen.seconds)
    sent = int(said(generator))
    got = settle(ports, sent, before)
    stored = max(got["stored"], 1)
    each = {name: (cpu(some) - spent[name]) * 1e6 / stored for name, some in watched.items()}
    rss = sum(p.memory_info().rss for p in watched["collector"]) >> 20
    refused = {name: count for name, count in got.items() if count and name not in {"received", "stored", "coalesced"}}
    print(
        f"{rate:6}/s x {chosen.seconds:g} s, {chosen.guests} guests, {chosen.collectors} collector(s): sent {sent}, "
        f"received {got['received']}, stored {got['stored']}, coalesced {got['coalesced']}, refused {refused or 0}; "
        f"CPU per 1,000 stored: collector {each['collector']:.0f} ms, nats {each['nats']:.0f} ms, "
        f"postgres {each['postgres']:.0f} ms; collector RSS {rss} MiB; "
        f"load {os.getloadavg()[0]:.1f}, yardstick {yardstick():.1f} us",
        flush=True,
    )


def yardstick() -> float:
    """CPU time to open one sealed heartbeat here and now: it grows with whatever else the machine does."""
    mine = KeyPair.generate()
    sealed = Peer("client", mine, COLLECTOR_KEY.public).seal(Kind.HEARTBEAT, "s", bytes(512))
    peer = Peer("server", COLLECTOR_KEY, mine.public)
    began = time.process_time()
    for _ in range(5000):
        peer.open("s", sealed)
    return (time.process_time() - began) / 5000 * 1e6


def instance_of(number: int) -> str:
    return str(uuid.UUID(bytes=hashlib.md5(str(number).encode(), usedforsecurity=False).digest()))


def keys_of(number: int) -> KeyPair:
    return KeyPair.from_private(hashlib.sha256(b"guest %d" % number).digest())


async def prepare(server: Any, guests: int) -> None:
    server_connection = await server.admin()
    await server_connection.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
    await server_connection.execute(f"CREATE DATABASE {DATABASE}")
    await server_connection.close()
    settings = server.settings(DATABASE)
    await migrate.upgrade(settings.url())
    from integration.db.rows import CATALOGUE, new_instance

    db = Database(settings)
    async with db.begin() as session:
        await register(session, CATALOGUE)
    await db.close()
    sample = new_instance()
    connection = await server.admin(DATABASE)
    await roles.apply(connection, {"coffer_collector": "bench"})
    ids = [instance_of(n) for n in range(guests)]
    await connection.execute(
        "INSERT INTO instances (id, project_id, user_id, name, flavor_id, datastore_version_id, volume_gib, fs_uuid,"
        " formatted, started_once, region, is_public, failed)"
        " SELECT id, 'p', '', 'bench', $2, $3, 1, '', true, true, 'R', false, false FROM unnest($1::text[]) AS id",
        ids, sample.flavor_id, sample.datastore_version_id,
    )
    await connection.execute(
        "INSERT INTO guests (instance_id, xpub, agent_version) SELECT *, '' FROM unnest($1::text[], $2::bytea[])",
        ids, [keys_of(n).public for n in range(guests)],
    )
    await connection.execute("ANALYZE")
    await connection.close()


def lay(folder: Path, server: NatsServer) -> Path:
    """The collector's folder."""
    state, root, now = folder / "state", bytes(32), time.time()
    state.mkdir()
    provisioner = KeyPair.generate().public.hex()
    trusted = KeySet((ServiceKey("provisioner", provisioner, (), 0, now + 86400),), now)
    (state / "keyset").write_text(keyset.sign(trusted, root))
    (state / "root.pub").write_text(keyset.root_public(root))
    (state / "key").write_text(COLLECTOR_KEY.private.hex())
    (state / "ca.pem").write_text(server.ca_pem)
    identity.save(server.service_creds("status-collector"), state / "guests.creds")
    identity.save(server.service_creds("status-collector", "CTL"), state / "control.creds")
    (folder / "ca.pem").write_text(server.ca_pem)
    return state


def start_collector(server: NatsServer, database: Any, state: Path, port: int) -> subprocess.Popen[str]:
    settings = {
        "DATABASE_HOST": database.host, "DATABASE_PORT": database.port, "DATABASE_NAME": DATABASE,
        "DATABASE_USER": "coffer_collector", "DATABASE_PASSWORD": "bench", "STATE_DIR": state, "NATS_URLS": server.url,
        "METRICS_HOST": "127.0.0.1", "METRICS_PORT": port, "LOG_LEVEL": "error",
    }
    paths = os.pathsep.join([str(ROOT / "shared"), str(ROOT / "services"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", "from coffer_status_collector.main import main; main()"], text=True,
        env={**os.environ, "PYTHONPATH": paths, **{f"COFFER_{name}": str(value) for name, value in settings.items()}},
    )


async def generate(url: str, folder: str, guests: int) -> None:
    """Reads lines "rate seconds", sends that many sealed heartbeats, says how many."""
    beat = Heartbeat(
        at=time.time(), version="1.0.0", engine=Engine.HEALTHY, checked_at=time.time(), engine_version="17.6",
        started_at=time.time(), volume=VolumeFacts(21474836480, 1234567890, str(uuid.uuid4())), metrics=METRICS,
        boot="0123456789abcdef",
    )
    body = encode(beat)
    senders = [
        (subjects.heartbeat(instance_of(n)), Peer("client", keys_of(n), COLLECTOR_KEY.public)) for n in range(guests)
    ]
    credentials = identity.load(Path(folder) / "bench.creds")
    tls = tls_context((Path(folder) / "ca.pem").read_text())
    clients = [
        await nats.connect(url, tls=tls, tls_handshake_first=True, **identity.connect_options(credentials))
        for _ in range(CONNECTIONS)
    ]
    print("ready", flush=True)
    turn = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        rate, seconds = (float(part) for part in line.split())
        began, sent = time.perf_counter(), 0
        while (passed := time.perf_counter() - began) < seconds or sent < int(rate * seconds):
            for _ in range(min(int(rate * min(passed, seconds)) - sent, 200)):
                subject, peer = senders[turn % guests]
                await clients[turn % CONNECTIONS].publish(subject, peer.seal(Kind.HEARTBEAT, subject, body))
                turn += 1
                sent += 1
            await asyncio.sleep(0.004)
        for client in clients:
            await client.flush()
        print(sent, flush=True)


def tell(generator: subprocess.Popen[str], rate: float, seconds: float) -> None:
    assert generator.stdin is not None
    generator.stdin.write(f"{rate} {seconds}\n")
    generator.stdin.flush()


def said(generator: subprocess.Popen[str]) -> str:
    assert generator.stdout is not None
    return generator.stdout.readline().strip()


def wait_ready(ports: list[int]) -> None:
    until = time.monotonic() + 60
    for port in ports:
        while True:
            try:
                get(port, "/readyz")
            except OSError:
                assert time.monotonic() < until, "the collector is not ready"
                time.sleep(0.2)
            else:
                break


def settle(ports: list[int], sent: int, before: Counter[str]) -> Counter[str]:
    """What was counted since, once everything that was sent is accounted for."""
    until = time.monotonic() + 60
    while True:
        got = Counter(counts(ports))
        got.subtract(before)
        done = sum(count for name, count in got.items() if name != "received")
        if got["received"] >= sent and done >= sent:
            return got
        assert time.monotonic() < until, f"of {sent} only {dict(got)} within a minute"
        time.sleep(0.25)


def counts(ports: list[int]) -> Counter[str]:
    total: Counter[str] = Counter()
    for port in ports:
        for line in get(port, "/metrics").splitlines():
            if line.startswith("coffer_collector_heartbeats_total{"):
                total[line.split('"')[1]] += int(float(line.rsplit(" ", 1)[1]))
    return total


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def postmaster(port: int) -> list[psutil.Process]:
    """The server that listens there, if it runs on this machine."""
    found = psutil.process_iter(["name", "cmdline"])
    return [p for p in found if p.info["name"] == "postgres" and f"-p {port}" in " ".join(p.info["cmdline"] or ())]


def cpu(some: list[psutil.Process]) -> float:
    """Of these and their children, also those that have ended meanwhile."""
    total = 0.0
    for process in some:
        ended = process.cpu_times()
        total += cpu_seconds(process.pid) + ended.children_user + ended.children_system
        total += sum(cpu_seconds(child.pid) for child in process.children())
    return total


if __name__ == "__main__":
    main()
