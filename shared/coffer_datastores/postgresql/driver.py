"""PostgreSQL's driver: its container and its health; by way of `accounts` its users and databases, and of `backup`,
`snapshot` and `reloading` what the agent does for those."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import cast

from coffer_datastores.postgresql.accounts import Accounts
from coffer_datastores.postgresql.backup import Backups
from coffer_datastores.postgresql.configuration import files
from coffer_datastores.postgresql.reloading import Configurations
from coffer_datastores.postgresql.session import SUPERUSER, PostgresSession, connect, identifier
from coffer_datastores.postgresql.snapshot import Snapshots
from coffer_datastores.postgresql.spec import DATASTORE, SOCKET, UID
from coffer_shared.datastore import ContainerSpec, Health, Order, Session

_DATA = "/var/lib/postgresql/data"
_CONFIG = "/etc/postgresql"
_INITDB = (
    "--data-checksums --auth-local=peer --auth-host=scram-sha-256 --encoding=UTF8 "
    # The builtin provider sorts the same for ever; a new C library silently reorders text indexes.
    "--locale-provider=builtin --builtin-locale=C.UTF-8 --locale=C.UTF-8"
)
_SIZES_EVERY = 60.0
_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")

_FACTS = """
SELECT current_setting('server_version') AS version, current_setting('listen_addresses') AS listen,
       current_setting('max_connections')::float8 AS max_connections,
       extract(epoch FROM pg_postmaster_start_time())::float8 AS started,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::float8 AS clients,
       (pg_is_in_recovery())::int::float8 AS in_recovery,
       s.*
FROM (SELECT sum(xact_commit)::float8 AS xact_commit, sum(xact_rollback)::float8 AS xact_rollback,
             sum(blks_read)::float8 AS blks_read, sum(blks_hit)::float8 AS blks_hit,
             sum(deadlocks)::float8 AS deadlocks, sum(temp_bytes)::float8 AS temp_bytes
      FROM pg_stat_database) s
"""
_SIZE = "SELECT coalesce(sum(pg_database_size(oid)), 0)::float8 AS size FROM pg_database WHERE datallowconn"


class PostgresDriver(Accounts, Backups, Snapshots, Configurations):
    @property
    def name(self) -> str:
        return DATASTORE.name

    def container(self, order: Order) -> ContainerSpec:
        return ContainerSpec(
            image=order.image,
            command=("-c", f"config_file={_CONFIG}/postgresql.conf"),
            environment={
                "PGDATA": f"{_DATA}/cluster",
                "POSTGRES_INITDB_ARGS": _INITDB,
                # The image wants some first password: a random one, read from the kernel once, that nobody has seen.
                # `after_first_start` takes it away.
                "POSTGRES_PASSWORD_FILE": "/proc/sys/kernel/random/uuid",
            },
            binds=((order.data, _DATA, "rw"), (order.run, SOCKET, "rw"), (order.config, _CONFIG, "ro")),
            tmpfs=("/tmp",),  # noqa: S108 - the container's own
            uid=UID,
            gid=UID,
            stop_signal="SIGINT",
            stop_seconds=60,
            shm_bytes=max(256 * 1024 * 1024, order.memory_bytes // 4),
            files=files(order, _CONFIG),
        )

    def session(self, order: Order, *, database: str | None = None) -> AbstractAsyncContextManager[Session]:
        return connect(order, database)

    async def health(self, session: Session) -> Health:
        """A query over the socket, and the server's greeting on each address that it should listen on.

        While the image makes a new cluster, a temporary server answers on the socket; it listens nowhere.
        """
        own = cast("PostgresSession", session)
        facts = (await session.fetch(_FACTS))[0]
        version = str(facts["version"]).split(" ")[0]
        if not facts["listen"]:
            return Health(ok=False, detail="the database is being initialised", version=version)
        addresses = ("127.0.0.1", *own.order.listen)
        greeted = await asyncio.gather(*(_greets(address, own.order.port) for address in addresses))
        deaf = [address for address, greets in zip(addresses, greeted, strict=True) if not greets]
        if deaf:
            return Health(ok=False, detail=f"the server does not listen on {', '.join(deaf)}", version=version)
        metrics = {
            "pg_up": 1.0,
            "pg_stat_activity_count": facts["clients"],
            "pg_settings_max_connections": facts["max_connections"],
            "pg_postmaster_start_time_seconds": facts["started"],
            "pg_replication_is_replica": facts["in_recovery"],
            "pg_stat_database_xact_commit": facts["xact_commit"],
            "pg_stat_database_xact_rollback": facts["xact_rollback"],
            "pg_stat_database_blks_read": facts["blks_read"],
            "pg_stat_database_blks_hit": facts["blks_hit"],
            "pg_stat_database_deadlocks": facts["deadlocks"],
            "pg_stat_database_temp_bytes": facts["temp_bytes"],
            "pg_database_size_bytes": await _size(own),
        }
        return Health(ok=True, version=version, metrics=metrics)

    async def after_first_start(self, session: Session) -> None:
        await session.execute(f"ALTER ROLE {identifier(SUPERUSER)} PASSWORD NULL")
        # not all of them need be in a restored one: a tenant with root may have dropped what it pleased
        for row in await session.fetch("SELECT datname FROM pg_database WHERE datname IN ('postgres', 'template1')"):
            await session.execute(f"REVOKE ALL ON DATABASE {identifier(row['datname'])} FROM PUBLIC")


async def _size(session: PostgresSession) -> float:
    """Looks at every file of every database, so not at each health query."""
    at, size = session.cache.get("size", (0.0, 0.0))
    if time.monotonic() - at > _SIZES_EVERY or not at:
        size = (await session.fetch(_SIZE))[0]["size"]
        session.cache["size"] = (time.monotonic(), size)
    return size


async def _greets(address: str, port: int) -> bool:
    """Whether a server answers there; asks for TLS and hangs up, which PostgreSQL does not log."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection(address, port)
        writer.write(_SSL_REQUEST)
        return await reader.readexactly(1) in {b"S", b"N"}
    except (OSError, asyncio.IncompleteReadError):
        return False
    finally:
        if writer is not None:
            writer.transport.abort()


DRIVER = PostgresDriver()
