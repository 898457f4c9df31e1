"""A real PostgreSQL for tests, as a pytest plugin: fixtures `postgres` (the server), `database_url` and `db`.

Which one: the server at COFFER_TEST_POSTGRES (postgresql://admin:password@host:port) if that is set; else a local
`postgres` binary, the fastest; else a container of the stack's own image. Each session has a database of its own, with
the migrations applied, and its tables are emptied after each test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import asyncpg
import pytest

from coffer_db import migrate
from coffer_db.database import Database, DatabaseSettings

IMAGE = "coffer/postgres:17"
WITHIN = 30.0
T = TypeVar("T")

_FAST = {
    "fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "shared_buffers": "32MB",
    "max_connections": "100",
}


class Server:
    """A running server and how to reach it as its superuser."""

    def __init__(self, host: str, port: int, user: str, password: str) -> None:
        self.host, self.port, self.user, self.password = host, port, user, password

    def settings(self, database: str, user: str | None = None, password: str | None = None) -> DatabaseSettings:
        return DatabaseSettings(
            database_host=self.host, database_port=self.port, database_name=database,
            database_user=user or self.user, database_password=password or self.password,
        )

    async def admin(self, database: str = "postgres") -> asyncpg.Connection[Any]:
        return await asyncpg.connect(
            host=self.host, port=self.port, user=self.user, password=self.password, database=database, timeout=5,
        )

    def run(self, sql: str, database: str = "postgres") -> None:
        async def execute() -> None:
            connection = await self.admin(database)
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        in_thread(execute())

    def restart(self) -> None:
        """End every connection. A server that is not ours to restart keeps running."""
        self.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")

    def wait(self) -> None:
        until = time.monotonic() + WITHIN
        while True:
            try:
                self.run("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Nothing to stop here."""


class LocalServer(Server):
    """A `postgres` of this machine in a temporary directory. It ends with the thread that started it, however that
    ends: start and restart it from the main one."""

    def __init__(self, bindir: Path) -> None:
        super().__init__("127.0.0.1", _free_port(), "postgres", secrets.token_hex(16))
        self._bin = bindir
        self._dir = Path(tempfile.mkdtemp(prefix="coffer-pg-"))
        self._as: list[str] = []
        if os.geteuid() == 0:
            owner = _somebody()
            os.chown(self._dir, owner.pw_uid, owner.pw_gid)
            self._as = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        self._initdb()
        self._process = self._start()

    def restart(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(WITHIN)
        except subprocess.TimeoutExpired:
            # it waits for a session whose client is stopped, perhaps by this very call; what was committed stays
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(WITHIN)
        self._process = self._start()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(WITHIN)
        shutil.rmtree(self._dir, ignore_errors=True)

    def _initdb(self) -> None:
        word = self._dir / "password"
        word.write_text(self.password)
        if os.geteuid() == 0:
            os.chown(word, self._dir.stat().st_uid, -1)
        subprocess.run(
            [*self._command(), str(self._bin / "initdb"), "-D", str(self._dir / "data"), "-U", self.user,
             "--auth=scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8", f"--pwfile={word}"],
            check=True, stdout=subprocess.DEVNULL, cwd="/",
        )
        word.unlink()

    def _start(self) -> subprocess.Popen[bytes]:
        settings = _FAST | {"listen_addresses": "127.0.0.1", "unix_socket_directories": ""}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._dir / "log").open("ab") as out:
            process = subprocess.Popen(
                [*self._command(), str(self._bin / "postgres"), "-D", str(self._dir / "data"), "-p", str(self.port),
                 *options],
                stdout=out, stderr=out, cwd="/",
            )
        self.wait()
        return process

    def _command(self) -> list[str]:
        return ["setpriv", *self._as, "--pdeathsig=INT", "--"]


class ContainerServer(Server):
    def __init__(self) -> None:
        password = secrets.token_hex(16)
        options = [part for name, value in _FAST.items() for part in ("-c", f"{name}={value}")]
        made = subprocess.run(
            ["docker", "run", "-d", "--rm", "--label=coffer.test=1", "-p", "127.0.0.1::5432", "-e",
             f"POSTGRES_PASSWORD={password}", "--tmpfs=/var/lib/postgresql/data", IMAGE, "postgres", *options],
            check=True, capture_output=True, text=True,
        )
        self._id = made.stdout.strip()
        super().__init__("127.0.0.1", self._port(), "postgres", password)
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        self._docker("rm", "-f", "-v", self._id)

    def _port(self) -> int:
        return int(self._docker("port", self._id, "5432/tcp").splitlines()[0].rsplit(":", 1)[1])

    def _docker(self, *arguments: str) -> str:
        return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def pytest_report_header() -> str:
    return f"postgres: {_choice()[1]}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    server = _started()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def test_database(postgres: Server) -> Iterator[str]:
    """The name of this session's database, migrated."""
    name = f"coffer_test_{secrets.token_hex(4)}"
    postgres.run(f"CREATE DATABASE {name}")
    in_thread(migrate.upgrade(postgres.settings(name).url()))
    yield name
    with contextlib.suppress(OSError, asyncpg.PostgresError):
        postgres.run(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database(postgres: Server, test_database: str) -> Iterator[str]:
    """The same, emptied after the test."""
    yield test_database
    postgres.run(_EMPTY, test_database)


@pytest.fixture
async def db(postgres: Server, empty_database: str) -> AsyncIterator[Database]:
    """Connected as the owner of the tables."""
    database = Database(postgres.settings(empty_database), name="test")
    try:
        yield database
    finally:
        await database.close()


def in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on a loop of its own, whether or not this thread has one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _started() -> Server:
    which, said = _choice()
    if isinstance(which, Path):
        return LocalServer(which)
    if which == "container":
        return ContainerServer()
    if which:
        parts = urlsplit(which)
        return Server(
            parts.hostname or "127.0.0.1", parts.port or 5432, unquote(parts.username or "postgres"),
            unquote(parts.password or ""),
        )
    pytest.fail(f"these tests need PostgreSQL: {said}")


def _choice() -> tuple[str | Path, str]:
    """What to use (nothing, if there is none), and a sentence."""
    if given := os.environ.get("COFFER_TEST_POSTGRES"):
        return given, f"{urlsplit(given).hostname}, from COFFER_TEST_POSTGRES"
    for folder in [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *map(Path, os.get_exec_path())]:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder, f"a local server of {folder}"
    found = subprocess.run(["docker", "image", "inspect", IMAGE], check=False, capture_output=True)
    if found.returncode == 0:
        return "container", f"a container of {IMAGE}"
    return "", f"set COFFER_TEST_POSTGRES, install the package postgresql, or build {IMAGE}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _somebody() -> pwd.struct_passwd:
    """Not root, as whom PostgreSQL refuses to run."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


_EMPTY = """
    DO $$ DECLARE names text; BEGIN
        SELECT string_agg(quote_ident(tablename), ', ') INTO names
        FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version';
        EXECUTE 'TRUNCATE ' || names || ' RESTART IDENTITY CASCADE';
    END $$
"""
