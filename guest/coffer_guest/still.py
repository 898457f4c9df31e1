"""A copy of the engine's files as they are at one moment, while its container is held, whatever it is at.

The files are not copied but shared, which takes a fraction of a second however large they are, and no room until one of
the two is written to. A file system that cannot do that is refused. An agent that dies in that moment leaves the engine
held; the next lets it go before it does anything else.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import aiohttp
from aiodocker.exceptions import DockerError

from coffer_guest.containers import Containers
from coffer_guest.programs import run
from coffer_shared import log
from coffer_shared.datastore import EngineError
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Failure

_log = log.get(__name__)

_MOST_SECONDS = 10.0
"""Sessions wait; longer than that, health checks and clients would take the engine for dead."""
_LET_GO_SECONDS = 0.5


async def copy(containers: Containers, source: str, target: str) -> None:
    """EngineError if the file system cannot, or it takes too long; part of a copy may be there then."""
    await asyncio.to_thread(_make_way, Path(target).parent)
    # What is only in memory yet would be written out while the engine is held, so most of it is written before.
    await run("sync", "--file-system", source)
    # Docker holds it even if nobody waits for that any more, and then it must not be let go before.
    holding = asyncio.create_task(containers.hold())
    try:
        await asyncio.shield(holding)
        await share(source, target)
    finally:
        await asyncio.shield(_let_go_after(holding, containers))


async def share(source: str, target: str) -> None:
    """The copy itself, of what nobody writes to. EngineError as above."""
    said = await run("cp", "--archive", "--reflink=always", source, target, limit=_MOST_SECONDS)
    if said.code != 0:
        raise EngineError(Failure.VOLUME, f"the files cannot be copied: {said.err[-500:]}")


async def _let_go_after(holding: asyncio.Task[None], containers: Containers) -> None:
    await asyncio.gather(holding, return_exceptions=True)
    await let_go(containers)


async def let_go(containers: Containers) -> None:
    """If it is held. Does not give up while Docker is silent."""
    while True:
        try:
            await containers.let_go()
        except (GiveUp, DockerError, aiohttp.ClientError, OSError) as error:
            _log.warning("the database is still held", reason=str(error))
            await asyncio.sleep(_LET_GO_SECONDS)
        else:
            return


def _make_way(parent: Path) -> None:
    """Whoever reads the copy passes through."""
    parent.mkdir(exist_ok=True)
    parent.chmod(0o711)


async def discard(directory: str) -> None:
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
