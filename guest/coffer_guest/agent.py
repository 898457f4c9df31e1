"""The agent as a whole: what it is made of, how it comes up, how it goes down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

from coffer_guest.clock import Clock
from coffer_guest.commands import COMMANDS, QUERIES
from coffer_guest.copies import Copies
from coffer_guest.enrolment import ensure_enrolled
from coffer_guest.firewall import valid_cidrs
from coffer_guest.grants import Grants
from coffer_guest.journal import Journal
from coffer_guest.keeping import Keeper
from coffer_guest.leftovers import tidy
from coffer_guest.machine import Machine
from coffer_guest.options import Options
from coffer_guest.reception import Reception
from coffer_guest.reporting import Events, Heartbeats
from coffer_guest.scrubbing import scrub_cloud_init
from coffer_guest.state import Home, Identity, State
from coffer_guest.store import Store
from coffer_guest.trust import Trust
from coffer_guest.work import Work
from coffer_shared import log, subjects
from coffer_shared.bus import Backoff, Link, tls_context
from coffer_shared.messages import Desired

_log = log.get(__name__)

_KEEP_UP_SECONDS = 10.0
_STOP_SECONDS = 5.0

MakeMachine: TypeAlias = Callable[[Options, State], Machine]


async def run(options: Options, make_machine: MakeMachine, stop: asyncio.Event, backoff: Backoff) -> None:
    """Until `stop` is set: then the database is stopped cleanly, and this returns."""
    store = await Store.open(Path(options.state_dir) / "agent.db")
    state, journal, clock = State(store), Journal(store), Clock()
    clock.offset = await state.number("clock_offset")
    machine = make_machine(options, state)
    scrubbing: asyncio.Task[None] | None = None
    try:
        if await machine.volume.thaw():
            _log.warning("the volume stood still since an earlier run of the agent; it was let go")
        enrolment = asyncio.create_task(ensure_enrolled(state, Path(options.user_data), clock, backoff=backoff))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({enrolment, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not enrolment.done():
            enrolment.cancel()
            return
        identity, home = enrolment.result()
        agent = Agent(options, state, journal, machine, clock, home, identity, backoff)
        if options.cloud_init:
            scrubbing = asyncio.create_task(_guarded("destroying cloud-init's copies", scrub_cloud_init))
        await agent.run(stop)
    finally:
        if scrubbing is not None:
            scrubbing.cancel()
        await machine.close()
        await store.close()


class Agent:
    def __init__(
        self,
        options: Options,
        state: State,
        journal: Journal,
        machine: Machine,
        clock: Clock,
        home: Home,
        identity: Identity,
        backoff: Backoff,
    ) -> None:
        self._options = options
        self._journal = journal
        self._machine = machine
        machine.monitor.changed = self.changed
        self._clock = clock
        self._home = home
        self._trust = Trust(state, home, identity, clock)
        self._keeper = Keeper(
            state, home, identity, self._trust, clock, self._on_desired, sync_seconds=options.sync_seconds
        )
        self._link = Link(
            home.nats_urls,
            lambda: self._keeper.identity.credentials,
            name=home.instance,
            tls=tls_context(home.ca) if home.ca else None,
            inbox=subjects.guest_inbox(home.instance),
            backoff=backoff,
        )
        grants = Grants(home.instance, self._trust, self._link)
        copies = Copies(home.instance, self._trust, self._link)
        self._work = Work(journal, machine, clock, COMMANDS, self.changed, grants.renew, copies.is_made)
        self._events = Events(home.instance, journal, self._trust)
        self._heartbeats = Heartbeats(
            home.instance, machine, self._trust, clock, lambda: self._work.running, every=options.heartbeat_seconds
        )

    def changed(self) -> None:
        """The engine's state is another, or a command began or ended: worth a heartbeat now."""
        self._heartbeats.beat_soon()

    async def run(self, stop: asyncio.Event) -> None:
        await self._machine.load(self._home.instance)
        await self._work.load()
        await self._machine.keep_storage_open(self._work.running)
        floor = await self._journal.floor()
        reception = Reception(self._trust, self._work, self._machine, self._keeper, QUERIES, self._clock, floor=floor)
        await self._link.subscribe(
            subjects.command(self._home.instance),
            "",
            reception.receive,
            concurrency=16,
            pending_msgs=256,
            pending_bytes=4 << 20,
        )
        self._link.on_up(self._on_up)
        await self._link.start()
        loops = [
            asyncio.create_task(loop, name=name)
            for name, loop in (
                ("machine", self._bring_up_and_keep_up()),
                ("health", self._machine.monitor.run()),
                ("events", self._events.send_all(self._link)),
                ("heartbeats", self._heartbeats.send_all(self._link)),
                ("sync", self._keeper.keep_synced(self._link)),
                ("credentials", self._keeper.keep_fresh(self._link)),
            )
        ]
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({stopping, *loops}, return_when=asyncio.FIRST_COMPLETED)
            for loop in done - {stopping}:
                # None of them ends by itself: whatever this one met, the init starts the agent afresh.
                loop.result()
        finally:
            await self._end(loops, orderly=stop.is_set())

    async def _end(self, loops: list[asyncio.Task[None]], *, orderly: bool) -> None:
        await self._work.close()
        for loop in loops:
            loop.cancel()
        await asyncio.wait(loops, timeout=_STOP_SECONDS)
        if orderly:
            await _guarded("stopping the database", self._machine.stop_for_shutdown)
            await _guarded("the last heartbeat", lambda: self._heartbeats.send(self._link))
        await self._link.close(grace=1.0)

    async def _bring_up_and_keep_up(self) -> None:
        """What was prepared runs again without being asked; what a command left down comes back when none runs."""
        await self._bring_up()
        await self._tidy()
        await self._work.resume()
        while True:
            await asyncio.sleep(_KEEP_UP_SECONDS)
            if self._machine.is_down and not self._work.changes_machine:
                await self._bring_up()
            await self._tidy()

    async def _bring_up(self) -> None:
        try:
            async with self._machine.busy:
                await self._machine.boot()
            self._heartbeats.trouble = ""
        except Exception as error:  # noqa: BLE001 - the agent must live to report it, and tries again
            self._heartbeats.trouble = str(error) or type(error).__name__
            _log.warning("the machine did not come up", reason=self._heartbeats.trouble)
        self.changed()

    async def _tidy(self) -> None:
        await _guarded("tidying up after jobs", lambda: tidy(self._machine, lambda: self._work.running))

    async def _on_up(self) -> None:
        self._journal.pending.set()
        self._keeper.sync_soon()
        self._keeper.look_soon()
        self._heartbeats.beat_soon()

    async def _on_desired(self, desired: Desired, asked: float) -> None:
        if asked < self._machine.access_set_at:
            self._keeper.sync_soon()  # it may be what was wanted before a command changed it
            return
        try:
            allowed = valid_cidrs(desired.allowed_cidrs)
        except ValueError as error:
            _log.warning("desired access refused", reason=str(error))
            return
        await self._machine.allow(allowed)


async def _guarded(what: str, action: Callable[[], Awaitable[None]]) -> None:
    try:
        await action()
    except Exception:  # noqa: BLE001 - what comes after it must go on
        _log.exception("failed", what=what)
