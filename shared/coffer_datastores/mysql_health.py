"""The health of a server of the MySQL family, and what it counts."""

from __future__ import annotations

import asyncio
import time

from coffer_datastores.mysql_session import MySQLSession, greets, literal
from coffer_shared.datastore import Health

_SIZES_EVERY = 60.0
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


async def health(session: MySQLSession, *, size: str) -> Health:
    """A query over the socket, and the server's greeting on each address that it should listen on. `size`: a query for
    the bytes of all tablespaces.

    While the image makes a new database, a temporary server answers on the socket; it listens nowhere.
    """
    facts = (await session.fetch(_FACTS))[0]
    version = str(facts["version"]).split("-", maxsplit=1)[0]
    if facts["deaf"]:
        return Health(ok=False, detail="the database is being initialised", version=version)
    addresses = ("127.0.0.1", *session.order.listen)
    greeted = await asyncio.gather(*(greets(address, session.order.port) for address in addresses))
    deaf = [address for address, heard in zip(addresses, greeted, strict=True) if not heard]
    if deaf:
        return Health(ok=False, detail=f"the server does not listen on {', '.join(deaf)}", version=version)
    counts = await session.fetch(_COUNTS)
    metrics = {
        "mysql_up": 1.0,
        "mysql_global_variables_max_connections": float(facts["max_connections"]),
        "mysql_global_variables_read_only": float(facts["read_only"]),
        "mysql_database_size_bytes": await _size(session, size),
        **{f"mysql_global_status_{row['Variable_name'].lower()}": float(row["Value"]) for row in counts},
    }
    return Health(ok=True, version=version, metrics=metrics)


async def _size(session: MySQLSession, query: str) -> float:
    """Looks at every tablespace, so not at each health query."""
    at, size = session.cache.get("size", (0.0, 0.0))
    if time.monotonic() - at > _SIZES_EVERY or not at:
        size = float((await session.fetch(query))[0]["size"])
        session.cache["size"] = (time.monotonic(), size)
    return size
