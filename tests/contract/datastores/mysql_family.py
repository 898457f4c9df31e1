"""What differs between the servers of the MySQL family, and what their tests ask of both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pymysql

from coffer_guest.containers import Containers
from coffer_guest.health import Monitor
from coffer_shared.messages import Engine
from contract.datastores.conftest import DOCKER_SOCKET, Running


@dataclass(frozen=True)
class Member:
    coffers: frozenset[str]
    """Accounts of Coffer's own, all at localhost."""
    servers: frozenset[str]
    """Those that the server makes for itself."""
    accounts: str
    """A query for all of them, with how they come in."""
    of_the_socket: str
    """How those do that have no password."""
    client: str
    """The engine's own."""
    chosen: Mapping[str, str]
    """What root may choose for everybody, and would stop the agent."""
    collations: Mapping[str, str]
    """Of a character set where none is said."""
    harm: tuple[str, ...]
    """What root may do to Coffer's accounts."""


_CHOSEN = {
    "sql_mode": "'ANSI,NO_BACKSLASH_ESCAPES'", "sql_safe_updates": "1", "init_connect": "'ROLLBACK AND NOTHING'",
    "sql_select_limit": "0",
}  # fmt: skip
_HARM = (
    "REVOKE ALL PRIVILEGES, GRANT OPTION FROM coffer_agent@localhost",
    "ALTER USER coffer_agent@localhost IDENTIFIED BY 'mine' ACCOUNT LOCK",
)
MEMBERS = {
    "mariadb": Member(
        coffers=frozenset({"coffer_agent", "coffer_backup"}),
        servers=frozenset({"mariadb.sys"}),
        accounts=(
            "SELECT User AS user, Host AS host, JSON_VALUE(Priv, '$.plugin') AS plugin, "
            "COALESCE(JSON_VALUE(Priv, '$.account_locked'), 0) AS locked FROM mysql.global_priv"
        ),
        of_the_socket="unix_socket",
        client="mariadb",
        chosen=_CHOSEN | {"max_statement_time": "0.01", "tx_read_only": "1", "lock_wait_timeout": "0"},
        collations={
            "utf8mb4": "utf8mb4_uca1400_ai_ci", "utf8mb3": "utf8mb3_uca1400_ai_ci", "latin1": "latin1_swedish_ci",
        },
        harm=(*_HARM, "DROP USER coffer_backup@localhost"),
    ),
    "mysql": Member(
        coffers=frozenset({"coffer_agent"}),
        servers=frozenset({"mysql.sys", "mysql.session", "mysql.infoschema"}),
        accounts="SELECT User AS user, Host AS host, plugin, account_locked = 'Y' AS locked FROM mysql.user",
        of_the_socket="auth_socket",
        client="mysql",
        chosen=_CHOSEN | {
            "max_execution_time": "10", "transaction_read_only": "1", "lock_wait_timeout": "1", "autocommit": "0",
        },
        collations={
            "utf8mb4": "utf8mb4_0900_ai_ci", "utf8mb3": "utf8mb3_general_ci", "latin1": "latin1_swedish_ci",
        },
        harm=(*_HARM, "ALTER USER coffer_agent@localhost REQUIRE SSL WITH MAX_USER_CONNECTIONS 1"),
    ),
}  # fmt: skip


async def ask(server: Running, statement: str, *values: Any) -> list[dict[str, Any]]:
    async with server.session() as session:
        return [dict(row) for row in await session.fetch(statement, *values)]


async def users(server: Running, word: str) -> dict[tuple[str, str], tuple[str, ...]]:
    found = await server.driver.list_users(server)
    return {(user.name, user.host): user.databases for user in found if user.name.startswith(word)}


async def can_connect(server: Running, user: str, password: str, database: str) -> bool:
    try:
        async with server.tenant(user, password, database) as tenant:
            return bool(await tenant.fetchval("SELECT 1") == 1)
    except pymysql.MySQLError:
        return False


async def restart(server: Running) -> None:
    containers = Containers(DOCKER_SOCKET, name=server.container)
    monitor = Monitor(containers, every=30)
    try:
        await containers.stop(60)
        await containers.start()
        await monitor.watch(server.driver, server.order)
        async with asyncio.timeout(30):
            while (await monitor.check()).engine is not Engine.HEALTHY:
                await asyncio.sleep(0.1)
    finally:
        await monitor.close()
        await containers.close()
