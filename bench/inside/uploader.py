"""A bare uploader to compare with: standard input in segments of 32 MiB, two in flight, MD5 as ETag. No retry, no seal.

    uploader.py < stream      the grant is in /job/grant.json
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from yarl import URL

SEGMENT = 32 << 20
PIECE = 256 << 10


def read() -> memoryview:
    buffer = memoryview(bytearray(SEGMENT))
    at = 0
    while at < SEGMENT and (got := os.readv(0, [buffer[at:]])):
        at += got
    return buffer[:at]


async def pieces(data: memoryview) -> AsyncIterator[memoryview]:
    for at in range(0, len(data), PIECE):
        yield data[at : at + PIECE]


async def main(grant: dict[str, str]) -> None:
    turns = asyncio.Semaphore(2)
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:

        async def put(number: int, data: memoryview) -> None:
            md5 = await loop.run_in_executor(None, lambda: hashlib.md5(data, usedforsecurity=False).hexdigest())
            url = URL(f"{grant['url']}bare/{number:08d}?{grant['query']}", encoded=True)
            headers = {"Content-Length": str(len(data)), "ETag": md5}
            async with session.put(url, data=pieces(data), headers=headers) as answer:
                answer.raise_for_status()
            turns.release()

        number = 0
        while True:
            await turns.acquire()
            data = await loop.run_in_executor(None, read)
            if not data:
                break
            group.create_task(put(number, data))
            number += 1


asyncio.run(main(json.loads(Path("/job/grant.json").read_text())))
