"""Running commands: one at a time, each operation once, journaled before it is accepted, resumed after a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import aiohttp
import msgspec
from aiodocker.exceptions import DockerError

from coffer_guest.clock import Clock
from coffer_guest.commands import Command
from coffer_guest.commands.context import Context
from coffer_guest.journal import Entry, Journal
from coffer_guest.machine import Machine
from coffer_shared import log
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Accepted, Cancel, CommandAnswer, Failure, Refused, Start

_log = log.get(__name__)

_PROGRESS_SECONDS = 0.5
_ON_REQUEST = "cancelled on request"


class Work:
    def __init__(
        self,
        journal: Journal,
        machine: Machine,
        clock: Clock,
        commands: Mapping[str, Command],
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called when a command begins or ends."""
        self._journal = journal
        self._machine = machine
        self._clock = clock
        self._commands = commands
        self._changed = changed
        self._entry: Entry | None = None
        self._backlog: list[Entry] = []
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        self._starting = asyncio.Lock()
        self._closed = False

    @property
    def running(self) -> list[str]:
        """Operation ids, those that wait to be resumed too."""
        return [entry.op for entry in ([self._entry] if self._entry else []) + self._backlog]

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
        if self._entry is not None and self._entry.op == command.op and self._task is not None:
            self._cancelled = True
            self._task.cancel()
            return Accepted()
        for entry in self._backlog:
            if entry.op == command.op:
                self._backlog.remove(entry)
                await self._journal.finish(entry.op, "cancelled", {}, Failure.CANCELLED, _ON_REQUEST, self._clock.now())
                return Accepted()
        if await self._journal.state_of(command.op) is None:
            return Refused(code=Failure.NOT_FOUND, text="no such operation here")
        return Accepted()

    async def load(self) -> None:
        """Before any command comes in: what the last run of the agent left unfinished goes first."""
        self._backlog = await self._journal.running()

    async def resume(self) -> None:
        """Take that up, one after the other."""
        while self._backlog and not self._closed:
            entry = self._backlog.pop(0)
            _log.info("resuming", operation=entry.op, kind=entry.kind)
            self._launch(entry, resumed=True)
            if self._task is not None:
                await asyncio.wait({self._task})

    async def close(self) -> None:
        """Interrupt what runs; it stays in the journal as running, and the next start of the agent resumes it."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def _refusal(self, command: Start) -> Refused | None:
        known = self._commands.get(command.kind)
        if self._closed:
            return Refused(code=Failure.BUSY, text="the machine is stopping")
        for entry in ([self._entry] if self._entry else []) + self._backlog:
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

    def _launch(self, entry: Entry, *, resumed: bool) -> None:
        self._entry = entry
        self._cancelled = False
        self._task = asyncio.create_task(self._run(entry, resumed=resumed), name=f"{entry.kind} {entry.op}")
        self._changed()

    async def _run(self, entry: Entry, *, resumed: bool) -> None:
        with log.bound(operation=entry.op, kind=entry.kind, trace=entry.trace):
            try:
                state, result, code, text = await self._outcome(entry, resumed=resumed)
            except asyncio.CancelledError:
                self._entry = None
                raise
            _log.info("command ended", state=state, code=code, text=text)
            await self._journal.finish(entry.op, state, result, code, text, self._clock.now())
        self._entry = None
        self._changed()

    async def _outcome(self, entry: Entry, *, resumed: bool) -> tuple[str, dict[str, object], str, str]:
        """The terminal state with its result or reason. CancelledError only when the agent itself ends."""
        known = self._commands.get(entry.kind)
        if known is None:
            return "failed", {}, Failure.INTERRUPTED, f"this agent does not know {entry.kind!r}"
        left = asyncio.timeout(max(0.0, entry.deadline - self._clock.now()))
        try:
            async with left, self._machine.busy:
                args: object = msgspec.json.decode(entry.args, type=known.form)
                result = await known.run(self._context(entry, resumed=resumed), args)
                return "done", {} if result is None else msgspec.to_builtins(result), "", ""
        except asyncio.CancelledError:
            if not self._cancelled:
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
        last = (0.0, -1)

        async def progress(percent: int, text: str) -> None:
            nonlocal last
            at, before = last
            now = time.monotonic()
            if percent != before and (now - at >= _PROGRESS_SECONDS or percent - before >= 5):
                last = (now, percent)
                await self._journal.progress(entry.op, percent, text, self._clock.now())

        async def note(text: str) -> None:
            await self._journal.note(entry.op, text)

        return Context(self._machine, progress, note, resumed=resumed, notes=set(entry.note.split()))
