"""`coffer-status-collector`: takes heartbeats and events from guests, stores them, shows them to Prometheus.

Any number of replicas may run: NATS gives each message to one of them, and the database orders what they write.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import uvloop

from coffer_db import operations
from coffer_db.database import Database, DatabaseSettings
from coffer_db.guest_events import GuestEvent, note_events
from coffer_db.observe import Check, Levels, Observer, Tallies
from coffer_shared import identity, keyset, log, settings, subjects
from coffer_shared.bus import Link, tls_context
from coffer_shared.errors import GiveUp, Unavailable
from coffer_shared.lifetime import until_signalled
from coffer_shared.seal import KeyPair
from coffer_shared.wake import RECEIVER, Waker
from coffer_status_collector.events import Events
from coffer_status_collector.heartbeats import Heartbeats
from coffer_status_collector.installation_metrics import InstallationMetrics
from coffer_status_collector.instance_metrics import InstanceMetrics
from coffer_status_collector.operation_metrics import OperationMetrics
from coffer_status_collector.peers import Peers, StoredKeys
from coffer_status_collector.store import Beat, OwnConnection, Turn, Written, read_engines, write_beats, write_news
from coffer_status_collector.wakes import Wakes
from coffer_status_collector.watch import Watch

NAME = "status-collector"
_log = log.get(__name__)


class CollectorSettings(DatabaseSettings, frozen=True, kw_only=True):
    state_dir: str
    """Holds ca.pem, key, keyset, root.pub, guests.creds and control.creds."""
    nats_urls: tuple[str, ...]
    heartbeat_seconds: float = 10.0
    """How often agents send; an instance is silent after three of these."""
    lost_seconds: float = 90.0
    metrics_host: str = "0.0.0.0"
    metrics_port: int = 9101
    log_level: str = "info"


def main() -> None:
    chosen = settings.load(CollectorSettings)
    log.configure(NAME, chosen.log_level)
    uvloop.run(serve(chosen))


async def serve(chosen: CollectorSettings) -> None:
    async with running(chosen):
        name = await until_signalled()
        _log.info("stopping", signal=name)


@contextlib.asynccontextmanager
async def running(chosen: CollectorSettings) -> AsyncIterator[Collector]:
    collector = Collector(chosen)
    await collector.start()
    try:
        async with asyncio.TaskGroup() as tasks:
            work = tasks.create_task(collector.run())
            yield collector
            work.cancel()
    finally:
        await collector.stop()


class Collector:
    """One collector, put together. `start`, `run` until cancelled, `stop`."""

    def __init__(self, chosen: CollectorSettings) -> None:
        state = Path(chosen.state_dir)
        mine = KeyPair.from_private(bytes.fromhex((state / "key").read_text().strip()))
        self._db = Database(chosen, name=f"coffer-{NAME}")
        self._reading, self._writing, self._urgent, self.watch_connection = (OwnConnection(self._db) for _ in range(4))
        self.links = _links(chosen, state)
        self._since = time.monotonic()
        self._patience = 3 * chosen.heartbeat_seconds
        self._settled = {"heartbeats": self._since}
        waker = Waker(self.links["control"], mine, _provisioner_key(state))
        self.peers = Peers(mine, StoredKeys(self._reading))
        self._wakes = Wakes(self._mark_due, waker.wake)
        self.heartbeats = Heartbeats(self.peers, self._write, self._write_urgent, self._turned)
        self.events = Events(self.peers, self._note, self._existing, self._wakes)
        self.watch = Watch(
            self.watch_connection, interval=chosen.heartbeat_seconds, lost_after=chosen.lost_seconds,
            trouble=self._trouble,
        )
        shown = InstanceMetrics(self._reading, OperationMetrics(self._reading), InstallationMetrics(self._reading))
        self.observer = Observer(
            NAME, host=chosen.metrics_host, port=chosen.metrics_port,
            checks={"database": self._db.ready} | {name: _up(link) for name, link in self.links.items()},
            collectors=self._collectors(), routes={"/metrics/instances": shown.handle},
        )

    @property
    def statements(self) -> int:
        """Sent through the pool: what events cost, and not what heartbeats do."""
        return self._db.statements

    async def start(self) -> None:
        await self.observer.start()
        await self._load()
        await self.links["heartbeats"].subscribe_fast(subjects.HEARTBEATS, "hb", self.heartbeats.take)
        await self.links["events"].subscribe_fast(subjects.EVENTS, "ev", self.events.take)
        self.links["heartbeats"].on_up(self._on_up)
        for link in self.links.values():
            await link.start()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for part in (self.peers, self.heartbeats, self.events, self._wakes, self.watch):
                tasks.create_task(part.run(), name=type(part).__name__)

    async def stop(self) -> None:
        """Take no more, write what was taken, answer what was stored."""
        await self.links["heartbeats"].close()
        for part in (self.events, self.heartbeats):
            try:
                await part.flush()
            except Unavailable as error:
                _log.warning("ended with unwritten messages", reason=str(error))
        for link in self.links.values():
            await link.close()
        await self.observer.stop()
        for connection in (self._reading, self._writing, self._urgent, self.watch_connection):
            await connection.close()
        await self._db.close()

    async def _load(self) -> None:
        """What is known of guests; until the database answers there is nothing else to do."""
        pause = 0.5
        while True:
            try:
                await self.peers.load()
                self.heartbeats.remember(await read_engines(self._reading))
            except Unavailable as error:
                _log.warning("waiting for the database", reason=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 10.0)
            else:
                return

    async def _on_up(self) -> None:
        self._settled["heartbeats"] = time.monotonic()

    def _trouble(self) -> str:
        if not self.links["heartbeats"].connected:
            return "no connection to NATS"
        if self.heartbeats.failing:
            return "heartbeats cannot be stored"
        if time.monotonic() < self._settled["heartbeats"] + self._patience:
            return "just connected"
        return ""

    def _turned(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            if turn.operation is not None:
                self._wakes.due(turn.instance, turn.operation)

    async def _write(self, beats: Sequence[Beat]) -> Written:
        return await write_beats(self._writing, beats, asyncio.get_running_loop().time())

    async def _write_urgent(self, beats: Sequence[Beat]) -> Written:
        return await write_news(self._urgent, beats, asyncio.get_running_loop().time())

    async def _note(self, events: Sequence[GuestEvent]) -> set[tuple[str, int]]:
        return await note_events(self._db, events)

    async def _existing(self, ids: Sequence[str]) -> set[str]:
        rows = await self._reading.fetch("SELECT id FROM operations WHERE id = ANY($1::text[])", list(ids))
        return {row[0] for row in rows}

    async def _mark_due(self, operation: str) -> None:
        await operations.wake(self._db, operation)

    def _collectors(self) -> tuple[Tallies | Levels, ...]:
        heartbeats, events, watch = self.heartbeats, self.events, self.watch
        return (
            Tallies("coffer_collector_heartbeats", "Heartbeats by what became of them", ("outcome",),
                    lambda: _by(heartbeats.counts)),
            Tallies("coffer_collector_events", "Events by what became of them", ("outcome",),
                    lambda: _by(events.counts)),
            Tallies("coffer_nats", "What happened on the connections to NATS", ("link", "what"), self._link_counts),
            Tallies("coffer_collector_key_queries", "Queries for keys of single guests", (),
                    lambda: {(): self.peers.queries}),
            Levels("coffer_collector_waiting", "Messages taken and not yet written", ("what",),
                   lambda: {("heartbeats",): heartbeats.waiting, ("events",): events.waiting}),
            Levels("coffer_collector_guests", "Guests whose keys are known", (), lambda: {(): len(self.peers)}),
            Levels("coffer_collector_flush_seconds", "Time the last batches of heartbeats took to write", (),
                   lambda: {(): heartbeats.flush_seconds}),
            Levels("coffer_instances", "Instances by hearing, from the collector that watches", ("hearing",),
                   watch.levels),
            Levels("coffer_mass_silence", "Whether many instances are silent together", (), watch.mass),
        )

    def _link_counts(self) -> Mapping[tuple[str, ...], float]:
        return {(name, what): n for name, link in self.links.items() for what, n in link.counters.items()}


def _links(chosen: CollectorSettings, state: Path) -> dict[str, Link]:
    """Heartbeats and events on separate connections, so that a backlog of one does not delay the other."""
    tls = tls_context((state / "ca.pem").read_text())

    def link(name: str, file: str, *, gather: bool = False) -> Link:
        return Link(
            chosen.nats_urls, lambda: identity.load(state / file), name=f"{NAME} {name}", tls=tls, gather=gather,
        )

    return {
        "heartbeats": link("heartbeats", "guests.creds", gather=True),
        "events": link("events", "guests.creds"),
        "control": link("control", "control.creds"),
    }


def _provisioner_key(state: Path) -> bytes:
    trusted = keyset.verify((state / "keyset").read_text().strip(), (state / "root.pub").read_text().strip())
    key = trusted.of(RECEIVER, time.time())
    if key is None:
        raise GiveUp("keyset", "the key set has no valid key of the provisioner")
    return key.raw


def _by(counts: Mapping[str, int]) -> Mapping[tuple[str, ...], float]:
    return {(name,): count for name, count in counts.items()}


def _up(link: Link) -> Check:
    async def check() -> bool:
        return link.connected

    return check
