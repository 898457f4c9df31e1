"""Running commands: each operation once, journaled before it is accepted, resumed after a restart.

One at a time changes the machine. One more may run beside it, of a kind that does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from functools import partial

import aiohttp
import msgspec
from aiodocker.exceptions import DockerError

from coffer_guest.clock import Clock
from coffer_guest.commands import Command
from coffer_guest.commands.context import Context
from coffer_guest.journal import Entry, Journal
from coffer_guest.machine import Machine
from coffer_shared import log
from coffer_shared.backups import Grant
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Accepted, Cancel, CommandAnswer, Failure, Refused, Start

_log = log.get(__name__)

_PROGRESS_SECONDS = 0.5
_TEXT_SECONDS = 10.0
"""Between two events that differ in their text only: a long job tells its bytes, and each event is written to disk."""
_ON_REQUEST = "cancelled on request"


class _Lane:
    """One command at a time. What a restart interrupted goes first, so while any of that waits no other is taken."""

    def __init__(self) -> None:
        self.entry: Entry | None = None
        self.backlog: list[Entry] = []
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        """On request."""
        self.settled = False
        """How it ended is known, and only has to be written down."""

    @property
    def entries(self) -> list[Entry]:
        return [*([self.entry] if self.entry else []), *self.backlog]


class Work:
    """Two lanes: commands that change the machine, and those that run beside them (`Command.beside`)."""

    def __init__(
        self,
        journal: Journal,
        machine: Machine,
        clock: Clock,
        commands: Mapping[str, Command],
        changed: Callable[[], None],
        renew_grant: Callable[[str], Awaitable[Grant]],
        is_copied: Callable[[str], Awaitable[bool]],
    ) -> None:
        """`changed` is called when a command begins or ends; the last two get an operation's id."""
        self._journal = journal
        self._machine = machine
        self._clock = clock
        self._commands = commands
        self._changed = changed
        self._renew_grant = renew_grant
        self._is_copied = is_copied
        self._main, self._beside = _Lane(), _Lane()
        self._resuming: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    @property
    def running(self) -> list[str]:
        """Operation ids, those that wait to be resumed too."""
        return [entry.op for lane in self._lanes for entry in lane.entries]

    @property
    def changes_machine(self) -> bool:
        """Whether one of those runs, or waits to be resumed, that change the machine."""
        return bool(self._main.entries)

    async def start(self, command: Start, floor: int) -> CommandAnswer:
        """`floor` is written down with the command: see `coffer_shared.replay`."""
        async with self._starting:
            if await self._journal.state_of(command.op) is not None:
                return Accepted()
            refused = self._refusal(command)
            if refused is not None:
                await self._journal.raise_floor(floor)
                return refused
            entry = await self._journal.add(command, floor)
            if entry is not None:
                self._launch(entry, resumed=False)
            return Accepted()

    async def cancel(self, command: Cancel, floor: int) -> CommandAnswer:
        """Accepted also when it has ended meanwhile: its ending is reported either way."""
        await self._journal.raise_floor(floor)
        for lane in self._lanes:
            if lane.entry is not None and lane.entry.op == command.op and lane.task is not None:
                if not lane.cancelled and not lane.settled:  # it is not disturbed in clearing up
                    lane.cancelled = True
                    lane.task.cancel()
                return Accepted()
            for entry in lane.backlog:
                if entry.op == command.op:
                    await self._drop(lane, entry)
                    return Accepted()
        if await self._journal.state_of(command.op) is None:
            return Refused(code=Failure.NOT_FOUND, text="no such operation here")
        return Accepted()

    async def load(self) -> None:
        """Before any command comes in: what the last run of the agent left unfinished goes first."""
        for entry in await self._journal.running():
            self._lane(entry.kind).backlog.append(entry)

    async def resume(self) -> None:
        """Take that up, one after the other in each lane. Until those that change the machine are done."""
        self._resuming = asyncio.create_task(self._take_up(self._beside))
        await self._take_up(self._main)

    async def close(self) -> None:
        """Interrupt what runs; it stays in the journal as running, and the next start of the agent resumes it."""
        self._closed = True
        tasks = [lane.task for lane in self._lanes if lane.task is not None]
        for task in tasks:
            task.cancel()
        tasks += [self._resuming] if self._resuming is not None else []
        if tasks:
            await asyncio.wait(tasks)

    @property
    def _lanes(self) -> tuple[_Lane, _Lane]:
        return self._main, self._beside

    def _lane(self, kind: str) -> _Lane:
        known = self._commands.get(kind)
        return self._beside if known is not None and known.beside else self._main

    async def _take_up(self, lane: _Lane) -> None:
        while lane.backlog and not self._closed:
            entry = lane.backlog.pop(0)
            _log.info("resuming", operation=entry.op, kind=entry.kind)
            await asyncio.wait({self._launch(entry, resumed=True)})

    async def _drop(self, lane: _Lane, entry: Entry) -> None:
        """One that waits to be resumed will not be. What it began stays behind."""
        lane.backlog.remove(entry)
        self._machine.untidy = True
        await self._journal.finish(entry.op, "cancelled", {}, Failure.CANCELLED, _ON_REQUEST, self._clock.now())

    def _refusal(self, command: Start) -> Refused | None:
        known = self._commands.get(command.kind)
        if self._closed:
            return Refused(code=Failure.BUSY, text="the machine is stopping")
        for entry in self._lane(command.kind).entries:
            return Refused(code=Failure.BUSY, text=f"{entry.kind} runs (operation {entry.op})")
        if known is None:
            return Refused(code=Failure.UNKNOWN_KIND, text=f"this agent does not know {command.kind!r}")
        if command.deadline <= self._clock.now():
            return Refused(code=Failure.DEADLINE, text="the deadline has passed")
        try:
            msgspec.convert(command.args, known.form)
        except msgspec.ValidationError as error:
            return Refused(code=Failure.INVALID, text=str(error))
        return None

    def _launch(self, entry: Entry, *, resumed: bool) -> asyncio.Task[None]:
        lane = self._lane(entry.kind)
        lane.entry = entry
        lane.cancelled = lane.settled = False
        lane.task = asyncio.create_task(self._run(lane, entry, resumed=resumed), name=f"{entry.kind} {entry.op}")
        self._changed()
        return lane.task

    async def _run(self, lane: _Lane, entry: Entry, *, resumed: bool) -> None:
        with log.bound(operation=entry.op, kind=entry.kind, trace=entry.trace):
            try:
                state, result, code, text = await self._outcome(lane, entry, resumed=resumed)
            except asyncio.CancelledError:
                lane.entry = None
                raise
            lane.settled = True
            _log.info("command ended", state=state, code=code, text=text)
            await self._journal.finish(entry.op, state, result, code, text, self._clock.now())
        lane.entry = None
        self._changed()

    async def _outcome(self, lane: _Lane, entry: Entry, *, resumed: bool) -> tuple[str, dict[str, object], str, str]:
        """The terminal state with its result or reason. CancelledError only when the agent itself ends."""
        known = self._commands.get(entry.kind)
        if known is None:
            return "failed", {}, Failure.INTERRUPTED, f"this agent does not know {entry.kind!r}"
        left = asyncio.timeout(max(0.0, entry.deadline - self._clock.now()))
        try:
            async with left, nullcontext() if known.beside else self._machine.busy:
                args: object = msgspec.json.decode(entry.args, type=known.form)
                result = await known.run(self._context(entry, resumed=resumed), args)
                return "done", {} if result is None else msgspec.to_builtins(result), "", ""
        except asyncio.CancelledError:
            if not lane.cancelled:
                raise
            return "cancelled", {}, Failure.CANCELLED, _ON_REQUEST
        except (GiveUp, EngineError) as error:
            return "failed", {}, error.code, error.text
        except (DockerError, aiohttp.ClientError) as error:
            return "failed", {}, Failure.ENGINE, f"docker: {error}"
        except Exception as error:  # noqa: BLE001 - logged below, unless the time limit caused it
            if left.expired():
                return "failed", {}, Failure.DEADLINE, "the deadline passed"
            # A command always ends with a terminal event, also when the fault is in this program.
            _log.exception("command failed")
            return "failed", {}, Failure.INTERNAL, f"{type(error).__name__} in the agent"

    def _context(self, entry: Entry, *, resumed: bool) -> Context:
        last = (0.0, -1, "")

        async def progress(percent: int, text: str) -> None:
            nonlocal last
            at, percent_before, text_before = last
            now = time.monotonic()
            moved = percent != percent_before and (now - at >= _PROGRESS_SECONDS or percent - percent_before >= 5)
            if moved or (text != text_before and now - at >= _TEXT_SECONDS):
                last = (now, percent, text)
                await self._journal.progress(entry.op, percent, text, self._clock.now())

        async def note(text: str) -> None:
            await self._journal.note(entry.op, text)

        return Context(
            machine=self._machine,
            operation=entry.op,
            clock=self._clock,
            progress=progress,
            write_note=note,
            renew_grant=partial(self._renew_grant, entry.op),
            is_copied=partial(self._is_copied, entry.op),
            ending=lambda: self._closed,
            resumed=resumed,
            notes=set(entry.note.split()),
        )
