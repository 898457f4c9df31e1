"""MySQL's driver: its container and its health; by way of `mysql_accounts` its users and databases, and of `backup` and
`reloading` what the agent does for those."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import cast

from coffer_datastores.mysql.accounts import MySQLDialect
from coffer_datastores.mysql.backup import Backups
from coffer_datastores.mysql.configuration import files
from coffer_datastores.mysql.reloading import Configurations
from coffer_datastores.mysql.spec import DATASTORE
from coffer_datastores.mysql_accounts import Accounts
from coffer_datastores.mysql_containers import of_server
from coffer_datastores.mysql_health import health
from coffer_datastores.mysql_session import AGENT, MySQLSession, connect, literal
from coffer_shared.datastore import ContainerSpec, Health, Order, Session

_SETTINGS = {"max_execution_time": "0", "transaction_read_only": "0"}
_SIZE = "SELECT COALESCE(SUM(FILE_SIZE), 0) AS size FROM information_schema.INNODB_TABLESPACES"
_NOT_OURS = (
    "SELECT User, Host FROM mysql.user WHERE User = '' OR (User = %s AND Host = 'localhost') "
    "OR (User = %s AND Host <> 'localhost')"
)


class MySQLDriver(Accounts, Backups, Configurations):
    def __init__(self) -> None:
        super().__init__(MySQLDialect())

    @property
    def name(self) -> str:
        return DATASTORE.name

    def container(self, order: Order) -> ContainerSpec:
        return of_server(order, files(order), words="MYSQL")

    def session(self, order: Order, *, database: str | None = None) -> AbstractAsyncContextManager[Session]:
        return connect(order, database, _SETTINGS)

    async def health(self, session: Session) -> Health:
        return await health(cast("MySQLSession", session), size=_SIZE)

    async def after_first_start(self, session: Session) -> None:
        """Without the root that the image made, and whoever has no name or the agent's at another host."""
        for row in await session.fetch(_NOT_OURS, DATASTORE.root_user, AGENT):
            await session.execute(f"DROP USER {literal(row['User'])}@{literal(row['Host'])}")


DRIVER = MySQLDriver()
