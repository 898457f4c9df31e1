"""All that a command may touch: volume, firewall, the database container and its health, and the record of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import msgspec

import coffer_datastores
from coffer_guest import still
from coffer_guest.containers import Containers, Progress
from coffer_guest.firewall import Firewall, Rules
from coffer_guest.grants import storage_port
from coffer_guest.health import Monitor
from coffer_guest.jobs import Jobs
from coffer_guest.options import Options
from coffer_guest.state import Prepared, State
from coffer_guest.volume import Volume
from coffer_shared import log
from coffer_shared.backups import Grant
from coffer_shared.datastore import ContainerSpec, Driver, File, Order, Session, Setting
from coffer_shared.errors import GiveUp
from coffer_shared.messages import Engine, Failure

_log = log.get(__name__)

_DOCKER_SECONDS = 60.0
_POLL_SECONDS = 0.1
_MOST_RESTARTS = 3


class Machine:
    def __init__(
        self, options: Options, state: State, containers: Containers, volume: Volume, firewall: Firewall
    ) -> None:
        self.options = options
        self.state = state
        self.containers = containers
        self.volume = volume
        self.firewall = firewall
        self.monitor = Monitor(containers, every=options.health_seconds)
        self.jobs = Jobs(options.jobs_dir)
        self.busy = asyncio.Lock()
        """Held by whatever changes the machine: one command, or coming up after a restart."""
        self.untidy = True
        """There may be leftovers of jobs: see `leftovers`."""
        self.begun_backups: dict[str, str] = {}
        """Operation to backup: the engine was made ready for it, and that was not taken back yet. Read only."""
        self.access_set_at = 0.0
        """When a command last said who may connect, on the monotonic clock."""
        self._instance = ""
        self._prepared: Prepared | None = None
        self._storage: dict[str, int] = {}
        self._writing = asyncio.Lock()

    # --- what is recorded ---

    async def load(self, instance: str) -> None:
        self._instance = instance
        self._prepared = await self.state.prepared()
        self.begun_backups = await self.state.begun_backups()

    async def record(self, prepared: Prepared) -> None:
        """In memory at once, so that two who change parts of it without waiting in between lose nothing.

        Without what is secret in the order: passwords, and a backup's key and grant.
        """
        clean = msgspec.structs.replace(prepared.order, databases=[], users=[], restore=None)
        self._prepared = msgspec.structs.replace(prepared, order=clean)
        await self.state.set_prepared(self._prepared)

    async def set_begun_backup(self, operation: str, backup: str = "") -> None:
        """Before the engine is made ready; without a backup, after that was taken back."""
        others = {known: of for known, of in self.begun_backups.items() if known != operation}
        self.begun_backups = others | ({operation: backup} if backup else {})
        await self.state.set_begun_backups(self.begun_backups)

    @property
    def prepared(self) -> Prepared:
        """GiveUp(not_ready) before the first `prepare`."""
        if self._prepared is None:
            raise GiveUp(Failure.NOT_READY, "there is no database on this machine yet")
        return self._prepared

    @property
    def waiting(self) -> list[str]:
        """Names of settings that act only once the engine is started again."""
        return [] if self._prepared is None else self._prepared.waiting

    @property
    def driver(self) -> Driver:
        try:
            return coffer_datastores.driver(self.prepared.order.datastore)
        except KeyError as error:
            raise GiveUp(Failure.INVALID, f"unknown datastore: {error}") from error

    @property
    def order(self) -> Order:
        return self.order_with(self.prepared.order.settings)

    def order_with(self, settings: Mapping[str, Setting]) -> Order:
        """As it would be with other settings."""
        wanted, options = self.prepared.order, self.options
        return Order(
            instance=self._instance,
            image=wanted.image,
            data=options.engine_data,
            run=options.engine_run,
            config=options.engine_config,
            listen=tuple(wanted.listen),
            port=wanted.port,
            memory_bytes=wanted.memory_bytes,
            vcpus=wanted.vcpus,
            volume_bytes=wanted.volume_bytes,
            settings=settings,
        )

    @property
    def spec(self) -> ContainerSpec:
        return self.driver.container(self.order)

    def session(self, database: str | None = None) -> AbstractAsyncContextManager[Session]:
        """With `copy_still` and `discard`, makes the machine a `coffer_shared.datastore.Engine`."""
        return self.driver.session(self.order, database=database)

    async def copy_still(self, source: str, target: str) -> None:
        await still.copy(self.containers, source, target)

    async def discard(self, directory: str) -> None:
        await still.discard(directory)

    # --- coming up, going down ---

    async def boot(self) -> None:
        """Bring back what was prepared. Nothing is formatted, nothing pulled that is here. Repeatable."""
        await self.apply_firewall()
        if self._prepared is None or not self._prepared.complete:
            return
        if self.monitor.facts.engine is Engine.CRASHED and await self.fall_back():
            _log.warning("the database did not start with its new settings; it is started with the former ones")
            await self.stop_engine()  # Docker starts it again and again, and waits longer each time
        await self.monitor.watch(self.driver, self.order)
        self.monitor.on_purpose = not self._prepared.running
        if self._prepared.running:
            await self.containers.ready(_DOCKER_SECONDS)
            await still.let_go(self.containers)
            await self.start_engine(_nobody_listens)
            self.monitor.starting = False
        else:
            await self.volume.ensure_mounted(self._prepared.order.fs_uuid, may_format=False)

    @property
    def is_down(self) -> bool:
        """It should run and does not: coming up failed, or a command that stopped it did not end well."""
        kept = self._prepared
        down = self.monitor.facts.engine in {Engine.STOPPED, Engine.ABSENT, Engine.CRASHED}
        return kept is not None and kept.complete and kept.running and down

    async def start_engine(self, progress: Progress) -> None:
        """From whatever state to a running container; health is waited for separately.

        The volume comes first, always: without it an engine would make itself a new, empty database.
        """
        spec = self.spec
        await self.volume.ensure_mounted(self.prepared.order.fs_uuid, may_format=False)
        self.monitor.starting = True
        await self.containers.ready(_DOCKER_SECONDS)
        await self.containers.pull(spec.image, progress)
        seen = await self.containers.look()
        if not seen.running:
            # A socket or lock file of a former life may name a process id that another process has now.
            await asyncio.to_thread(_fresh_run_directory, self.order, spec)
        await self.write_files()
        await self.containers.ensure(spec, memory_bytes=self.order.memory_bytes)
        self.monitor.on_purpose = False
        await self.monitor.watch(self.driver, self.order)
        await self.containers.start()
        if not seen.running and self.prepared.waiting:
            await self.record(msgspec.structs.replace(self.prepared, waiting=[]))

    async def write_files(self, settings: Mapping[str, Setting] | None = None) -> None:
        """The engine's configuration as this release has it; what runs may have been started by an older one. With
        other settings than those that are recorded, if some are given."""
        async with self._writing:
            order = self.order if settings is None else self.order_with(settings)
            await asyncio.to_thread(_write_files, order, self.driver.container(order))

    async def note_proven(self) -> None:
        """The engine is healthy: with the settings that it has, unless some of them have not acted yet."""
        kept = self.prepared
        if not kept.waiting and kept.proven != kept.order.settings:
            await self.record(msgspec.structs.replace(kept, proven=kept.order.settings))

    async def fall_back(self) -> bool:
        """To the settings with which the engine is known to start. Whether there are others than it has."""
        kept = self.prepared
        if kept.proven is None or kept.proven == kept.order.settings:
            return False
        order = msgspec.structs.replace(kept.order, settings=kept.proven)
        await self.record(msgspec.structs.replace(kept, order=order, waiting=[]))
        return True

    async def forget_unfinished_engine(self, *, running: bool = False) -> None:
        """A database whose making was cut short, unless it still goes on, or even then if it is `running`. It never
        held anything of anybody."""
        await self.containers.ready(_DOCKER_SECONDS)
        if self.prepared.complete or ((await self.containers.look()).running and not running):
            return
        await self.containers.remove()
        await asyncio.to_thread(shutil.rmtree, self.order.data, ignore_errors=True)

    async def stop_engine(self) -> None:
        self.monitor.on_purpose = True
        self.monitor.starting = False
        await self.containers.stop(self.spec.stop_seconds)
        await self.monitor.check()

    async def stop_for_shutdown(self) -> None:
        """The machine ends, not the wish: the database comes up again with the machine."""
        if self._prepared is not None:
            await self.stop_engine()

    async def wait_healthy(self, tell: Callable[[str], Awaitable[None]] | None = None) -> None:
        """GiveUp(engine) with the engine's last words when it keeps ending. The caller bounds the time.

        `tell` is awaited again and again with what keeps it, in the engine's words.
        """
        try:
            while True:
                facts = await self.monitor.check()
                if facts.engine is Engine.HEALTHY:
                    await self.note_proven()
                    return
                if tell is not None and facts.detail:
                    await tell(facts.detail)
                if facts.engine in {Engine.CRASHED, Engine.ABSENT}:
                    await self._refuse_crash_loop(facts.engine)
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            self.monitor.starting = False

    async def _refuse_crash_loop(self, engine: Engine) -> None:
        seen = await self.containers.look()
        if engine is Engine.ABSENT or seen.restarts >= _MOST_RESTARTS:
            words = await self.containers.last_words()
            raise GiveUp(Failure.ENGINE, f"the database does not stay up (exit code {seen.exit_code}): {words}")

    # --- access ---

    async def allow(self, cidrs: tuple[str, ...]) -> None:
        """The newest desired state; it replaces what `prepare` said, also for the next start of the machine."""
        if self._prepared is None:
            return
        if list(cidrs) != self._prepared.order.allowed_cidrs:
            order = msgspec.structs.replace(self._prepared.order, allowed_cidrs=list(cidrs))
            await self.record(msgspec.structs.replace(self._prepared, order=order))
        await self.apply_firewall()

    async def apply_firewall(self) -> None:
        if self._prepared is None:
            await self.firewall.apply(Rules())
            return
        order = self._prepared.order
        await self.firewall.apply(
            Rules(
                tuple(order.listen),
                order.port,
                tuple(order.allowed_cidrs),
                engine_uid=self.spec.uid,
                gateway=self.options.tenant_gateway,
                storage_port=self._storage_port,
            )
        )

    async def open_storage(self, operation: str, grant: Grant) -> None:
        """For the container of that operation, until `close_storage`. GiveUp if the grant names no port."""
        before = self._storage_port
        self._storage[operation] = storage_port(grant)
        if self._storage_port != before:
            await self.apply_firewall()

    async def close_storage(self, operation: str) -> None:
        if self._storage.pop(operation, None) is not None:
            await self.apply_firewall()

    async def keep_storage_open(self, operations: Iterable[str]) -> None:
        """Before the first `boot`: a container that outlived the agent must not lose its way for a moment."""
        for operation in operations:
            with suppress(GiveUp):
                grant = await self.jobs.of(operation).grant()
                if grant is not None:
                    self._storage[operation] = storage_port(grant)

    @property
    def storage_open_for(self) -> list[str]:
        """Operations."""
        return list(self._storage)

    @property
    def _storage_port(self) -> int:
        """One at a time: there is one object store."""
        return next(reversed(self._storage.values()), 0)

    async def close(self) -> None:
        await self.monitor.close()
        await self.containers.close()


def has_data(directory: str) -> bool:
    """Whether an engine was ever started there. Blocks for a moment."""
    try:
        return any(os.scandir(directory))
    except FileNotFoundError:
        return False


def make_data_directory(order: Order, spec: ContainerSpec) -> None:
    """Only for a database that is new, after the volume is mounted."""
    _make_directory(order.data, spec)


def _fresh_run_directory(order: Order, spec: ContainerSpec) -> None:
    shutil.rmtree(order.run, ignore_errors=True)
    _make_directory(order.run, spec)


def _write_files(order: Order, spec: ContainerSpec) -> None:
    _make_directory(order.config, spec)
    for file in spec.files:
        _write(file, spec.uid, spec.gid)


def _make_directory(path: str, spec: ContainerSpec) -> None:
    Path(path).mkdir(parents=True, exist_ok=True)
    os.chown(path, spec.uid, spec.gid)
    Path(path).chmod(0o700)


def _write(file: File, uid: int, gid: int) -> None:
    """Whole or not at all; untouched when it says that already."""
    path = Path(file.path)
    if path.exists() and path.read_text(encoding="utf-8") == file.content:
        return
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(file.content)
        os.fchown(out.fileno(), uid, gid)
        out.flush()
        os.fsync(out.fileno())
    new.replace(path)


async def _nobody_listens(percent: int, text: str) -> None:
    _log.info("progress", percent=percent, text=text, at=time.time())
