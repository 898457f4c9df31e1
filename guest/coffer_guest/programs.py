"""Running other programs, with a time limit."""

from __future__ import annotations

import asyncio
from typing import NamedTuple


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


async def run(*argv: str, stdin: str = "", limit: float = 30.0) -> Outcome:
    """Code 127 if there is no such program, 124 if it did not end in time."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError:
        return Outcome(127, "", f"{argv[0]} is not installed")
    try:
        async with asyncio.timeout(limit):
            out, err = await process.communicate(stdin.encode())
    except TimeoutError:
        return Outcome(124, "", f"{argv[0]} did not end within {limit:g} s")
    finally:
        if process.returncode is None:
            process.kill()
    return Outcome(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace").strip())
