"""MariaDB's driver: its container and its health; by way of `mysql_accounts` its users and databases, and of `backup`
and `reloading` what the agent does for those."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import cast

from coffer_datastores.mariadb.accounts import MariaDialect
from coffer_datastores.mariadb.backup import Backups
from coffer_datastores.mariadb.configuration import CONFIG, files
from coffer_datastores.mariadb.reloading import Configurations
from coffer_datastores.mariadb.spec import DATASTORE, SOCKETS, UID, VOLUME
from coffer_datastores.mysql_accounts import Accounts
from coffer_datastores.mysql_session import AGENT, BACKUP_USER, MySQLSession, connect, greets, literal
from coffer_shared.datastore import ContainerSpec, Health, Order, Session

_SIZES_EVERY = 60.0
_SETTINGS = {"max_statement_time": "0", "idle_transaction_timeout": "0", "tx_read_only": "0"}

_FACTS = (
    "SELECT VERSION() AS version, @@skip_networking AS deaf, @@max_connections AS max_connections, "
    "@@read_only AS read_only"
)
_STATUS = (
    "Uptime", "Threads_connected", "Threads_running", "Questions", "Slow_queries", "Com_commit", "Com_rollback",
    "Aborted_clients", "Bytes_received", "Bytes_sent", "Created_tmp_disk_tables", "Innodb_buffer_pool_reads",
    "Innodb_buffer_pool_read_requests", "Innodb_row_lock_waits", "Innodb_deadlocks",
)
_COUNTS = f"SHOW GLOBAL STATUS WHERE Variable_name IN ({', '.join(map(literal, _STATUS))})"
_SIZE = "SELECT COALESCE(SUM(FILE_SIZE), 0) AS size FROM information_schema.INNODB_SYS_TABLESPACES"
_NOT_OURS = (
    "SELECT User, Host FROM mysql.user WHERE is_role = 'N' AND (User = '' OR (User = %s AND Host = 'localhost') "
    "OR (User IN (%s, %s) AND Host <> 'localhost'))"
)


class MariaDriver(Accounts, Backups, Configurations):
    def __init__(self) -> None:
        super().__init__(MariaDialect())

    @property
    def name(self) -> str:
        return DATASTORE.name

    def container(self, order: Order) -> ContainerSpec:
        return ContainerSpec(
            image=order.image,
            command=(),
            environment={
                # The image wants some first password for a root of its own: a random one, read from the kernel once,
                # that nobody has seen. `after_first_start` takes that root away.
                "MARIADB_ROOT_PASSWORD_FILE": "/proc/sys/kernel/random/uuid",
                "MARIADB_ROOT_HOST": "localhost",
            },
            binds=((order.data, VOLUME, "rw"), (order.run, SOCKETS, "rw"), (order.config, CONFIG, "ro")),
            tmpfs=("/tmp",),  # noqa: S108 - the container's own
            uid=UID,
            gid=UID,
            stop_signal="SIGTERM",
            stop_seconds=60,
            files=files(order),
        )

    def session(self, order: Order, *, database: str | None = None) -> AbstractAsyncContextManager[Session]:
        return connect(order, database, _SETTINGS)

    async def health(self, session: Session) -> Health:
        """A query over the socket, and the server's greeting on each address that it should listen on.

        While the image makes a new database, a temporary server answers on the socket; it listens nowhere.
        """
        own = cast("MySQLSession", session)
        facts = (await session.fetch(_FACTS))[0]
        version = str(facts["version"]).split("-", maxsplit=1)[0]
        if facts["deaf"]:
            return Health(ok=False, detail="the database is being initialised", version=version)
        addresses = ("127.0.0.1", *own.order.listen)
        greeted = await asyncio.gather(*(greets(address, own.order.port) for address in addresses))
        deaf = [address for address, heard in zip(addresses, greeted, strict=True) if not heard]
        if deaf:
            return Health(ok=False, detail=f"the server does not listen on {', '.join(deaf)}", version=version)
        counts = await session.fetch(_COUNTS)
        metrics = {
            "mysql_up": 1.0,
            "mysql_global_variables_max_connections": float(facts["max_connections"]),
            "mysql_global_variables_read_only": float(facts["read_only"]),
            "mysql_database_size_bytes": await _size(own),
            **{f"mysql_global_status_{row['Variable_name'].lower()}": float(row["Value"]) for row in counts},
        }
        return Health(ok=True, version=version, metrics=metrics)

    async def after_first_start(self, session: Session) -> None:
        """Without the root that the image made, and whoever has no name or one of Coffer's at another host."""
        for row in await session.fetch(_NOT_OURS, DATASTORE.root_user, AGENT, BACKUP_USER):
            await session.execute(f"DROP USER {literal(row['User'])}@{literal(row['Host'])}")


async def _size(session: MySQLSession) -> float:
    """Looks at every tablespace, so not at each health query."""
    at, size = session.cache.get("size", (0.0, 0.0))
    if time.monotonic() - at > _SIZES_EVERY or not at:
        size = float((await session.fetch(_SIZE))[0]["size"])
        session.cache["size"] = (time.monotonic(), size)
    return size


DRIVER = MariaDriver()
