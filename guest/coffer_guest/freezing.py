"""A file system that stands still, held by a process of its own.

That process freezes it and lets it go again: when it is told to, when its time is over, or when whoever started it is
gone, since the pipe between them then ends. Because one process does both, one after the other, a freeze that takes
long cannot come after its own end. It is never killed here, for the kernel may be about to finish the freeze.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE, Process

from coffer_guest.programs import run
from coffer_shared import log
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

_log = log.get(__name__)

_FROZEN = b"frozen\n"
# Without the trap, the word to someone who is gone would end it between the freeze and the thaw.
_PROGRAM = """
trap '' PIPE
fsfreeze -f "$2" || exit
echo frozen
timeout "$1" cat >/dev/null
fsfreeze -u "$2"
"""
_END_SECONDS = 10.0


class Hold:
    """One freeze. It begins at once; `frozen` waits for it."""

    def __init__(self, directory: str, seconds: float) -> None:
        # A task, since a process that is being started when its starter is cancelled would be killed.
        self._process = asyncio.create_task(_start(directory, seconds))

    async def frozen(self) -> None:
        """GiveUp(volume) with the system's own words. What was written before is on the disk when this returns."""
        try:
            process = await asyncio.shield(self._process)
        except OSError as error:
            raise GiveUp(Failure.VOLUME, f"the volume cannot be held still: {error}") from error
        assert process.stdout is not None
        assert process.stderr is not None
        if await process.stdout.readline() != _FROZEN:
            words = (await process.stderr.read()).decode(errors="replace").strip()
            raise GiveUp(Failure.VOLUME, words or "the volume was let go at once")

    async def end(self) -> None:
        """Have it let go, if it still holds, and wait for it a little. Never raises."""
        try:
            process = await asyncio.shield(self._process)
        except OSError:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            _log.warning("the freeze of the volume still goes on; it is let go as soon as it is made")


async def thaw(directory: str) -> bool:
    """Whether it was frozen until now."""
    try:
        outcome = await run("fsfreeze", "-u", directory)
    except OSError as error:
        _log.warning("the volume cannot be let go", reason=str(error))
        return False
    return outcome.code == 0


async def _start(directory: str, seconds: float) -> Process:
    """In a session of its own: what ends the agent's does not end it."""
    return await asyncio.create_subprocess_exec(
        *("sh", "-c", _PROGRAM, "hold", f"{seconds:g}", directory),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
