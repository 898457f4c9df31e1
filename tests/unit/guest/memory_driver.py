"""The driver of a datastore that lives in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from coffer_shared.datastore import ContainerSpec, Database, EngineError, Health, NewUser, Order, Session, User
from coffer_shared.messages import Failure
from unit.guest.fakes import World
from unit.guest.orders import NAME


class MemorySession:
    """Knows no statements: the driver looks into the world instead."""

    async def fetch(self, statement: str, *values: Any) -> Sequence[dict[str, Any]]:
        return []

    async def execute(self, statement: str, *values: Any) -> None:
        pass

    def transaction(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()


class MemoryDriver:
    name = NAME

    def __init__(self, world: World, uid: int) -> None:
        self.world = world
        self._uid = uid

    def container(self, order: Order) -> ContainerSpec:
        binds = ((order.data, "/data", "rw"),)
        return ContainerSpec(order.image, (), {}, binds, (), self._uid, self._uid, "SIGTERM", 10)

    def backup_container(self, order: Order, image: str) -> ContainerSpec:
        return ContainerSpec(image, (), {}, ((order.run, "/run/x", "ro"),), (), self._uid, self._uid, "SIGTERM", 5)

    async def before_backup(self, engine: Any, backup: str) -> None:
        await self.world.call("before_backup")
        self.world.ready_for = [backup]
        await self.world.call("ready_for_backup")

    async def after_backup(self, engine: Any, backup: str) -> None:
        await self.world.call("after_backup")
        async with engine.session():
            self.world.ready_for = [other for other in self.world.ready_for if other != backup]

    def restore_container(self, order: Order, image: str, target: str) -> ContainerSpec:
        return ContainerSpec(image, (), {}, ((target, target, "rw"),), (), self._uid, self._uid, "SIGTERM", 5)

    async def reconfigure(self, engine: Any, order: Order, changed: Collection[str]) -> list[str]:
        """Those that begin with "fixed" wait for a start; "bad" is a value of none."""
        await self.world.call("reconfigure")
        for name in changed:
            if order.settings.get(name) == "bad":
                raise EngineError(Failure.INVALID, f"{name} cannot be bad")
        self.world.settings = dict(order.settings)
        await self.world.call("reconfigured")
        return sorted(name for name in changed if name.startswith("fixed"))

    async def before_snapshot(self, engine: Any) -> None:
        await self.world.call("before_snapshot")

    async def after_adoption(self, engine: Any) -> None:
        async with engine.session():
            self.world.adoptions += 1
        await self.world.call("after_adoption")

    @asynccontextmanager
    async def session(self, order: Order, *, database: str | None = None) -> AsyncIterator[Session]:
        if not self.world.container.running:
            raise EngineError(Failure.NOT_READY, "the server does not answer")
        yield MemorySession()

    async def health(self, session: Session) -> Health:
        await self.world.call("health")
        if self.world.image in self.world.hanging:
            return Health(ok=False, detail="it hangs")
        return Health(ok=True, version="1.0", metrics={"memory_up": 1.0})

    async def after_first_start(self, session: Session) -> None:
        await self.world.call("secure")
        self.world.secured += 1

    async def list_databases(self, engine: Any) -> list[Database]:
        await self.world.call("list_databases")
        return list(self.world.databases.values())

    async def create_databases(self, engine: Any, databases: Sequence[Database]) -> None:
        await self.world.call("create_databases")
        for database in databases:
            if database.name in self.world.databases:
                raise EngineError(Failure.EXISTS, database.name)
        self.world.databases |= {database.name: database for database in databases}
        await self.world.call("created_databases")

    async def drop_database(self, engine: Any, name: str) -> None:
        if self.world.databases.pop(name, None) is None:
            raise EngineError(Failure.NOT_FOUND, name)
        await self.world.call("dropped_database")

    async def list_users(self, engine: Any) -> list[User]:
        return [User(user.name, user.host, user.databases) for user in self.world.users.values()]

    async def create_users(self, engine: Any, users: Sequence[NewUser]) -> None:
        for user in users:
            if user.name in self.world.users:
                raise EngineError(Failure.EXISTS, user.name)
        self.world.users |= {user.name: user for user in users}
        await self.world.call("created_users")

    async def drop_user(self, engine: Any, name: str, host: str) -> None:
        if self.world.users.pop(name, None) is None:
            raise EngineError(Failure.NOT_FOUND, name)
        await self.world.call("dropped_user")

    async def set_passwords(self, engine: Any, users: Sequence[NewUser]) -> None:
        self.world.users |= {user.name: user for user in users}

    async def change_user(
        self, engine: Any, name: str, host: str, *, new_name: str | None, new_host: str | None, password: str | None
    ) -> None:
        if name not in self.world.users:
            raise EngineError(Failure.NOT_FOUND, name)
        user = self.world.users.pop(name)
        self.world.users[new_name or name] = NewUser(new_name or name, password or user.password)
        await self.world.call("changed_user")

    async def grant(self, engine: Any, name: str, host: str, databases: Sequence[str]) -> None:
        await self.world.call("granted")

    async def revoke(self, engine: Any, name: str, host: str, database: str) -> None:
        await self.world.call("revoked")

    async def root_enabled(self, engine: Any) -> bool:
        return bool(self.world.root)

    async def enable_root(self, engine: Any, password: str) -> None:
        self.world.root = password

    async def disable_root(self, engine: Any) -> None:
        self.world.root = ""
