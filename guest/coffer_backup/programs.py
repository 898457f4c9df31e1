"""Programs as children of this one: started, heard, ended and reaped here, so that no exit status is ever guessed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from coffer_backup.errors import GiveUp
from coffer_shared.messages import Failure

PIPE_BYTES = 1024 * 1024
_LAST_LINES = 3
_LINE_CHARACTERS = 300
_READ = 65536


@dataclass(frozen=True, slots=True)
class Program:
    command: tuple[str, ...]
    hear: Callable[[str], bool] = lambda _: False
    """Given each line of standard error; True: understood, and no part of what is said when the program fails."""

    @property
    def name(self) -> str:
        return os.path.basename(self.command[0])  # noqa: PTH119 - a word of a command line


class Child:
    """One running program, in a process group of its own."""

    def __init__(self, program: Program, process: asyncio.subprocess.Process) -> None:
        self._program = program
        self._process = process
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._hearing = asyncio.create_task(self._hear())

    @classmethod
    async def start(cls, program: Program, stdin: int, stdout: int) -> Child:
        process = await _started(program, stdin=stdin, stdout=stdout, stderr=asyncio.subprocess.PIPE)
        return cls(program, process)

    async def ended(self) -> int:
        """Its exit status; negative is a signal."""
        status = await self._process.wait()
        await asyncio.wait({self._hearing})  # whoever gives up waiting does not end the hearing with it
        return status

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def failure(self, status: int) -> str:
        """One sentence about an exit status that is not 0, with the last that the program said."""
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return f"{self._program.name} {how}" + "".join(f"; {line}" for line in self._lines)

    async def _hear(self) -> None:
        stream, begun = self._process.stderr, ""
        assert stream is not None
        while piece := await stream.read(_READ):
            *lines, begun = (begun + piece.decode(errors="replace")).replace("\r", "\n").split("\n")
            begun = begun[:_READ]
            for line in lines:
                self._heard(line)
        self._heard(begun)

    def _heard(self, line: str) -> None:
        line = line.strip()
        if line and not self._program.hear(line):
            self._lines.append(line[:_LINE_CHARACTERS])


@asynccontextmanager
async def joined(
    upper: Program, lower: Program, *, stdin: int = asyncio.subprocess.DEVNULL, stdout: int = asyncio.subprocess.DEVNULL
) -> AsyncIterator[tuple[Child, Child]]:
    """Both running, the upper's output the lower's input, through the kernel only. Neither outlives the context.

    `stdin` and `stdout` stay the caller's to close, whose copies would keep the pipes open.
    """
    children: list[Child] = []
    try:
        with pipe() as (read, write):
            children.append(await Child.start(upper, stdin, write.fd))
            children.append(await Child.start(lower, read.fd, stdout))
        yield children[0], children[1]
    finally:
        for child in children:
            child.kill()
        for child in children:
            await child.ended()


@asynccontextmanager
async def running(program: Program) -> AsyncIterator[Child]:
    """One that reads and writes nothing. It does not outlive the context."""
    child = await Child.start(program, asyncio.subprocess.DEVNULL, asyncio.subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.kill()
        await child.ended()


class End:
    """One end of a pipe, closed once."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@contextmanager
def pipe() -> Iterator[tuple[End, End]]:
    """Both ends of a pipe that holds as much as the kernel allows; closed on leaving."""
    read, write = (End(fd) for fd in os.pipe())
    with suppress(OSError):  # the user has used up what it may; the pipe is smaller then
        fcntl.fcntl(write.fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    try:
        yield read, write
    finally:
        read.close()
        write.close()


async def first_line(command: Sequence[str]) -> str:
    """What a program that only answers says first."""
    program = Program(tuple(command))
    process = await _started(program, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=None)
    answer, _ = await process.communicate()
    if process.returncode:
        raise GiveUp(Failure.INTERNAL, f"{' '.join(command)} ended with status {process.returncode}")
    return answer.decode(errors="replace").partition("\n")[0].strip()[:_LINE_CHARACTERS]


async def _started(program: Program, *, stdin: int, stdout: int, stderr: int | None) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *program.command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, "LC_ALL": "C"},
            process_group=0,
        )
    except OSError as error:
        raise GiveUp(Failure.INTERNAL, f"{program.name} cannot be started: {error.strerror}") from error
