"""MySQL's driver: its container and its health; by way of `mysql_accounts` its users and databases, and of `backup` and
`reloading` what the agent does for those."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import cast

from coffer_datastores.mysql.accounts import MySQLDialect
from coffer_datastores.mysql.backup import Backups
from coffer_datastores.mysql.configuration import CONFIG, files
from coffer_datastores.mysql.reloading import Configurations
from coffer_datastores.mysql.spec import DATASTORE, SOCKETS, UID, VOLUME
from coffer_datastores.mysql_accounts import Accounts
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
        return ContainerSpec(
            image=order.image,
            command=(),
            environment={
                # The image wants some first password for a root of its own: a random one, read from the kernel once,
                # that nobody has seen. `after_first_start` takes that root away.
                "MYSQL_ROOT_PASSWORD_FILE": "/proc/sys/kernel/random/uuid",
                "MYSQL_ROOT_HOST": "localhost",
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
        return await health(cast("MySQLSession", session), size=_SIZE)

    async def after_first_start(self, session: Session) -> None:
        """Without the root that the image made, and whoever has no name or the agent's at another host."""
        for row in await session.fetch(_NOT_OURS, DATASTORE.root_user, AGENT):
            await session.execute(f"DROP USER {literal(row['User'])}@{literal(row['Host'])}")


DRIVER = MySQLDriver()
