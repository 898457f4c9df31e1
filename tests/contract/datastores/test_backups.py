"""Backup and restore as any datastore must do them: its driver, its tool, and its real backup image, without a store.

The containers are those that the agent makes, in every respect but the program: the engine's own tool, into a file.
"""

from __future__ import annotations

import asyncio
import importlib
import shlex
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from coffer_guest import restoring
from coffer_guest.firewall import STORAGE_GID
from coffer_shared.backups import BackupTool
from coffer_shared.datastore import Database, NewUser
from contract.datastores.conftest import Run, Running, start

pytestmark = pytest.mark.docker

BACKUP, OTHER = "6f1c2d0e-64a0-4be3-8f0e-0c8f1d7f4a11", "6f1c2d0e-64a0-4be3-8f0e-0c8f1d7f4a12"
PASSWORD = "s3cret word"


@pytest.fixture
def tool(database: Running) -> BackupTool:
    made: BackupTool = importlib.import_module(f"coffer_datastores.{database.spec.name}.tool").TOOL
    return made


@pytest.fixture
async def ready(database: Running) -> AsyncIterator[None]:
    await database.driver.before_backup(database, BACKUP)
    yield
    await database.driver.after_backup(database, BACKUP)


def source(tool: BackupTool, backup: str = BACKUP) -> str:
    return shlex.join(tool.source(backup))


async def test_before_and_after_may_be_repeated_in_any_order(database: Running) -> None:
    await database.driver.after_backup(database, BACKUP)
    for backup in (BACKUP, BACKUP, OTHER):
        await database.driver.before_backup(database, backup)
    for backup in (BACKUP, OTHER, OTHER):
        await database.driver.after_backup(database, backup)


async def test_a_backup_becomes_a_database_again(
    database: Running, tool: BackupTool, in_container: Run, elsewhere: tuple[Path, str, int], word: str, tmp_path: Path
) -> None:
    await database.driver.create_databases(database, [Database(word)])
    await database.driver.create_users(database, [NewUser(word, PASSWORD, databases=(word,))])
    async with database.tenant(word, PASSWORD, word) as tenant:
        await tenant.execute("CREATE TABLE t (x int)")
        await tenant.execute("INSERT INTO t VALUES (1), (2), (3)")

        await database.driver.before_backup(database, BACKUP)
        reads = database.driver.backup_container(database.order, database.backup_image)
        code, words = await in_container(reads, f"{source(tool)} > /job/out/stream")
        await database.driver.after_backup(database, BACKUP)
        assert code == 0, words
        heard = [tool.hear(line) for line in words.splitlines()]
        complaints = [line for line, said in zip(words.splitlines(), heard, strict=True) if said is None]
        assert not complaints, "a line that says nothing to the tool is taken for a complaint"
        positions = [one for one in heard if one is not None and one.position]
        assert bool(positions) is database.client.tells_position
        await tenant.execute("INSERT INTO t VALUES (4)")

    directory, container, port = elsewhere
    target = directory / "data" / "restoring"
    target.parent.mkdir()
    fills = database.driver.restore_container(database.order, database.backup_image, str(target))
    restoring.make_room(str(target), fills.uid, STORAGE_GID)
    code, words = await in_container(fills, f"{shlex.join(tool.unpack(target))} < /job/out/stream")
    assert code == 0, words
    await asyncio.to_thread(tool.check_unpacked, target)
    engine = database.driver.container(database.order)
    await asyncio.to_thread(restoring.hand_over, str(target), engine.uid, engine.gid)
    restoring.take_place(str(target), str(directory / "data" / "engine"))

    restored = await start(database.spec.name, directory, container, port)
    assert word in [found.name for found in await restored.driver.list_databases(restored)]
    assert {user.name: user.databases for user in await restored.driver.list_users(restored)}[word] == (word,)
    async with restored.tenant(word, PASSWORD, word) as tenant:
        assert await tenant.fetchval("SELECT count(*) FROM t") == 3
        await tenant.execute("INSERT INTO t VALUES (5)")
    # and it can be backed up itself
    await restored.driver.before_backup(restored, OTHER)
    again = restored.driver.backup_container(restored.order, restored.backup_image)
    code, words = await in_container(again, f"{source(tool, OTHER)} > /dev/null")
    await restored.driver.after_backup(restored, OTHER)
    assert code == 0, words


async def test_the_image_has_the_tools_and_they_tell_their_versions(
    database: Running, tool: BackupTool, in_container: Run, ready: None
) -> None:
    spec = database.driver.backup_container(database.order, database.backup_image)
    for program in tool.versions():
        code, words = await in_container(spec, f"{shlex.join(program)} >&2")
        assert (code, bool(words)) == (0, True), program


async def test_part_of_a_backup_is_not_taken_for_a_database(
    database: Running, tool: BackupTool, in_container: Run, ready: None, tmp_path: Path
) -> None:
    reads = database.driver.backup_container(database.order, database.backup_image)
    code, words = await in_container(reads, f"{source(tool)} | head -c 1000000 > /job/out/stream")
    assert code == 0, words
    target = tmp_path / "restoring"
    fills = database.driver.restore_container(database.order, database.backup_image, str(target))
    restoring.make_room(str(target), fills.uid, STORAGE_GID)
    code, _ = await in_container(fills, f"{shlex.join(tool.unpack(target))} < /job/out/stream")
    if code == 0:
        with pytest.raises(ValueError, match=r"."):
            tool.check_unpacked(target)
    shutil.rmtree(target)


async def test_without_the_engine_the_source_says_so(
    database: Running, tool: BackupTool, in_container: Run, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    nobody = replace(database.order, port=1, run=str(tmp_path / "run"))
    reads = database.driver.backup_container(nobody, database.backup_image)
    code, words = await in_container(reads, f"{source(tool)} > /dev/null")
    assert code != 0
    assert words


async def test_the_container_cannot_change_what_it_reads(database: Running, in_container: Run, ready: None) -> None:
    reads = database.driver.backup_container(database.order, database.backup_image)
    for _, inside, _ in reads.binds:
        code, _ = await in_container(reads, f"touch {shlex.quote(inside)}/x")
        assert code != 0
    code, words = await in_container(reads, "id -u; id -g; touch /x")
    assert code != 0, words
