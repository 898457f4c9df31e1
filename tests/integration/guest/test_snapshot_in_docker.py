"""`snapshot` and `adopt` with a real XFS, a real engine under a writer, a real Docker. The volume is a file, and who
copies it stands in for the provisioner. Needs root, for the mounts are this host's.

The copy is mounted when the original is not: no machine ever has both, and XFS takes no two of one UUID.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from coffer_guest.volume import Volume
from coffer_shared.backups import Grant
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Engine
from integration.guest.disk_host import GIB, DiskHost, sh
from integration.guest.host import LISTEN, PASSWORD, USERS, Host, docker

pytestmark = pytest.mark.docker

AGENT = """
import asyncio, sys
from coffer_guest.options import Options
from coffer_guest.volume import Volume

async def main():
    volume = Volume(Options(data_dir=sys.argv[1]))
    await volume.freeze(float(sys.argv[2]))
    print(volume._hold._process.result().pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def no_grant(operation: str) -> Grant:
    raise GiveUp("forbidden", operation)


class Writer:
    """Adds rows one after the other, each a transaction, for as long as the server takes them."""

    def __init__(self, host: Host) -> None:
        self.committed = 0
        self._host = host
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        connection = await asyncpg.connect(
            host=LISTEN, port=self._host.port, user="ann", password=PASSWORD, database="shop", ssl=False, timeout=5
        )
        try:
            while True:
                n = self.committed + 1
                await connection.execute("INSERT INTO log SELECT $1::int, repeat(md5($1::int::text), 20)", n)
                self.committed = n
        finally:
            connection.terminate()

    async def goes_on(self, rows: int = 50) -> None:
        until = self.committed + rows
        async with asyncio.timeout(20):
            while self.committed < until and not self._task.done():
                await asyncio.sleep(0.01)
        assert not self._task.done()

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def bank(hosts: Callable[[], DiskHost]) -> DiskHost:
    """A machine with a database and a table; `copied` is asked in the provisioner's place."""
    made = hosts()
    sh("truncate", "-s", str(GIB), str(made.disk))
    await made.live(no_grant)
    ending = await made.run("prepare", made.order(databases=[{"name": "shop"}], users=USERS))
    assert ending.state == "done", ending
    await made.value("CREATE TABLE log (n int PRIMARY KEY, word text)")
    await made.value("CREATE INDEX ON log (word)")
    return made


class Copying:
    """Copies the disk while it stands still, and sees what the machine is like meanwhile."""

    def __init__(self, source: DiskHost, target: Path, writer: Writer) -> None:
        self.engine: list[Engine] = []
        self.acknowledged = 0
        """Rows that were committed, as the writer knows, when the copy was begun."""
        self.stood = False
        self._source = source
        self._target = target
        self._writer = writer
        self._copy: asyncio.Task[None] | None = None

    async def is_made(self, operation: str) -> bool:
        assert operation
        if self._copy is None:
            self.acknowledged = self._writer.committed
            self._copy = asyncio.create_task(self._run())
        return self._copy.done()

    async def _run(self) -> None:
        await asyncio.to_thread(sh, "cp", "--sparse=always", str(self._source.disk), str(self._target))
        self.engine.append((await self._source.machine.monitor.check()).engine)
        await asyncio.sleep(1)
        self.stood = self._writer.committed <= self.acknowledged + 1


def answer_with(host: Host, is_copied: Callable[[str], Awaitable[bool]]) -> None:
    host.work._is_copied = is_copied


async def test_a_copy_made_under_a_writer_is_adopted_with_all_that_was_committed(
    hosts: Callable[[], DiskHost], bank: DiskHost
) -> None:
    other = hosts()
    backup = str(uuid.uuid4())
    await bank.machine.driver.before_backup(bank.machine, backup)  # type: ignore[attr-defined]
    async with bank.machine.session() as session:
        await session.fetch("SELECT pg_create_physical_replication_slot('theirs', true)")
    (bank.data / "restoring" / "cluster").mkdir(parents=True)
    writer = Writer(bank)
    await writer.goes_on()
    copying = Copying(bank, other.disk, writer)
    answer_with(bank, copying.is_made)
    ending = await bank.run("snapshot", {"seconds": 60})
    assert ending.state == "done", ending
    assert 0 < ending.result["used_bytes"] < GIB
    assert copying.stood, "it wrote while the volume was copied"
    assert copying.engine == [Engine.HEALTHY]
    await writer.goes_on()
    await writer.stop()
    assert await bank.value("SELECT count(*) FROM log") >= writer.committed
    total = (await bank.machine.volume.facts()).total_bytes
    await bank.die()
    del bank.work
    await bank.switch_off()

    sh("truncate", "-s", str(2 * GIB), str(other.disk))
    other.fs_uuid = bank.fs_uuid
    await other.live(no_grant)
    order = other.order(format=False, volume_bytes=2 * GIB, databases=[{"name": "new"}])
    ending = await other.run("adopt", order)
    assert ending.state == "done", ending
    found = await other.value("SELECT ARRAY[count(*), min(n), max(n)] FROM log")
    assert found[1:] == [1, found[0]], "rows without a gap"
    assert copying.acknowledged <= found[0] <= copying.acknowledged + 1
    assert await other.held() == ["theirs"]
    assert not (other.data / "restoring").exists()
    assert (await other.machine.volume.facts()).total_bytes > total + GIB // 2
    check_all(other)
    # it is a machine like any other: it comes up by itself, and can be copied in its turn
    await other.die()
    await other.live(no_grant, lambda _: asyncio.sleep(0, result=True))
    await other.machine.wait_healthy()
    again = await other.run("snapshot", {"seconds": 60})
    assert again.state == "done", again


def check_all(host: DiskHost) -> None:
    """Every index against its table, and every page against its checksum."""
    arguments = ("--all", "--install-missing", "--heapallindexed", "-p", str(host.port), "-U", "postgres")
    docker("exec", "-u", "999", host.container, "pg_amcheck", "-h", "/var/run/postgresql", *arguments)
    docker("stop", "-t", "60", host.container)
    checksums = ("--entrypoint", "/usr/lib/postgresql/17/bin/pg_checksums", "coffer/postgres:17", "--check")
    said = docker("run", "--rm", "--network", "none", "-v", f"{host.data}:/v", *checksums, "-D", "/v/engine/cluster")
    assert "Bad checksums:  0" in said
    docker("start", host.container)


async def test_a_gap_is_found_and_no_time_is_overrun(bank: DiskHost) -> None:
    writer = Writer(bank)
    await writer.goes_on()

    async def opened(operation: str) -> bool:
        await asyncio.to_thread(sh, "fsfreeze", "-u", str(bank.data))
        return bool(operation)

    answer_with(bank, opened)
    ending = await bank.run("snapshot", {"seconds": 60})
    assert (ending.code, ending.text) == ("volume", "the volume did not stand still until it was copied")
    await writer.goes_on()

    answer_with(bank, lambda _: asyncio.sleep(0, result=False))
    ending = await bank.run("snapshot", {"seconds": 1})
    assert (ending.code, ending.text) == ("volume", "the volume was not copied within 1 s")
    await writer.goes_on()
    await writer.stop()


# --- the agent dies ---


@pytest.fixture
async def disk(hosts: Callable[[], DiskHost]) -> DiskHost:
    """Mounted, without a database."""
    made = hosts()
    sh("truncate", "-s", str(GIB), str(made.disk))
    await made.mount()
    return made


@pytest.fixture
def agents() -> Iterator[list[subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []
    yield made
    for agent in made:
        agent.kill()
        agent.wait()


def frozen_by(disk: DiskHost, seconds: float) -> tuple[subprocess.Popen[str], int]:
    """An agent-like process, and the process that holds the volume for it."""
    arguments = (sys.executable, "-c", AGENT, str(disk.data), str(seconds))
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


async def is_written(disk: DiskHost, *, within: float) -> bool:
    """Whether a file can be made. If not, that is left to wait, as anybody's writing does."""
    program = await asyncio.create_subprocess_exec("touch", str(disk.data / secrets.token_hex(4)))
    try:
        async with asyncio.timeout(within):
            return await program.wait() == 0
    except TimeoutError:
        return False


async def test_an_agent_that_is_killed_does_not_leave_it_frozen(
    disk: DiskHost, agents: list[subprocess.Popen[str]]
) -> None:
    agent, _ = frozen_by(disk, 60)
    agents.append(agent)
    assert not await is_written(disk, within=0.5)
    agent.send_signal(signal.SIGKILL)
    assert await is_written(disk, within=10)


async def test_an_agent_that_hangs_does_not_leave_it_frozen(
    disk: DiskHost, agents: list[subprocess.Popen[str]]
) -> None:
    agent, _ = frozen_by(disk, 2)
    agents.append(agent)
    agent.send_signal(signal.SIGSTOP)
    assert not await is_written(disk, within=0.5)
    assert await is_written(disk, within=10)


async def test_what_an_agent_and_its_holder_left_frozen_the_next_agent_lets_go(
    disk: DiskHost, agents: list[subprocess.Popen[str]]
) -> None:
    agent, holder = frozen_by(disk, 60)
    agents.append(agent)
    os.killpg(holder, signal.SIGKILL)
    agent.send_signal(signal.SIGKILL)
    assert not await is_written(disk, within=1)
    following: Any = Volume(disk.options)
    assert await following.thaw() is True
    assert await is_written(disk, within=10)
    assert await following.thaw() is False
