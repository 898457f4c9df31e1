"""What the agent does for a backup of MariaDB, and the containers that do the rest. Their programs are in `tool`.

mariadb-backup copies the files of the running server, which it therefore sees, read-only, and follows the redo log
meanwhile. It comes in over the server's socket as the server's own user, with the rights to look and to stop changes
for a moment at the end, and no others.
"""

from __future__ import annotations

from coffer_datastores.mariadb.configuration import OF_BACKUPS
from coffer_datastores.mysql_accounts import end_sessions
from coffer_datastores.mysql_containers import SOCKETS, VOLUME, of_backup
from coffer_datastores.mysql_session import BACKUP_USER
from coffer_shared.datastore import ContainerSpec, Engine, Order


class Backups:
    """Implements HasBackup."""

    def backup_container(self, order: Order, image: str) -> ContainerSpec:
        return of_backup(image, binds=((order.data, VOLUME, "ro"), (order.run, SOCKETS, "ro")))

    async def before_backup(self, engine: Engine, backup: str) -> None:
        """The account as it should be, also where a tenant with root has changed it."""
        del backup
        async with engine.session() as session:
            for statement in OF_BACKUPS:
                await session.execute(statement)

    async def after_backup(self, engine: Engine, backup: str) -> None:
        """The account stays: nobody but the container can be it."""
        del backup
        async with engine.session() as session:
            await end_sessions(session, user=BACKUP_USER)

    def restore_container(self, order: Order, image: str, target: str) -> ContainerSpec:
        del order
        return of_backup(image, binds=((target, target, "rw"),))
