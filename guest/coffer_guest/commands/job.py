"""Running a backup or restore container for a command: its job, its grant, its progress, its end.

The container outlives the agent. The agent's next life takes it over again, by its name and its job directory; when
the machine restarts, the one has ended and the other is gone. However the command ends, it leaves nothing of them.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import msgspec
from aiodocker.exceptions import DockerError

from coffer_guest.commands.context import Context, to_the_end
from coffer_guest.container import Seen
from coffer_guest.grants import Lease
from coffer_guest.oneshot import STOP_SECONDS
from coffer_shared import log
from coffer_shared.backups import Grant, Job, Outcome
from coffer_shared.datastore import ContainerSpec
from coffer_shared.errors import GiveUp, TryAgain
from coffer_shared.messages import Failure

_log = log.get(__name__)

_POLL_SECONDS = 0.5
_DOCKER_SECONDS = 60.0
_CLEAR_SECONDS = 30.0
_TEXT = 1000
_MB = 1_000_000
_BEGUN = "begun"
"""From here on the container may have done something."""
_OUTCOME = "outcome:"
_KILLED = 137


@dataclass(frozen=True, slots=True)
class Errand:
    spec: ContainerSpec
    job: Job
    grant: Grant
    percents: tuple[int, int]
    """Of the command's progress, from the container's start to its end."""
    before: Callable[[], Awaitable[None]]
    """Awaited before the container is made, not when it is taken over. The image is here when it returns."""
    after: Callable[[], Awaitable[None]]
    """Awaited when there is no container any more, however it ended. Raises nothing."""
    repeatable: bool
    """Whether it may be begun again when its container was lost."""


async def run(context: Context, errand: Errand) -> Outcome:
    """The outcome of a job that was done. GiveUp with the program's own code and words if it was not."""
    running = _Running(context, errand)
    try:
        outcome = await running.outcome()
    finally:
        if not context.ending():
            await to_the_end(running.clear())
    if outcome.code:
        known = outcome.code in set(Failure)
        raise GiveUp(outcome.code if known else Failure.ENGINE, outcome.text[:_TEXT])
    return outcome


def has_begun(context: Context) -> bool:
    """In this life of the agent or in a former one."""
    return _BEGUN in context.notes


class _Running:
    def __init__(self, context: Context, errand: Errand) -> None:
        self._context = context
        self._machine = context.machine
        self._errand = errand
        self._directory = self._machine.jobs.of(context.operation)
        self._container = self._machine.containers.one_shot(errand.job.action, context.operation)
        self._lease = Lease(errand.grant, context.clock.now())

    async def outcome(self) -> Outcome:
        """Written down as soon as it is known: what a crash of the agent does then cannot change it any more."""
        known = _noted(self._context.notes)
        if known is not None:
            return known
        if not await self._take_over():
            await self._begin()
        found = await self._watch()
        await self._context.note(_OUTCOME + base64.urlsafe_b64encode(msgspec.json.encode(found)).decode())
        return found

    async def clear(self) -> None:
        """What cannot be cleared up now is left for `leftovers`."""
        try:
            async with asyncio.timeout(_CLEAR_SECONDS):
                with suppress(GiveUp):  # removing it kills it
                    await self._container.stop(STOP_SECONDS)
                await self._container.remove()
        except (GiveUp, DockerError, aiohttp.ClientError, OSError) as error:
            self._machine.untidy = True
            _log.warning("a container stays for now", role=self._errand.job.action, reason=str(error))
        await self._directory.remove()
        try:
            await self._machine.close_storage(self._context.operation)
        except (GiveUp, OSError) as error:
            _log.warning("the way to the object store stays open for now", reason=str(error))
        await self._errand.after()

    async def _take_over(self) -> bool:
        """Whether there is a container that a former life of the agent started."""
        if not has_begun(self._context):
            return False
        await self._machine.containers.ready(_DOCKER_SECONDS)
        seen, grant = await self._container.look(), await self._directory.grant()
        if await self._directory.exists() and grant is not None and (seen.exists or await self._directory.outcome()):
            self._lease = Lease(grant, self._context.clock.now())
            await self._machine.open_storage(self._context.operation, grant)
            if seen.exists and not seen.running and not seen.started_at:
                await self._container.start()
            return True
        if not self._errand.repeatable:
            raise GiveUp(Failure.INTERRUPTED, f"the machine restarted, and the {self._errand.job.action} with it")
        return False

    async def _begin(self) -> None:
        errand, machine = self._errand, self._machine
        await machine.containers.ready(_DOCKER_SECONDS)
        await self._container.remove()
        await errand.before()
        await self._keep_grant()
        await to_the_end(self._directory.make(errand.job, self._lease.grant, errand.spec.uid))
        await machine.open_storage(self._context.operation, self._lease.grant)
        await self._container.make(errand.spec, self._directory.path)
        await self._context.note(_BEGUN)
        await self._container.start()

    async def _watch(self) -> Outcome:
        while True:
            seen = await self._look()
            if seen is not None and not seen.running:
                return await self._ended(seen)
            await self._tell()
            if await self._keep_grant():
                await self._machine.open_storage(self._context.operation, self._lease.grant)
                await to_the_end(self._directory.put_grant(self._lease.grant))
            await asyncio.sleep(_POLL_SECONDS)

    async def _look(self) -> Seen | None:
        """None while Docker does not answer: the container goes on without it."""
        try:
            return await self._container.look()
        except (DockerError, aiohttp.ClientError, OSError) as error:
            _log.warning("docker does not answer", reason=str(error))
            return None

    async def _ended(self, seen: Seen) -> Outcome:
        what = f"the {self._errand.job.action} program"
        outcome = await self._directory.outcome()
        if outcome is not None and (outcome.code or not seen.exit_code):
            return outcome
        if not seen.exists:
            return Outcome(Failure.INTERRUPTED, f"{what} was removed")
        if seen.out_of_memory:
            return Outcome(Failure.ENGINE, f"{what} ran out of memory")
        if seen.exit_code == _KILLED:
            return Outcome(Failure.INTERRUPTED, f"{what} was killed")
        return Outcome(Failure.ENGINE, f"{what} ended (exit code {seen.exit_code}) and did not say how it went")

    async def _tell(self) -> None:
        progress = await self._directory.progress()
        if progress is None:
            return
        low, high = self._errand.percents
        done, total = progress.done_bytes, progress.total_bytes
        part = min(1.0, done / total) if total > 0 and done > 0 else 0.0
        size = f"{done // _MB} of {total // _MB} MB" if total else f"{done // _MB} MB"
        text = f"{progress.text[:_TEXT] or self._errand.job.action}: {size}"
        await self._context.progress(low + int((high - low) * part), text)

    async def _keep_grant(self) -> bool:
        """Whether there is another one. GiveUp when the control plane wants this to end."""
        clock = self._context.clock
        if not self._lease.is_due(clock.now()):
            return False
        try:
            grant = await self._context.renew_grant()
        except TryAgain as error:
            self._lease.put_off(clock.now())
            _log.warning("grant not renewed", reason=str(error))
            return False
        self._lease = Lease(grant, clock.now(), renewed=True)
        return True


def _noted(notes: set[str]) -> Outcome | None:
    for word in notes:
        if word.startswith(_OUTCOME):
            return msgspec.json.decode(base64.urlsafe_b64decode(word.removeprefix(_OUTCOME)), type=Outcome)
    return None
