"""What the agent does for a backup of MariaDB, and the containers that do the rest. Their programs are in `tool`.

mariadb-backup copies the files of the running server, which it therefore sees, read-only, and follows the redo log
meanwhile. It comes in over the server's socket as the server's own user, with the rights to look and to stop changes
for a moment at the end, and no others.
"""

from __future__ import annotations

from coffer_datastores.mariadb.configuration import OF_BACKUPS
from coffer_datastores.mariadb.spec import SOCKETS, UID, VOLUME
from coffer_datastores.mysql_accounts import end_sessions
from coffer_datastores.mysql_session import BACKUP_USER
from coffer_shared.datastore import ContainerSpec, Engine, Order


class Backups:
    """Implements HasBackup."""

    def backup_container(self, order: Order, image: str) -> ContainerSpec:
        return _container(image, binds=((order.data, VOLUME, "ro"), (order.run, SOCKETS, "ro")))

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
        return _container(image, binds=((target, target, "rw"),))


def _container(image: str, *, binds: tuple[tuple[str, str, str], ...]) -> ContainerSpec:
    return ContainerSpec(
        image=image,
        command=(),
        environment={"LC_ALL": "C"},
        binds=binds,
        tmpfs=("/tmp",),  # noqa: S108 - the container's own
        uid=UID,
        gid=UID,
        stop_signal="SIGTERM",
        stop_seconds=5,
    )
